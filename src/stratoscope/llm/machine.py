"""A machine that `stratoscope machine` measured, as a device of the analytical model: its roofs and their source."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from stratoscope.host.roofs import Roof, Roofs
from stratoscope.llm.base import LlmError
from stratoscope.llm.hardware import Figure, HardwareSpec, cpu_hardware

DTYPES = ("fp32", "bf16", "int8")  # those that the record and the model both have


def machine_hardware(path: Path) -> HardwareSpec:
    """The CPU of a machine record with all its threads: peaks by dtype, bandwidth of main memory, memory.

    A figure counts where it was measured with all threads; where fewer threads reached more, theirs is the roof, since
    the machine can always use fewer. Memory is what the record's process may use of it.

    Raises LlmError where the record lacks the peak of fp32, the bandwidth or the size of the memory; what `read_record`
    raises where the file is no record.
    """
    roofs = Roofs.load(path)
    record = roofs.record
    made = f"stratoscope machine, {record.created_at.date()}"
    peaks = {dtype: _best(roofs, partial(roofs.peak, dtype), made) for dtype in DTYPES}
    fp32, bandwidth = peaks["fp32"], _best(roofs, partial(roofs.bandwidth, "memory"), made)
    memory, limit = record.hardware.memory.total_bytes, record.hardware.allowance.memory_limit_bytes
    if fp32 is None or bandwidth is None or not memory:
        raise LlmError(f"{path}: no fp32 peak, memory bandwidth or memory size", hint="run `stratoscope machine` whole")
    usable = float(min(memory, limit) if isinstance(limit, int) else memory)
    name = record.hardware.cpu.model or "CPU"
    spec = cpu_hardware(name, fp32.value, usable, bandwidth.value, source=made)
    product = _best(roofs, partial(roofs.gemm, "fp32"), made)
    figures = {
        "peak_flops_per_s": {dtype: peak for dtype, peak in peaks.items() if peak is not None},
        "memory_bandwidth_bytes_per_s": bandwidth,
        "measured_matmul_flops_per_s": {} if product is None else {"fp32": product},
    }
    return spec.model_copy(update=figures)


def _best(roofs: Roofs, roof: Callable[[int], Roof], made: str) -> Figure | None:
    """The largest figure of any number of threads, None where all threads together have none."""
    found = [roof(threads) for threads in roofs.thread_counts]
    if not found or found[-1].value is None:
        return None
    best = max(found, key=lambda item: item.value or 0.0)
    return Figure(value=best.figure.require(), source=f"{made}: {best.source}") if best.value else None
