"""The measured roofs of a machine, for those who bound or judge work by them: peaks, bandwidths, latencies, costs.

Made from the record of `stratoscope machine`. Every answer is a `Roof`: a quantity with its interval and the name of
the benchmark that it is from; what was not measured is an unavailable quantity that says so, never a zero.
Where several methods measured the same thing, the largest median is the roof: a roof is what the machine can do, and
each method shows only that it can do at least so much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from stratoscope.errors import StoreError
from stratoscope.spec.machine import MachineRecord, Measurement, Parameter
from stratoscope.stats.quantity import Quantity

MEMORY: Final = "memory"
#: NumPy's name of each dtype that probes have a short name for.
NUMPY_NAMES: Final = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "tensor-float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8": "float8",
    "int8": "int8",
}
_SHORT: Final = {name: short for short, name in NUMPY_NAMES.items()}
_STREAM_KERNELS: Final = ("copy", "scale", "add", "triad", "read")
#: Largest file that is taken for a record: a full one has some megabytes.
MAX_RECORD_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Roof:
    """A figure and the benchmark that it is from (empty where there is none)."""

    figure: Quantity
    source: str = ""

    @property
    def value(self) -> float | None:
        """The median in SI units, or None."""
        return self.figure.value


class Roofs:
    """The roofs in one machine record. Rates in byte/s and FLOP/s, times in s; int8 operations count as FLOPs."""

    def __init__(self, record: MachineRecord) -> None:
        self.record = record
        self._by_family: dict[str, list[Measurement]] = {}
        for found in record.measurements:
            self._by_family.setdefault(found.name.partition("/")[0], []).append(found)

    @classmethod
    def load(cls, path: Path) -> Roofs:
        """The roofs of a record in a file; see `read_record`."""
        return cls(read_record(path))

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """Numbers of threads that bandwidths or peaks were measured with."""
        families = ("stream", "peak", "gemm")
        found = {m.parameters["threads"] for family in families for m in self._by_family.get(family, ())}
        return tuple(sorted(int(threads) for threads in found))

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels with a bandwidth, nearest first: "L1", "L2", "L3", "memory"."""
        found = {str(m.parameters["level"]) for m in self._by_family.get("stream", ())}
        return (*sorted(found - {MEMORY}), *([MEMORY] if MEMORY in found else []))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Short names of the dtypes with a peak on the CPU."""
        found = {str(m.parameters["dtype"]) for family in ("peak", "gemm") for m in self._by_family.get(family, ())}
        return tuple(sorted(found, key=list(NUMPY_NAMES).index))

    def peak(self, dtype: str, threads: int = 1) -> Roof:
        """Peak FLOP/s of a dtype ("fp32" or "float32"): the larger of arithmetic in registers and the best product."""
        wanted = {"dtype": _SHORT.get(dtype, dtype), "threads": threads}
        return self._largest(("peak", "gemm"), wanted, "FLOP/s", f"peak of {dtype} with {threads} threads")

    def gemm(self, dtype: str, threads: int = 1) -> Roof:
        """FLOP/s of the best library's best matrix product: what programs of today reach."""
        wanted = {"dtype": _SHORT.get(dtype, dtype), "threads": threads}
        return self._largest(("gemm",), wanted, "FLOP/s", f"matrix product of {dtype} with {threads} threads")

    def bandwidth(self, level: str = MEMORY, threads: int = 1, kernel: str | None = None) -> Roof:
        """Byte/s of a level of the memory hierarchy: the largest of all kernels and methods, or of one kernel.

        Args:
            kernel: "copy", "scale", "add", "triad" or "read".
        """
        what = f"bandwidth of {level} with {threads} threads"
        wanted = {"level": level, "threads": threads}
        family = None if kernel is None else f"stream/{kernel}/"
        return self._largest(("stream",), wanted, "byte/s", what, lambda m: family is None or m.name.startswith(family))

    def bandwidth_at(self, working_set_bytes: float, threads: int = 1) -> Roof:
        """Byte/s of the nearest level that holds a working set (of all threads together)."""
        capacities = self._capacities(threads)
        for level in self.levels:
            if level == MEMORY or working_set_bytes <= capacities.get(level, 0):
                return self.bandwidth(level, threads)
        return self.bandwidth(MEMORY, threads)

    def latency(self, level: str = MEMORY) -> Roof:
        """Seconds of one dependent load from a level."""
        return self._smallest("chase", {"level": level}, f"latency of {level}")

    def ridge(self, dtype: str, threads: int = 1, level: str = MEMORY) -> Quantity:
        """FLOP a byte from which on the peak is the lower roof; the widest interval that both intervals allow."""
        return ridge_point(self.peak(dtype, threads).figure, self.bandwidth(level, threads).figure)

    def dispatch(self, library: str) -> Roof:
        """Seconds of one call into a library on one element: "ctypes", "numpy", "onnxruntime", "torch"."""
        return self._smallest("dispatch", {}, f"dispatch of {library}", family=f"dispatch/{library}")

    def start(self, what: str, threads: int = 1) -> Roof:
        """Seconds to create and join threads ("pthread", "python-thread") or to start a process ("process")."""
        wanted: dict[str, Parameter] = {} if what == "process" else {"threads": threads}
        return self._smallest("forkjoin", wanted, f"starting {what}", family=f"forkjoin/{what}")

    def page_fault(self, page_bytes: int = 4096) -> Roof:
        """Seconds of the first touch of a page."""
        return self._smallest("faults", {"page_bytes": page_bytes}, f"fault of a page of {page_bytes} bytes")

    def transport(self, kind: str) -> Roof:
        """Byte/s between two processes at the best size: "pipe", "unix-socket", "tcp-loopback", "shared-memory"."""
        of_kind = f"transport/{kind}/"
        what = f"bandwidth of {kind}"
        return self._largest(("transport",), {"what": "one-way"}, "byte/s", what, lambda m: m.name.startswith(of_kind))

    def round_trip(self, kind: str) -> Roof:
        """Seconds of a byte to another process and one back."""
        return self._smallest("transport", {"what": "round-trip"}, f"round trip of {kind}", family=f"transport/{kind}")

    def file(self, state: str = "cold") -> Roof:
        """Byte/s of reading a file from the storage ("cold") or the page cache ("warm")."""
        return self._largest(("file",), {"state": state}, "byte/s", f"{state} file reads")

    def collective(self, operation: str, backend: str = "gloo") -> Roof:
        """Bus bandwidth (nccl-tests' definition) of a collective at the best size, in byte/s."""
        of_kind = f"collective/{operation}/"
        what = f"{operation} over {backend}"
        return self._largest(
            ("collective",), {"backend": backend}, "byte/s", what, lambda m: m.name.startswith(of_kind)
        )

    def gpu(self, what: str, device: int = 0, **parameters: Parameter) -> Roof:
        """A GPU's figure by name ("h2d-pinned", "device-copy", "gemm", "launch", ...): the best over sizes."""
        family = f"gpu/{what}"
        unit = "s" if what in {"launch", "graph-launch", "synchronize"} else "FLOP/s" if what == "gemm" else "byte/s"
        wanted = {"device": device, **parameters}
        if unit == "s":
            return self._smallest("gpu", wanted, family, family=family)
        return self._largest(("gpu",), wanted, unit, family, lambda m: m.name.startswith(family + "/"))

    def flops_per_s(self, threads: int = 1) -> dict[str, float]:
        """Peaks by NumPy's dtype names, of those that were measured with so many threads."""
        peaks = {NUMPY_NAMES[dtype]: self.peak(dtype, threads).value for dtype in self.dtypes}
        return {name: value for name, value in peaks.items() if value is not None}

    def _capacities(self, threads: int) -> dict[str, float]:
        """Bytes that a level holds for so many threads: by the sizes of the caches and how many share one."""
        sizes: dict[str, float] = {}
        for cache in self.record.hardware.cpu.caches or ():
            if cache.type != "instruction":
                instances = min(cache.instances, -(-threads // cache.shared_by))
                sizes[f"L{cache.level}"] = float(cache.size_bytes * instances)
        return sizes

    def _matching(self, families: Iterable[str], wanted: dict[str, Any]) -> list[Measurement]:
        return [
            m
            for family in families
            for m in self._by_family.get(family, ())
            if m.figure.value is not None and all(m.parameters.get(key) == value for key, value in wanted.items())
        ]

    def _largest(
        self,
        families: tuple[str, ...],
        wanted: dict[str, Any],
        unit: str,
        what: str,
        also: Callable[[Measurement], bool] = lambda m: True,
    ) -> Roof:
        found = [m for m in self._matching(families, wanted) if also(m)]
        if not found:
            return Roof(Quantity.unavailable(unit, self._why(what, families), "median"))
        best = max(found, key=lambda m: m.figure.require())
        return Roof(best.figure, best.name)

    def _smallest(self, probe: str, wanted: dict[str, Any], what: str, family: str | None = None) -> Roof:
        found = [
            m
            for m in self._matching((probe,), wanted)
            if family is None or m.name == family or m.name.startswith(family + "/")
        ]
        if not found:
            return Roof(Quantity.unavailable("s", self._why(what, (probe,)), "median"))
        best = min(found, key=lambda m: m.figure.require())
        return Roof(best.figure, best.name)

    def _why(self, what: str, families: tuple[str, ...]) -> str:
        """That it was not measured, with the reason where the record has one."""
        reasons = [f"{probe.name}: {probe.why}" for probe in self.record.probes if probe.name in families and probe.why]
        asked = {probe.name for probe in self.record.probes}
        absent = [f"the probe {family} was not run" for family in families if family not in asked]
        return f"{what} was not measured on this machine" + (
            f" ({'; '.join(reasons + absent)})" if reasons + absent else ""
        )


def ridge_point(peak: Quantity, bandwidth: Quantity) -> Quantity:
    """peak / bandwidth in FLOP a byte, with the widest interval that the intervals of both allow."""
    for part in (peak, bandwidth):
        if part.value is None:
            return Quantity.unavailable("FLOP/byte", part.reason or "not measured", "ratio of medians")
    low = high = None
    if None not in (peak.ci_low, peak.ci_high, bandwidth.ci_low, bandwidth.ci_high):
        assert peak.ci_low is not None
        assert peak.ci_high is not None
        low, high = peak.ci_low / (bandwidth.ci_high or 1.0), peak.ci_high / (bandwidth.ci_low or 1.0)
    return Quantity(
        value=peak.require() / bandwidth.require(),
        unit="FLOP/byte",
        statistic="ratio of medians",
        n=min(peak.n, bandwidth.n),
        ci_low=low,
        ci_high=high,
    )


def read_record(path: Path) -> MachineRecord:
    """A machine record from a file: the record itself, or Google Benchmark's JSON that `machine --json` wrote.

    Raises:
        StoreError: the file cannot be read, is too large, or holds no machine record.
    """
    import json

    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise StoreError(f"{path} is larger than {MAX_RECORD_BYTES >> 20} MiB: not a machine record")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", hint="name a file or a stored record") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON: {error}", hint="`stratoscope machine --json FILE` writes one") from None
    context = document.get("context") if isinstance(document, dict) else None
    if isinstance(context, dict) and "stratoscope" in context:
        document = context["stratoscope"]
    try:
        return MachineRecord.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise StoreError(
            f"{path} holds no machine record: {where}: {first['msg']}",
            hint="`stratoscope machine --json FILE` writes one",
        ) from None
