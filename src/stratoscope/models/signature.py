"""The inputs and outputs of an ONNX graph, and the binding of their free dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stratoscope.errors import ModelError
from stratoscope.spec.model import ModelManifest, TensorSpec

if TYPE_CHECKING:
    import onnx

Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def read_signature(model: onnx.ModelProto) -> Signature:
    """(inputs, outputs) of the graph; weights listed among the inputs (IR version 3) are not inputs.

    A free dimension keeps its name; one without a name is called `<tensor>.<axis>`. Raises ModelError for an input or
    output that is not a tensor, or whose rank is unknown.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in weights)
    return inputs, tuple(_tensor(value, output=True) for value in model.graph.output)


def batch_symbols(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """Names of the batch dimension: dimension 0 of every input, free in all; empty where the graph fixes the batch.

    Exporters that give free dimensions no name leave one symbol an input; those count as the same dimension.
    """
    first = [spec.shape[0] if spec.shape else 0 for spec in inputs]
    free = {dim for dim in first if isinstance(dim, str)}
    named = free - {f"{spec.name}.0" for spec in inputs}
    return frozenset(free) if len(named) <= 1 and all(isinstance(dim, str) for dim in first) else frozenset()


def bind(
    manifest: ModelManifest,
    *,
    batch_size: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    defaults: Mapping[str, int] | None = None,
) -> tuple[ModelManifest, int | None]:
    """The manifest with integer input shapes, and the batch axis (None where the graph fixes the batch).

    `shapes` binds the free dimensions of an input, `batch_size` the batch; a dimension shared by inputs is bound for
    all of them. What nobody binds: the batch is 1, others take `defaults`. Outputs keep their free dimensions' names.

    Raises:
        ModelError: an unknown input, a wrong rank, a size that contradicts the graph or another option, or a free
            dimension without a value; names the inputs with their shapes.
    """
    batch = batch_symbols(manifest.inputs)
    sizes: dict[str, int] = {}
    for name, shape in (shapes or {}).items():
        for dim, size in zip(_spec(manifest, name, shape).shape, shape, strict=True):
            _bind_dimension(manifest, name, dim, size, sizes)
    if batch_size is not None:
        _bind_batch(manifest, batch, batch_size, sizes)
    sizes = {**(defaults or {}), **sizes}
    given = next((sizes[symbol] for symbol in sorted(batch) if symbol in sizes), 1)
    for spec in manifest.inputs:
        leading = spec.shape[0] if spec.shape else 0
        if isinstance(leading, str) and (leading in batch or len(spec.shape) > 1):
            sizes.setdefault(leading, given)
    missing = sorted({d for spec in manifest.inputs for d in spec.shape if isinstance(d, str) and d not in sizes})
    if missing:
        raise ModelError(
            f"model {manifest.id!r} has free dimensions without a value: {', '.join(missing)}; {_inputs(manifest)}",
            hint="give the input a shape, for example --shape " + _example(manifest),
        )
    inputs = tuple(
        spec.model_copy(update={"shape": tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)})
        for spec in manifest.inputs
    )
    return manifest.model_copy(update={"inputs": inputs}), 0 if batch else None


def _bind_batch(manifest: ModelManifest, batch: frozenset[str], batch_size: int, sizes: dict[str, int]) -> None:
    if batch_size < 1:
        raise ModelError(f"batch size {batch_size} for model {manifest.id!r} is not positive")
    if not batch:
        fixed = {spec.shape[0] for spec in manifest.inputs if spec.shape}
        if fixed == {batch_size}:
            return
        raise ModelError(
            f"the graph of {manifest.id!r} has no free batch dimension: it cannot run at batch size {batch_size}; "
            f"{_inputs(manifest)}",
            hint="export the model with a free (dynamic) dimension 0 on every input",
        )
    for spec in manifest.inputs:
        _bind_dimension(manifest, spec.name, spec.shape[0], batch_size, sizes)


def _bind_dimension(manifest: ModelManifest, name: str, dim: int | str, size: int, sizes: dict[str, int]) -> None:
    if size < 1:
        raise ModelError(f"size {size} for input {name!r} of {manifest.id!r} is not positive; {_inputs(manifest)}")
    known = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
    if known != size:
        what = f"dimension {dim!r}, already {known}," if isinstance(dim, str) else f"a dimension fixed at {dim}"
        raise ModelError(f"size {size} for {what} of input {name!r} of {manifest.id!r}; {_inputs(manifest)}")


def _spec(manifest: ModelManifest, name: str, shape: Sequence[int]) -> TensorSpec:
    for spec in manifest.inputs:
        if spec.name == name:
            if len(spec.shape) != len(shape):
                raise ModelError(
                    f"shape {_text(shape)} for input {name!r} of {manifest.id!r} has {len(shape)} dimensions, "
                    f"not {len(spec.shape)}; {_inputs(manifest)}"
                )
            return spec
    raise ModelError(f"model {manifest.id!r} has no input {name!r}; {_inputs(manifest)}")


def _tensor(value: onnx.ValueInfoProto, *, output: bool = False) -> TensorSpec:
    import onnx

    kind = "output" if output else "input"
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{kind} {value.name!r} is a {value.type.WhichOneof('value')}; only tensors can be fed")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") and not output:
        raise ModelError(f"input {value.name!r} has no declared rank", hint="export the model with input shapes")
    return TensorSpec(
        name=value.name,
        element_type=_element_type(onnx, tensor.elem_type),
        shape=tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{value.name}.{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        ),
    )


def _element_type(onnx_module: object, code: int) -> str:
    import onnx

    if code == onnx.TensorProto.BFLOAT16:
        return "bfloat16"
    return "str" if code == onnx.TensorProto.STRING else str(onnx.helper.tensor_dtype_to_np_dtype(code).name)


def _inputs(manifest: ModelManifest) -> str:
    listed = ", ".join(f"{spec.name}={_text(spec.shape)}" for spec in manifest.inputs)
    return f"its inputs are {listed}" if listed else "it has no inputs"


def _example(manifest: ModelManifest) -> str:
    spec = next(s for s in manifest.inputs if any(isinstance(d, str) for d in s.shape))
    return f"{spec.name}=" + ",".join(str(d) if isinstance(d, int) else "1" for d in spec.shape)


def _text(shape: Sequence[int | str]) -> str:
    return "[" + ",".join(str(dim) for dim in shape) + "]"
