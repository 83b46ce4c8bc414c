"""Reads what oneDNN and MKL print of their primitives, and finds the operator that each belongs to.

oneDNN (3.x) prints a CSV line an execution: with ONEDNN_VERBOSE_TIMESTAMP=1 its start in UNIX milliseconds is in front,
which shifts the fields, so they are counted from the word "exec". MKL prints name and arguments of a BLAS call and its
time, without a stamp: those lines are attached to operators in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

Kind = Literal["compute", "weight reorder", "layout reorder"]

#: Operators that call a BLAS routine of MKL themselves.
BLAS_OPERATORS: Final = frozenset(
    {
        "aten::addmm",
        "aten::addmm_",
        "aten::mm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::baddbmm_",
        "aten::addbmm",
        "aten::addmv",
        "aten::addmv_",
        "aten::mv",
        "aten::dot",
        "aten::vdot",
        "aten::_slow_conv2d_forward",
        "aten::_slow_conv2d_backward",
        "aten::slow_conv3d_forward",
        "aten::slow_conv_dilated2d",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_addmm_activation",
        "aten::_mkl_linear",
    }
)
_BATCHED: Final = frozenset({"aten::bmm", "aten::baddbmm", "aten::baddbmm_"})
_MKL: Final = re.compile(
    r"MKL_VERBOSE (?P<name>[A-Za-z_]\w*)\((?P<arguments>.*)\) (?P<time>[\d.]+)(?P<unit>ns|us|ms|s)\b"
)
_UNITS: Final = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
_SIZE: Final = re.compile(r"([a-z]+)(\d+)")
_DIMENSIONS: Final = {"GEMM": slice(2, 5), "GEMV": slice(1, 3), "GEMM_BATCH": slice(0, 0), "DOT": slice(0, 1)}


@dataclass(frozen=True, slots=True)
class Primitive:
    """One executed primitive.

    Attributes:
        library: "onednn" or "mkl".
        name: convolution, reorder, matmul, ...; for MKL the routine, in lower case.
        implementation: which code ran it ("jit:avx512_core"); empty where the library does not tell.
        problem: sizes as the library writes them.
        start_unix_ns: None where the line has no stamp.
        layouts: (role, data type, layout) of each tensor.
        sizes: the three sizes of a matrix product, empty where the line does not tell.
    """

    library: Literal["onednn", "mkl"]
    name: str
    implementation: str
    problem: str
    duration_ns: int
    start_unix_ns: int | None = None
    kind: Kind = "compute"
    direction: str = ""
    layouts: tuple[tuple[str, str, str], ...] = ()
    sizes: tuple[int, ...] = ()

    def attributes(self) -> dict[str, Any]:
        """What a span of it carries."""
        told: dict[str, Any] = {"library": self.library, "kind": self.kind, "problem": self.problem}
        if self.implementation:
            told["implementation"] = self.implementation
        if self.direction:
            told["direction"] = self.direction
        if self.layouts:
            told["layouts"] = {role: f"{kind}:{layout}" for role, kind, layout in self.layouts}
        return told


def parse_verbose(lines: Iterable[str]) -> list[Primitive]:
    """The executed primitives in the order of their lines; lines of other kinds are skipped, reorders classified."""
    found = [primitive for line in lines if (primitive := parse_line(line)) is not None]
    return classify_reorders(found)


def parse_line(line: str) -> Primitive | None:
    """The primitive that a line tells of; None for information, creation, or other software's output."""
    text = line.strip()
    if text.startswith("onednn_verbose,"):
        return _onednn(text.split(","))
    match = _MKL.match(text)
    return None if match is None else _mkl(match)


def _onednn(fields: list[str]) -> Primitive | None:
    if "exec" not in fields:
        return None
    at = fields.index("exec")
    head, tail = fields[1:at], fields[at + 1 :]
    if "graph" in head or len(tail) < 7:
        return None
    stamp = next((part for part in head if re.fullmatch(r"\d+\.\d+", part)), None)
    try:
        duration = float(tail[-1])
    except ValueError:
        return None
    return Primitive(
        library="onednn",
        name=tail[1],
        implementation=tail[2],
        direction="" if tail[3] == "undef" else tail[3],
        problem=tail[-2],
        duration_ns=round(duration * 1e6),
        start_unix_ns=None if stamp is None else _exact_ns(stamp),
        kind="layout reorder" if tail[1] == "reorder" else "compute",
        layouts=tuple(layout for part in tail[4].split(" ") if (layout := _layout(part)) is not None),
    )


def _exact_ns(milliseconds: str) -> int:
    """Milliseconds as text in nanoseconds, without the rounding of a float."""
    whole, _, part = milliseconds.partition(".")
    return int(whole) * 1_000_000 + int(part[:6].ljust(6, "0"))


def _layout(descriptor: str) -> tuple[str, str, str] | None:
    """(role, data type, layout) from `wei:f32:a:blocked:Acdb16a::f0`."""
    role, *rest = descriptor.split(":")
    if not rest:
        return None
    layout = rest[rest.index("blocked") + 1] if "blocked" in rest[:-1] else ":".join(rest[1:])
    return role, rest[0], layout


