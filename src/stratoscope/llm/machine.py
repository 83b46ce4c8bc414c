"""A machine that `stratoscope machine` measured, as a device of the analytical model: its roofs and their source."""

from __future__ import annotations

from pathlib import Path

from stratoscope.host.roofs import Roofs
from stratoscope.llm.base import LlmError
from stratoscope.llm.hardware import Figure, HardwareSpec, cpu_hardware

DTYPES = {"fp32": "fp32", "bf16": "bf16", "int8": "int8"}  # of the record, and of the model


def machine_hardware(path: Path) -> HardwareSpec:
    """The CPU of a machine record, with all its threads: peaks by dtype, bandwidth of main memory, memory.

    Raises LlmError where the record lacks the peak of fp32, the bandwidth or the size of the memory; what `read_record`
    raises where the file is no record.
    """
    roofs = Roofs.load(path)
    record = roofs.record
    threads = max(roofs.thread_counts, default=1)
    peaks = {dtype: roofs.peak(name, threads).figure.value for name, dtype in DTYPES.items() if name in roofs.dtypes}
    bandwidth = roofs.bandwidth("memory", threads).figure.value if "memory" in roofs.levels else None
    memory = record.hardware.memory.total_bytes
    if not peaks.get("fp32") or not bandwidth or not memory:
        raise LlmError(f"{path}: no fp32 peak, memory bandwidth or memory size", hint="run `stratoscope machine` whole")
    source = f"stratoscope machine, {threads} threads, {record.created_at.date()}"
    name = record.hardware.cpu.model or "CPU"
    spec = cpu_hardware(name, float(peaks["fp32"] or 0.0), float(memory), float(bandwidth), source=source)
    figures = {dtype: Figure(value=float(peak), source=source) for dtype, peak in peaks.items() if peak}
    return spec.model_copy(update={"peak_flops_per_s": figures})
