"""The work of a call of oneDNN or MKL, from the sizes that the library prints: operations and compulsory traffic.

Conventions are those of `graph/work.py`: a multiply-add is two operations, every tap of a window counts, and each
tensor is read or written once, in its own type and without the padding of blocked layouts. Where a library reads what
it writes (a matrix product that adds to its result, a fused sum) that read is not counted, since it does not tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

#: oneDNN's names of types: NumPy's name, and bytes.
_TYPES: Final[Mapping[str, tuple[str, int]]] = {
    "f64": ("float64", 8),
    "f32": ("float32", 4),
    "f16": ("float16", 2),
    "bf16": ("bfloat16", 2),
    "s32": ("int32", 4),
    "s8": ("int8", 1),
    "u8": ("int8", 1),
}
_SIZE: Final = re.compile(r"([a-z]+)(\d+)")
_SHAPES: Final = re.compile(r"\d+(?:x\d+)*(?::\d+(?:x\d+)*)*")
_BLAS: Final = re.compile(r"(?:cblas_)?([sd])(gemm|gemv|dot)_?(?:64_?)?$")
_ROLES: Final = ("src", "wei", "bia", "dst")
#: What each direction of a convolution writes; it reads the others. Without bias, which is read forward only.
_WRITES: Final = {"backward_data": "src", "backward_weights": "wei"}


class PrimitiveWork(NamedTuple):
    """Operations by type, and bytes read and written."""

    operations: dict[str, float]
    read_bytes: float
    written_bytes: float


def primitive_work(name: str, told: Mapping[str, Any]) -> PrimitiveWork | None:
    """The work of the call `name` with attributes `told`; None where its kind is not known or its sizes are not told.

    Known: convolutions (all directions), deconvolutions, inner products, matrix products and reorders of oneDNN, and
    GEMM, GEMV and dot products of MKL.
    """
    problem = told.get("problem")
    if not isinstance(problem, str) or not problem or len(problem) > 1000:
        return None
    if told.get("library") == "mkl":
        return _blas(name, problem)
    kinds = _types(told)
    if not {"src", "dst"} <= kinds.keys():
        return None
    if name == "reorder" and _SHAPES.fullmatch(problem) and ":" not in problem:
        count = float(math.prod(map(int, problem.split("x"))))
        return PrimitiveWork({}, count * kinds["src"][1], count * kinds["dst"][1])
    if name == "matmul" and _SHAPES.fullmatch(problem):
        return _matmul(problem, kinds)
    if name in ("convolution", "deconvolution", "inner_product"):
        return _windowed(name, problem, kinds, str(told.get("direction") or told.get("propagation") or ""))
    return None


def _types(told: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The type of each tensor: from `layouts` (role -> "f32:abcd") or the memory descriptors of a verbose line."""
    layouts, memory = told.get("layouts"), told.get("memory")
    if isinstance(layouts, Mapping):
        texts = [(str(role), str(text)) for role, text in layouts.items()]
    elif isinstance(memory, str):
        texts = [(one.partition(":")[0], one.partition(":")[2]) for one in memory.split(" ")]
    else:
        return {}
    found = ((role, _TYPES.get(text.partition(":")[0])) for role, text in texts)
    return {role: kind for role, kind in found if role in _ROLES and kind is not None}


def _matmul(problem: str, kinds: Mapping[str, tuple[str, int]]) -> PrimitiveWork | None:
    """`64x32:32x16`, or with batch axes in front that may be broadcast: `8x64x32:8x32x16`."""
    shapes = [tuple(map(int, text.split("x"))) for text in problem.split(":")]
    if len(shapes) < 2 or "wei" not in kinds or len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 2:
        return None
    a, b = shapes[0], shapes[1]
    if a[-1] != b[-2]:
        return None
    batch = math.prod(max(pair) for pair in zip(a[:-2], b[:-2], strict=True))
    result = batch * a[-2] * b[-1]
    read = math.prod(a) * kinds["src"][1] + math.prod(b) * kinds["wei"][1]
    if "bia" in kinds:
        read += b[-1] * kinds["bia"][1]
    return PrimitiveWork({kinds["src"][0]: 2.0 * result * a[-1]}, float(read), float(result * kinds["dst"][1]))


def _windowed(name: str, problem: str, kinds: Mapping[str, tuple[str, int]], direction: str) -> PrimitiveWork | None:
    """`g1mb1_ic3oc64_ih224oh112kh7..._iw224ow112kw7...`, and `mb1ic64oc10` of an inner product."""
    sizes = {key: int(value) for key, value in _SIZE.findall(problem.replace("_", " "))}
    if not {"mb", "ic", "oc"} <= sizes.keys() or "wei" not in kinds:
        return None

    def area(letter: str) -> int:
        return math.prod(sizes.get(f"{letter}{axis}", 1) for axis in "dhw")

    window = area("i") if name == "inner_product" else area("k")
    outside = 1 if name == "inner_product" else area("o")
    weights = sizes["oc"] * sizes["ic"] // sizes.get("g", 1) * window
    positions = area("i") if name == "deconvolution" else outside
    counts = {
        "src": sizes["mb"] * sizes["ic"] * area("i"),
        "wei": weights,
        "bia": sizes["oc"],
        "dst": sizes["mb"] * sizes["oc"] * outside,
    }
    written = next((role for start, role in _WRITES.items() if direction.startswith(start)), "dst")
    size = {role: counts[role] * kinds[role][1] for role in kinds}
    if written != "dst":
        size.pop("bia", None)
    read = sum(size.values()) - size[written]
    return PrimitiveWork({kinds["src"][0]: 2.0 * sizes["mb"] * positions * weights}, float(read), float(size[written]))


def _blas(name: str, problem: str) -> PrimitiveWork | None:
    match = _BLAS.fullmatch(name.lower())
    if match is None or not _SHAPES.fullmatch(problem) or ":" in problem:
        return None
    kind, width = {"s": ("float32", 4), "d": ("float64", 8)}[match[1]]
    sizes = [int(size) for size in problem.split("x")]
    if match[2] == "gemm" and len(sizes) == 3:
        m, n, k = sizes
        return PrimitiveWork({kind: 2.0 * m * n * k}, float((m * k + k * n) * width), float(m * n * width))
    if match[2] == "gemv" and len(sizes) == 2:
        m, n = sizes  # which of the two is written depends on a transposition that is not told; the sum does not
        return PrimitiveWork({kind: 2.0 * m * n}, float((m * n + n) * width), float(m * width))
    if match[2] == "dot" and len(sizes) == 1:
        return PrimitiveWork({kind: 2.0 * sizes[0]}, float(2 * sizes[0] * width), float(width))
    return None
