"""Probe of matrix products: the peak FLOP/s that each library at hand reaches, per dtype, size and thread count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Setting
from stratoscope.measure.machine.workers import LIBRARIES, library_missing, worker_case

#: Library, the kind of its product, and the dtypes that it has fast products for.
PRODUCTS: Final = (
    ("numpy", "mm", ("fp32", "fp64")),
    ("onnxruntime", "mm", ("fp32", "int8")),
    ("torch", "mm", ("fp32", "bf16", "int8")),
    ("torch", "packed", ("fp32", "bf16")),
)
#: Also with --full: slow where the CPU has no instructions for it, which is a finding.
PRODUCTS_FULL: Final = (("torch", "mm", ("fp64", "fp16")), ("onnxruntime", "mm", ("fp64",)))
SIZES: Final = (512, 1024)
SIZES_FULL: Final = (128, 256, 512, 1024, 2048, 4096)
#: Bytes of one number; products of small types are summed in 32 bits.
_WIDTH: Final = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
#: Largest size where a CPU may lack the instructions: a product of 1024 at 1 GFLOP/s takes two seconds.
_MOST_SLOW: Final = 256


class GemmProbe:
    """C = A B of square matrices; each product is checked before it is timed."""

    name = "gemm"
    title = "peak FLOP/s of each library's matrix product, per dtype, size and thread count"

    def check(self, setting: Setting) -> str | None:
        """Why no library can run; None where one can."""
        reasons = [library_missing(library, setting) for library in LIBRARIES]
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)

    def register(self, setting: Setting) -> Iterable[Case]:
        """Every library and dtype; a library that is missing is there as a case that says so."""
        products = PRODUCTS + (PRODUCTS_FULL if setting.full else ())
        for library, kind, dtypes in products:
            for dtype in dtypes:
                for n in _sizes(setting, dtype):
                    for threads in setting.thread_counts:
                        yield _case(library, kind, dtype, n, threads)

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation is one product, in a worker of that library and thread count."""
        parameters = case.parameters
        library = str(parameters["library"])
        missing = library_missing(library, setting)
        if missing:
            raise ProbeUnavailable(missing)
        asked = {"kind": parameters["kind"], "dtype": parameters["dtype"], "n": parameters["n"]}
        with worker_case(setting.workers, library, int(parameters["threads"]), asked) as prepared:
            yield prepared


def _sizes(setting: Setting, dtype: str) -> list[int]:
    """Sizes whose matrices, with their double-precision check, fit in a quarter of the memory."""
    sizes = SIZES_FULL if setting.full else SIZES
    fitting = [n for n in sizes if 40 * n * n <= setting.memory_bytes // 4]
    return [n for n in fitting if n <= _MOST_SLOW] if dtype == "fp16" else fitting


def _case(library: str, kind: str, dtype: str, n: int, threads: int) -> Case:
    wide = 8 if dtype == "fp64" else 4
    return Case(
        family="gemm/square",
        parameters={"library": library, "kind": kind, "dtype": dtype, "n": n, "threads": threads},
        unit="FLOP/s",
        bytes=float((2 * _WIDTH[dtype] + (wide if dtype == "int8" else _WIDTH[dtype])) * n * n),
        flops=2.0 * n**3,
        memory_bytes=16 * n * n,
        priority=1 if n == SIZES[-1] else 3 if n < SIZES[-1] else 4,
    )
