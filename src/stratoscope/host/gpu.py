"""Asks nvidia-smi for the GPUs of this machine: what they are, how they are set, and what they do just now."""

from __future__ import annotations

import csv
import shutil
import subprocess
from typing import Any

from stratoscope.host.told import Told
from stratoscope.spec.hardware import GpuHardware, GpuState

TIMEOUT_S = 10.0
_MIB = 1 << 20
_MHZ = 1e6

#: Field of the manifest, nvidia-smi's name for it, and the factor to our unit; None: text; bool: "Enabled".
_HARDWARE: tuple[tuple[str, str, float | type[bool] | None], ...] = (
    ("name", "name", None),
    ("memory_bytes", "memory.total", _MIB),
    ("driver_version", "driver_version", None),
    ("compute_capability", "compute_cap", None),
    ("max_sm_clock_hz", "clocks.max.sm", _MHZ),
    ("max_memory_clock_hz", "clocks.max.memory", _MHZ),
    ("power_limit_w", "power.limit", 1.0),
    ("persistence_mode", "persistence_mode", bool),
    ("ecc", "ecc.mode.current", bool),
    ("mig", "mig.mode.current", bool),
    ("pcie_generation", "pcie.link.gen.max", 1.0),
    ("pcie_width", "pcie.link.width.max", 1.0),
)
_STATE: tuple[tuple[str, str, float], ...] = (
    ("sm_clock_hz", "clocks.sm", _MHZ),
    ("memory_clock_hz", "clocks.mem", _MHZ),
    ("temperature_c", "temperature.gpu", 1.0),
    ("power_w", "power.draw", 1.0),
    ("utilisation", "utilization.gpu", 0.01),
)


def read_gpus(told: Told) -> tuple[tuple[GpuHardware, ...] | None, tuple[GpuState, ...]]:
    """The NVIDIA GPUs and their state; None and no state where there is no nvidia-smi or it fails, noted in `told`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return told.value("gpus", None, "no nvidia-smi on the PATH: no NVIDIA GPU, or no driver"), ()
    names = ["index", *(query for _, query, _ in _HARDWARE), *(query for _, query, _ in _STATE)]
    command = [program, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return told.value("gpus", None, f"nvidia-smi cannot be asked: {error}"), ()
    if answer.returncode != 0:
        first_line = (answer.stdout + answer.stderr).strip().partition("\n")[0]
        return told.value("gpus", None, f"nvidia-smi failed ({answer.returncode}): {first_line}"), ()
    gpus: list[GpuHardware] = []
    states: list[GpuState] = []
    for row in csv.reader(answer.stdout.splitlines(), skipinitialspace=True):
        cells = dict(zip(names, row, strict=False))
        index = int(cells["index"])
        gpus.append(_hardware(index, cells, told))
        states.append(GpuState(index=index, **{field: _number(cells.get(query), f) for field, query, f in _STATE}))
    return tuple(gpus), tuple(states)


def _hardware(index: int, cells: dict[str, str], told: Told) -> GpuHardware:
    fields: dict[str, Any] = {"index": index}
    for field, query, factor in _HARDWARE:
        cell = cells.get(query)
        value: Any
        if factor is None:
            value = _text(cell)
        elif isinstance(factor, float | int):
            value = _number(cell, factor)
            if value is not None and field in {"memory_bytes", "pcie_generation", "pcie_width"}:
                value = int(value)
        else:
            value = {"enabled": True, "disabled": False}.get((cell or "").lower())
        fields[field] = told.value(f"gpus.{index}.{field}", value, f"nvidia-smi answers {cell!r} for {query}")
    fields["name"] = fields["name"] or "unnamed"
    return GpuHardware(**fields)


def _text(cell: str | None) -> str | None:
    """The cell, or None for nvidia-smi's ways to say that it does not know."""
    return None if cell is None or not cell or cell.startswith("[") or cell == "N/A" else cell


def _number(cell: str | None, factor: float) -> float | None:
    text = _text(cell)
    try:
        return None if text is None else float(text) * factor
    except ValueError:
        return None
