"""Reads ONNX files safely: nothing outside the model's folder, nothing larger than what is really stored."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from stratoscope.errors import ModelError
from stratoscope.graph.element_types import stored_bytes, type_name
from stratoscope.graph.wire import MalformedMessage, skeleton

_OTHER_FORMATS: Final = {
    ".ort": "ONNX Runtime's own format",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".pkl": "a pickle",
    ".safetensors": "a safetensors file",
    ".tflite": "a TensorFlow Lite file",
    ".h5": "a Keras file",
    ".keras": "a Keras file",
    ".mlmodel": "a Core ML file",
    ".xml": "an OpenVINO file",
    ".engine": "a TensorRT engine",
    ".gguf": "a GGUF file",
}
_CHUNK_BYTES: Final = 1 << 20
_HINT = "give a model in the ONNX format"


def load_onnx(path: Path | str, *, weights: bool = False) -> ModelProto:
    """The model in an ONNX file, after its claims were checked against what is stored.

    Without `weights`, large tensors stay in the file: they come as external data that refers to their place (in the
    model's own file where they are embedded), which is what reading a graph needs. With `weights` all data is loaded.

    Raises ModelError, one line, where the file is missing, a folder, empty, cut off, not ONNX, or newer than the
    installed `onnx` package; where external data is missing, too short, or outside the model's folder; and where a
    tensor claims another size than its data has.
    """
    path = Path(path)
    _check_file(path)
    model = _parse(path, weights=weights)
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise ModelError(f"{path} is not an ONNX model: it holds no graph", hint=_HINT)
    if not model.opset_import:
        raise ModelError(f"{path} is not a complete ONNX model: it names no operator set", hint=_HINT)
    _check_versions(model, path)
    for tensor in tensors_of(model):
        _check_tensor(tensor, path)
    if weights:
        for tensor in tensors_of(model):
            take_in_data(tensor, path.parent)
    return model


def take_in_data(tensor: TensorProto, folder: Path) -> None:
    """Loads the external data of a tensor into it, from a model in `folder` that `load_onnx` has checked.

    onnx's own loader refuses links inside the folder, which model caches make.
    """
    entries = _external(tensor)
    if not entries:
        return
    size = stored_bytes(type_name(tensor.data_type), math.prod(tensor.dims))
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset", "0")))
        tensor.raw_data = file.read(int(entries.get("length", size if size is not None else -1)))
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def model_digest(path: Path | str) -> str:
    """`sha256:` and the hex digest of what the model is: its file, and its external data files if it has any.

    A model in one file has the digest of that file, as `sha256sum` prints it. Otherwise it is the sha256 of the lines
    `<sha256>  <name>` of the model's file (as `model`) and of each data file, in the order of their names. Raises
    ModelError as `load_onnx` does.
    """
    path = Path(path)
    model = load_onnx(path)
    own = _sha256(path)
    files = {
        location: path.parent / location
        for tensor in tensors_of(model)
        if (location := _external(tensor).get("location")) and not _is_same_file(path.parent / location, path)
    }
    if not files:
        return f"sha256:{own}"
    lines = [f"{own}  model", *(f"{_sha256(file)}  {name}" for name, file in sorted(files.items()))]
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def model_files(path: Path | str) -> list[Path]:
    """The model's file, and the files of its external data by name; raises ModelError as `load_onnx` does."""
    path = Path(path)
    names = {_external(tensor).get("location") for tensor in tensors_of(load_onnx(path))}
    others = (path.parent / name for name in sorted(name for name in names if name))
    return [path, *(file for file in others if not _is_same_file(file, path))]


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that the model stores: initializers and attributes, also of subgraphs and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.TENSORS:
                yield from attribute.tensors
            elif attribute.type == AttributeProto.GRAPH:
                yield from _graph_tensors(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for graph in attribute.graphs:
                    yield from _graph_tensors(graph)


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder, not a model file", hint="name the .onnx file in it")
        if not path.is_file():
            raise ModelError(f"there is no model file {path}", hint="check the path")
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error
    other = _OTHER_FORMATS.get(path.suffix.lower())
    if other:
        raise ModelError(f"{path} is {other}, not an ONNX model", hint="export the model to ONNX")
    if size == 0:
        raise ModelError(f"{path} is empty", hint=_HINT)


def _parse(path: Path, *, weights: bool) -> ModelProto:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # The skeleton is made even where it is not used: it says where a file is cut off.
            content = skeleton(data, path.name)
            if weights:
                content = data[:]
        return ModelProto.FromString(content)
    except MalformedMessage as error:
        raise ModelError(f"{path} is cut off or not an ONNX model: {error}", hint=_HINT) from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model: its protobuf message does not parse", hint=_HINT) from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _check_versions(model: ModelProto, path: Path) -> None:
    hint = "install a newer onnx package, or export the model for an older version"
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path} has ONNX IR version {model.ir_version}; onnx {onnx.__version__} reads up to {onnx.IR_VERSION}",
            hint=hint,
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise ModelError(
                f"{path} uses ONNX operator set {opset.version}; onnx {onnx.__version__} knows 1 to {newest}", hint=hint
            )


def _external(tensor: TensorProto) -> dict[str, str]:
    if tensor.data_location != TensorProto.EXTERNAL:
        return {}
    return {entry.key: entry.value for entry in tensor.external_data}


def _check_tensor(tensor: TensorProto, path: Path) -> None:
    what = f"tensor {tensor.name!r} of {path}" if tensor.name else f"a constant of {path}"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{what} has the negative dimension {min(tensor.dims)}", hint="export the model again")
    elements = math.prod(tensor.dims)
    name = type_name(tensor.data_type)
    if name is None:
        raise ModelError(f"{what} has the unknown element type {tensor.data_type}", hint="install a newer onnx package")
    claimed = stored_bytes(name, elements)
    if tensor.data_location == TensorProto.EXTERNAL:
        stored: int | None = _check_external(tensor, what, path, claimed)
    elif tensor.HasField("raw_data"):
        stored = len(tensor.raw_data)
    else:
        claimed, stored = _typed_entries(tensor, name, elements)
    if stored != claimed:
        raise ModelError(
            f"{what} claims shape {list(tensor.dims)} of {name}, {claimed} bytes or entries, but stores {stored}",
            hint="the file is damaged: export the model again",
        )


def _typed_entries(tensor: TensorProto, name: str, elements: int) -> tuple[int, int]:
    """How many entries the typed data fields must have, and how many they have."""
    if name == "string":
        return elements, len(tensor.string_data)
    if name in ("float32", "complex64"):
        return elements * (2 if name == "complex64" else 1), len(tensor.float_data)
    if name in ("float64", "complex128"):
        return elements * (2 if name == "complex128" else 1), len(tensor.double_data)
    if name == "int64":
        return elements, len(tensor.int64_data)
    if name in ("uint32", "uint64"):
        return elements, len(tensor.uint64_data)
    packed = name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn")  # an entry holds one byte of them
    return (stored_bytes(name, elements) or 0) if packed else elements, len(tensor.int32_data)


def _check_external(tensor: TensorProto, what: str, path: Path, claimed: int | None) -> int:
    """The bytes that the external data of a tensor has; raises ModelError where its file may not or cannot be read."""
    entries = _external(tensor)
    location = entries.get("location", "")
    file = _inside(path.parent, location, what)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise ModelError(f"{what} has an offset or length that is no number", hint="export the model again") from error
    if not file.is_file():
        raise ModelError(
            f"{what} has its data in {location!r}, which is not in {path.parent}",
            hint="copy the external data file beside the model",
        )
    size = file.stat().st_size
    length = length if length is not None else claimed if claimed is not None else size - offset
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{what} has its data at bytes {offset} to {offset + length} of {location!r}, which has {size} bytes",
            hint="the data file is cut off or belongs to another model: copy it again",
        )
    return length


def _inside(folder: Path, location: str, what: str) -> Path:
    """The file that `location` names, if it is in `folder`."""
    windows = PureWindowsPath(location)  # also splits at /, so it knows the absolute paths and .. of both systems
    escapes = not location or "\0" in location or windows.drive or windows.root or ".." in windows.parts
    if not escapes:
        file = folder / location
        try:
            escapes = not file.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # a loop of links
            escapes = True
        if not escapes:
            return file
    raise ModelError(
        f"{what} has its data in {location!r}, outside the model's folder",
        hint="only files in the folder of the model are read: copy the data there and name it by its file name",
    )


def _is_same_file(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
