"""Turns ONNX Runtime's errors into one clear line: what, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from stratoscope.errors import BackendError


class _Rule(NamedTuple):
    """A pattern in the runtime's message, and the line that replaces it; both texts may use the pattern's groups."""

    pattern: re.Pattern[str]
    message: str
    hint: str


def _rule(pattern: str, message: str, hint: str) -> _Rule:
    return _Rule(re.compile(pattern, re.DOTALL), message, hint)


_OTHER_ENGINE = "use another back end, or a release of ONNX Runtime that has it"

#: In order; the first that matches speaks.
_RULES: Final = (
    _rule(
        r'In Node, \("[^"]*", (?P<op>[^,]+), "(?P<domain>[^"]*)"'
        r".*No Op registered for \S+ with domain_version of (?P<v>\d+)",
        "operator {op} of domain {domain} is unknown in opset {v}",
        _OTHER_ENGINE,
    ),
    _rule(
        r"(?:Fatal error: )(?P<domain>[\w.\-]*):(?P<op>\w+)\(-?\d+\) is not a registered function/op",
        "operator {op} of domain {domain} is not supported",
        "it needs its custom-operator library, or another back end",
    ),
    _rule(
        r"Could not find an implementation for (?P<op>\w+)\((?P<v>\d+)\) node with name '(?P<node>[^']*)'",
        "operator {op} (version {v}, node {node!r}) has no kernel for its element types on the chosen providers",
        "convert the node to another type, or choose another provider",
    ),
    _rule(
        r"Failed to allocate memory for requested buffer of size (?P<size>\d+)",
        "out of memory: a buffer of {size} bytes was refused",
        "use a smaller batch or a machine with more memory",
    ),
    _rule(r"bad_alloc|bad allocation|[Oo]ut of memory", "out of memory", "use a smaller batch, or more memory"),
    _rule(r"NO_SUCHFILE|doesn't exist$", "there is no such file", "check the path"),
    _rule(
        r"External data path escapes model directory\. External data path: \"(?P<path>[^\"]*)\"",
        "its external data {path!r} lies outside of the model's folder",
        "such a model is not loaded; keep weights beside the graph",
    ),
    _rule(
        r"External data path does not exist: \"(?P<path>[^\"]*)\"",
        "its external data {path!r} is missing",
        "put the file beside the graph",
    ),
    _rule(r"INVALID_PROTOBUF|Protobuf parsing failed", "it is truncated or no ONNX file", "fetch or export it again"),
    _rule(r"No graph was found in the protobuf", "it holds no graph", "fetch or export it again"),
    _rule(
        r"Unsupported model IR version: (?P<v>\d+), max supported IR version: (?P<max>\d+)",
        "its IR version {v} is newer than what this ONNX Runtime reads (up to {max})",
        "upgrade onnxruntime, or export the model for an older IR version",
    ),
    _rule(
        r"Opset (?P<v>\d+) is under development.*?(?:domain (?P<domain>[\w.]+) is till opset (?P<max>\d+))",
        "its opset {v} of domain {domain} is newer than what this ONNX Runtime supports (up to {max})",
        "upgrade onnxruntime, or export the model for an older opset",
    ),
    _rule(
        r"Got invalid dimensions for input: (?P<name>\S+).*Got: (?P<got>\d+) Expected: (?P<want>\d+)",
        "input {name!r} has a dimension of {got} where {want} is expected",
        "give the input the model's shape",
    ),
    _rule(
        r"Non-zero status code returned while running (?P<op>\S+) node\. Name:'(?P<node>[^']*)'"
        r" Status Message: (?P<why>.*)",
        "operator {op} (node {node!r}) fails: {why}",
        "check that the inputs make sense to the model",
    ),
)


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Whatever ONNX Runtime raises inside becomes a BackendError that starts with `what`."""
    try:
        yield
    except runtime_errors() as error:
        raise backend_error(what, error) from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """All that the runtime's binding raises; its classes share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as binding

    own = [kind for kind in vars(binding).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def backend_error(what: str, error: Exception) -> BackendError:
    """The one clear line for `error`: by the rules above, else its first line without codes and source positions."""
    text = str(error)
    if isinstance(error, MemoryError):
        return BackendError(f"{what}: out of memory", hint="use a smaller batch, or more memory")
    for rule in _RULES:
        match = rule.pattern.search(text)
        if match:
            parts = {key: _plain(value or "") for key, value in match.groupdict().items()}
            if "domain" in parts:
                parts["domain"] = parts["domain"] or "ai.onnx"
            return BackendError(f"{what}: {_format(rule.message, parts)}", hint=rule.hint)
    return BackendError(f"{what}: {_plain(text) or type(error).__name__}")


def _format(message: str, parts: dict[str, str]) -> str:
    return message.format(**parts)


def _plain(text: str) -> str:
    """One line without the runtime's error code, its C++ source position and function signature."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+\.(?:h|cc|cpp):\d+ .*\) (?=\S)", "", text, count=1)
    return " ".join(text.split()).rstrip(" .")
