"""The candidates that can compute a part on this machine: libraries, implementations, layouts, precisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Final, NamedTuple

from stratoscope.errors import MeasurementError
from stratoscope.spec.performance import Candidate, PartKind

#: Library -> the installed package that it is in.
PACKAGES: Final[Mapping[str, str]] = {
    "onnxruntime": "onnxruntime",
    "pytorch": "torch",
    "onednn": "torch",
    "torch.compile": "torch",
    "openvino": "openvino",
}
#: Library -> the module that runs its candidates inside a worker. Libraries of one module share a process.
MODULES: Final[Mapping[str, str]] = {
    "onnxruntime": "stratoscope.measure.parts.library_onnxruntime",
    "pytorch": "stratoscope.measure.parts.library_torch",
    "onednn": "stratoscope.measure.parts.library_torch",
    "torch.compile": "stratoscope.measure.parts.library_torch",
    "openvino": "stratoscope.measure.parts.library_openvino",
}
#: Measured where nothing is chosen. torch.compile is not: it takes seconds to compile each layer.
DEFAULT_LIBRARIES: Final = ("onnxruntime", "pytorch", "onednn", "openvino")
PRECISIONS: Final = ("float32", "bfloat16", "int8")
_FLOATING: Final = ("float32", "bfloat16")


class _Choice(NamedTuple):
    library: str
    implementation: str
    layout: str = "NCHW"
    precisions: tuple[str, ...] = ("float32",)


_LAYER_CHOICES: Final = (
    _Choice("onnxruntime", "graph=extended"),
    _Choice("onnxruntime", "graph=all"),
    _Choice("onnxruntime", "dynamic quantization, graph=all", precisions=("int8",)),
    _Choice("pytorch", "eager", precisions=_FLOATING),
    _Choice("pytorch", "eager", "NHWC", _FLOATING),
    _Choice("onednn", "packed", precisions=_FLOATING),
    _Choice("onednn", "packed", "NHWC", _FLOATING),
    _Choice("torch.compile", "inductor"),
    _Choice("openvino", "compiled", precisions=_FLOATING),
)
#: Executed nodes are run as they are: they are what an optimiser made.
_EXECUTED_CHOICES: Final = (_Choice("onnxruntime", "graph=off", "opaque"),)


def default_candidates(
    kind: PartKind = "layer", libraries: Sequence[str] | None = None, precisions: Sequence[str] = ("float32",)
) -> list[Candidate]:
    """The candidates for parts of `kind` with these libraries (None: those of DEFAULT_LIBRARIES that are installed).

    Raises:
        MeasurementError: a library or precision is not known, or a library that was asked for is not installed.
    """
    unknown = [name for name in libraries or () if name not in PACKAGES]
    if unknown:
        raise MeasurementError(f"no library is called {unknown[0]!r}", hint=f"there are {', '.join(PACKAGES)}")
    wrong = [name for name in precisions if name not in PRECISIONS]
    if wrong:
        raise MeasurementError(f"no candidate computes in {wrong[0]!r}", hint=f"there are {', '.join(PRECISIONS)}")
    missing = [name for name in libraries or () if find_spec(PACKAGES[name]) is None]
    if missing:
        raise MeasurementError(f"{missing[0]} needs {PACKAGES[missing[0]]}, which is not installed")
    chosen = libraries or [name for name in DEFAULT_LIBRARIES if find_spec(PACKAGES[name]) is not None]
    choices = _EXECUTED_CHOICES if kind == "executed" else _LAYER_CHOICES
    return [
        Candidate(
            library=choice.library,
            implementation=choice.implementation,
            layout=choice.layout,
            precision=precision,
            version=metadata.version(PACKAGES[choice.library]),
        )
        for choice in choices
        if choice.library in chosen
        for precision in choice.precisions
        if precision in precisions
    ]
