"""Linear layers with packed weights compute what torch.nn.Linear computes, and only such layers are replaced."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from stratoscope.backends.pytorch.onnx_node import WithConstants  # noqa: E402
from stratoscope.graph.signature import slug  # noqa: E402
from stratoscope.improve.torch_modules import REPLACEMENTS, PackedLinear, linear_layers  # noqa: E402
from stratoscope.measure.parts import layer_parts  # noqa: E402
from stratoscope.spec.model import LoadableModel, ModelManifest  # noqa: E402
from stratoscope.spec.options import BackendOptions  # noqa: E402
from stratoscope.spec.record import LayerRow  # noqa: E402
from stratoscope.stats.quantity import Quantity  # noqa: E402

pytestmark = pytest.mark.torch
#: float32 sums of 768 products in another order.
TOLERANCE = 1e-5


def relative_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96), (7, 96), (2, 5, 96), (2, 3, 4, 96)])
def test_outputs_equal_those_of_the_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 33, bias=bias)
    packed = PackedLinear(linear.weight, linear.bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        expected, found = linear(x), packed(x)
    assert found.shape == expected.shape
    assert relative_error(expected, found) < TOLERANCE


def test_weights_packed_for_one_number_of_rows_serve_others_too() -> None:
    torch.manual_seed(1)
    linear = torch.nn.Linear(64, 48)
    packed = PackedLinear(linear.weight, linear.bias)
    with torch.inference_mode():
        for rows in (1, 128, 3):
            x = torch.randn(rows, 64)
            assert relative_error(linear(x), packed(x)) < TOLERANCE


def test_a_copy_made_before_the_first_call_packs_its_own_weights() -> None:
    torch.manual_seed(2)
    linear = torch.nn.Linear(16, 8)
    packed = PackedLinear(linear.weight, linear.bias)
    twin = copy.deepcopy(packed)
    with torch.inference_mode():
        twin.weight.mul_(2)
        x = torch.randn(4, 16)
        plain = packed(x) - packed.bias
        assert relative_error(2 * plain, twin(x) - twin.bias) < TOLERANCE


def test_only_float32_linear_layers_are_replaced() -> None:
    replace = REPLACEMENTS["packed-linear"]
    assert isinstance(replace(torch.nn.Linear(4, 4)), PackedLinear)
    assert replace(torch.nn.Linear(4, 4).to(torch.bfloat16)) is None
    assert replace(torch.nn.Conv2d(1, 1, 1)) is None


def test_a_product_with_a_stored_matrix_is_a_linear_layer_too() -> None:
    """Transformers come from ONNX as MatMul and Add."""
    torch.manual_seed(3)
    matrix = torch.randn(96, 33)
    product = WithConstants(torch.matmul, {1: matrix})
    packed = REPLACEMENTS["packed-linear"](product)
    assert isinstance(packed, PackedLinear)
    x = torch.randn(2, 5, 96)
    with torch.inference_mode():
        assert relative_error(product(x), packed(x)) < TOLERANCE
    assert REPLACEMENTS["packed-linear"](WithConstants(torch.matmul, {0: matrix})) is None
    assert REPLACEMENTS["packed-linear"](WithConstants(torch.matmul, {1: torch.randn(3, 4, 5)})) is None
    assert REPLACEMENTS["packed-linear"](WithConstants(torch.add, {1: matrix})) is None


def test_linear_modules_become_products_to_benchmark_by_their_names() -> None:
    """A module's profile tells names and shapes of outputs: [2, 5, 33] are ten rows."""
    module = torch.nn.Sequential(torch.nn.Linear(96, 33), torch.nn.ReLU(), torch.nn.Linear(33, 7, bias=False))
    model = LoadableModel(ModelManifest(id="two"), module=module)
    none = Quantity.unavailable("s", "not measured")
    rows = [
        LayerRow(
            index=place, name=name, op=op, output_shape=shape, time=none,
            flops=none, bytes=none, parameters=none, allocated=none,
        )
        for place, (name, op, shape) in enumerate(
            [("0", "Linear", (2, 5, 33)), ("1", "ReLU", (2, 5, 33)), ("2", "Linear", (2, 5, 7))]
        )
    ]  # fmt: skip
    graph, digests = linear_layers(model, BackendOptions(threads=1), rows)
    assert set(digests) == {0, 2}
    assert [slug(layer) for layer in graph.layers] == ["gemm_10x96x33_f32", "gemm_10x33x7_f32"]
    assert [len(layer.inputs) for layer in graph.layers] == [3, 2]
    parts = layer_parts(graph)
    assert [one.part.digest for one in parts] == list(digests.values())
    assert all(one.problem is None for one in parts)
