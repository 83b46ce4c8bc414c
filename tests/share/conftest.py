"""Small models to prepare, and a store of their own for every test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.share.library import Library
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec

Build = Callable[..., LoadableModel]


@pytest.fixture(autouse=True)
def share_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of this test, which clients and children find too; its path is short enough for a socket."""
    root = tmp_path / "s"
    monkeypatch.setenv("STRATOSCOPE_SHARE", str(root))
    return root


@pytest.fixture
def library(share_root: Path) -> Library:
    return Library.open(share_root)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(nodes, inputs, outputs, weights, name=...)`: a model file; inputs are (name, shape with free "B")."""

    def make(
        nodes: Sequence[onnx.NodeProto],
        inputs: dict[str, list[int | str]],
        outputs: Sequence[str],
        weights: dict[str, np.ndarray],
        name: str = "small",
        *,
        domains: Sequence[tuple[str, int]] = (),
        batch: int = 3,
    ) -> LoadableModel:
        graph = helper.make_graph(
            list(nodes),
            name,
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in outputs],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(*domain) for domain in domains)]
        path = tmp_path / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
        specs = []
        for key, shape in inputs.items():
            bound = tuple(batch if isinstance(size, str) else size for size in shape)
            specs.append(TensorSpec(name=key, element_type="float32", shape=bound))
        return LoadableModel(ModelManifest(id=name, inputs=tuple(specs)), path)

    return make


def matrices(count: int, width: int, seed: int) -> dict[str, np.ndarray]:
    stream = np.random.default_rng(seed)
    scale = np.float32((2 / width) ** 0.5)
    return {f"w{n}": stream.standard_normal((width, width), dtype=np.float32) * scale for n in range(count)}


@pytest.fixture
def chain(build: Build) -> Callable[..., LoadableModel]:
    """`chain(name, seed, layers, width)`: MatMul and Relu, `layers` times."""

    def make(name: str = "chain", seed: int = 0, layers: int = 3, width: int = 256) -> LoadableModel:
        nodes, source = [], "x"
        for n in range(layers):
            nodes += [
                helper.make_node("MatMul", [source, f"w{n}"], [f"h{n}"]),
                helper.make_node("Relu", [f"h{n}"], [f"r{n}"]),
            ]
            source = f"r{n}"
        return build(nodes, {"x": ["B", width]}, [source], matrices(layers, width, seed), name)

    return make
