"""What a device can do: dense peaks, memory, links per level, measured matmul peak; every figure with source
and date.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from stratoscope.llm.base import LlmError, UnsupportedError, Value

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]

BYTES_PER_ELEMENT: dict[str, float] = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0,
    # 4-bit formats carry a scale per group: 16 bits per 128 values (GPTQ, AWQ), 8 bits per 32 (MX) or 16 (NVFP4)
    "int4": 0.5 + 2.0 / 128, "fp4": 0.5 + 1.0 / 32,
}  # fmt: skip


class Figure(Value):
    """One number of a data sheet or a measurement, in SI units, and the key of its source."""

    value: float = Field(gt=0)
    source: str


class Link(Value):
    """One level of the network: bandwidth per device and per direction, latency of its smallest collective step."""

    bandwidth_bytes_per_s: Figure
    latency_s: Figure
    size: int | None = None  # devices in one domain; None: the whole cluster
    topology: Literal["switch", "mesh", "torus"] = "switch"


class HardwareSpec(Value):
    """One accelerator and its place in a cluster. Peaks are dense; bandwidths are per device and per direction."""

    name: str
    aliases: tuple[str, ...] = ()
    vendor: str
    generation: str
    peak_flops_per_s: dict[str, Figure]
    memory_bytes: Figure
    memory_bandwidth_bytes_per_s: Figure
    scale_up: Link
    scale_out: Link | None
    tdp_w: Figure | None
    measured_matmul_flops_per_s: dict[str, Figure] = {}
    host_bytes_per_s: Figure | None = None  # to the memory of its host, per direction

    def peak(self, dtype: str) -> float:
        """Dense peak in FLOP/s for operands of `dtype`; raises UnsupportedError where the device has no such unit."""
        figure = self.peak_flops_per_s.get(dtype)
        if figure is None:
            raise UnsupportedError(
                f"{self.name} has no dense {dtype} peak", hint=f"it has {', '.join(sorted(self.peak_flops_per_s))}"
            )
        return figure.value

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second of the device memory."""
        return self.memory_bandwidth_bytes_per_s.value

    @property
    def memory(self) -> float:
        """Bytes that the driver reports as the device's memory."""
        return self.memory_bytes.value

    def matmul_fraction(self, dtype: str) -> float | None:
        """Measured best matmul over the dense peak, where somebody measured it."""
        measured = self.measured_matmul_flops_per_s.get(dtype)
        return measured.value / self.peak(dtype) if measured else None

    def link(self, ranks_per_domain: float) -> Link:
        """The link that joins a group spread over more devices than one scale-up domain holds, or that domain's own."""
        if self.scale_up.size is None or ranks_per_domain <= self.scale_up.size:
            return self.scale_up
        if self.scale_out is None:
            raise UnsupportedError(f"{self.name} has no link beyond {self.scale_up.size} devices in its description")
        return self.scale_out


class HardwareTable(Value):
    """The shipped devices and the sources of their figures."""

    schema_version: int = Field(alias="schema")
    sources: dict[str, dict[str, str]]
    devices: tuple[HardwareSpec, ...]


@cache
def hardware_table() -> HardwareTable:
    """The shipped table; parsed once."""
    text = resources.files("stratoscope.llm").joinpath("data/hardware.json").read_text(encoding="utf-8")
    return HardwareTable.model_validate(json.loads(text))


def find_hardware(name: str) -> HardwareSpec:
    """The device of that name or alias, case ignored; raises LlmError with the known names."""
    wanted = name.lower()
    for device in hardware_table().devices:
        if wanted == device.name.lower() or wanted in device.aliases:
            return device
    known = ", ".join(device.name for device in hardware_table().devices)
    raise LlmError(f"no device {name!r} in the hardware table", hint=f"known: {known}")


def cpu_hardware(
    name: str, flops_per_s: float, memory_bytes: float, bandwidth_bytes_per_s: float, *, source: str
) -> HardwareSpec:
    """A description of a CPU from measured roofs (as `stratoscope machine` measures them).

    Args:
        name: what to call it.
        flops_per_s: measured fp32 matmul rate; it serves as the peak, since a CPU's data sheet gives none at its clock.
        memory_bytes: main memory.
        bandwidth_bytes_per_s: measured copy or triad bandwidth.
        source: what measured it and when.
    """
    figure = Figure(value=flops_per_s, source=source)
    link = Link(
        bandwidth_bytes_per_s=Figure(value=bandwidth_bytes_per_s, source=source),
        latency_s=Figure(value=1e-6, source=source),
        size=1,
    )
    return HardwareSpec(
        name=name,
        vendor="CPU",
        generation="cpu",
        peak_flops_per_s={"fp32": figure},
        memory_bytes=Figure(value=memory_bytes, source=source),
        memory_bandwidth_bytes_per_s=Figure(value=bandwidth_bytes_per_s, source=source),
        scale_up=link,
        scale_out=None,
        tdp_w=None,
        measured_matmul_flops_per_s={"fp32": figure},
    )