def _mkl(match: re.Match[str]) -> Primitive:
    arguments = match["arguments"].split(",")
    name = match["name"]
    routine = next((key for key in sorted(_DIMENSIONS, key=len, reverse=True) if key in name.upper()), None)
    sizes = arguments[_DIMENSIONS[routine]] if routine else []
    numbers = tuple(int(size) for size in sizes if size.isdigit())
    return Primitive(
        library="mkl",
        name=name.lower(),
        implementation="",
        problem="x".join(map(str, numbers)),
        duration_ns=round(float(match["time"]) * _UNITS[match["unit"]]),
        sizes=numbers,
    )


def classify_reorders(primitives: Sequence[Primitive]) -> list[Primitive]:
    """Reorders whose result is the weights of the next compute primitive become "weight reorder".

    They are told by layout and sizes: the reorder writes the layout in which that primitive reads its weights, and its
    shape is that of the weights in the primitive's problem.
    """
    result = list(primitives)
    following: Primitive | None = None
    for place in range(len(result) - 1, -1, -1):
        one = result[place]
        if one.name != "reorder":
            following = one if one.library == "onednn" else following
        elif following is not None and _is_weight(one, following):
            result[place] = replace(one, kind="weight reorder")
    return result


def _is_weight(reorder: Primitive, reader: Primitive) -> bool:
    written = next((layout for role, _, layout in reorder.layouts if role == "dst"), None)
    read = next((layout for role, _, layout in reader.layouts if role == "wei"), None)
    shape = tuple(int(size) for size in reorder.problem.split("x") if size.isdigit())
    return written is not None and written == read and shape in weight_shapes(reader.problem)


def weight_shapes(problem: str) -> tuple[tuple[int, ...], ...]:
    """Shapes that the weights of a problem may have: `mb1_ic3oc64_ih224oh112kh7...`, `mb1ic64oc10`, `1x64:64x10`."""
    if ":" in problem:
        second = problem.split(":")[1]
        shape = tuple(int(size) for size in second.split("x") if size.isdigit())
        return (shape, shape[::-1])
    sizes = {key: int(value) for key, value in _SIZE.findall(problem.replace("_", " "))}
    if "ic" not in sizes or "oc" not in sizes:
        return ()
    group = sizes.get("g", 1)
    inner = [sizes[key] for key in ("kd", "kh", "kw") if key in sizes] or [
        sizes[key]
        for key in ("id", "ih", "iw")
        if key in sizes  # an inner product over an image
    ]
    front = (sizes["oc"] // group, sizes["ic"] // group)
    swapped = (front[1], front[0])  # a transposed convolution
    grouped = [(group, *pair, *inner) for pair in (front, swapped)]
    return (*grouped, *((*pair, *inner) for pair in (front, swapped))) if group == 1 else tuple(grouped)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator that may call MKL: its interval on the clock of the stamps, and its input shapes where known."""

    name: str
    start_ns: int
    end_ns: int
    shapes: tuple[tuple[int, ...], ...] = ()


def attach_by_order(primitives: Sequence[Primitive], operators: Sequence[Operator]) -> list[int | None]:
    """For each MKL primitive (in the order of all lines) the place of its operator in `operators`; None: not found.

    A line belongs to an operator that was running between the stamped lines around it, not before the operator of the
    line before, and whose sizes are the line's. Where several follow one another the next operator is preferred to one
    more call of the same.
    """
    bounds = _bounds(primitives)
    found: list[int | None] = []
    at = -1
    for place, one in enumerate(primitives):
        if one.library != "mkl":
            continue
        low, high = bounds[place]
        fits = [
            index
            for index in range(max(at, 0), len(operators))
            if operators[index].end_ns >= low and operators[index].start_ns <= high and sizes_fit(one, operators[index])
        ]
        chosen = next((index for index in fits if index > at), None)
        if at in fits and (chosen is None or chosen > at + 1):
            chosen = at
        found.append(chosen)
        at = at if chosen is None else chosen
    return found


def sizes_fit(primitive: Primitive, operator: Operator) -> bool:
    """Whether the sizes of a BLAS call are those of the operator's product; true where either does not tell."""
    if "batch" in primitive.name and operator.name not in _BATCHED:
        return False
    if not primitive.sizes or not operator.shapes:
        return True
    matrices = [shape for shape in operator.shapes if len(shape) >= 2]
    if operator.name.endswith(("conv2d_forward", "conv3d_forward", "conv2d_backward")) or not matrices:
        return True
    left, right = matrices[-2:] if len(matrices) >= 2 else (matrices[-1], matrices[-1])
    wanted = sorted({*left[-2:], *right[-2:]})
    return sorted(set(primitive.sizes)) == wanted or set(primitive.sizes) <= set(wanted)


def _bounds(primitives: Sequence[Primitive]) -> list[tuple[float, float]]:
    """For each line the stamps before and after it."""
    low = float("-inf")
    lows = []
    for one in primitives:
        lows.append(low)
        low = low if one.start_unix_ns is None else float(one.start_unix_ns)
    high = float("inf")
    highs = []
    for one in reversed(primitives):
        highs.append(high)
        high = high if one.start_unix_ns is None else float(one.start_unix_ns)
    return list(zip(lows, reversed(highs), strict=True))
