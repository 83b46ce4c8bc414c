"""How close to its roofs a device comes: peak, prior curves from kernel tables, curves calibrated here, or a
measured table.

Every cost carries the level that made it. The curves are functions of size: an efficiency that is one number is
wrong by
two to four times across the shapes that training, prefill and decode meet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from pydantic import Field

from stratoscope.llm.base import LlmError, Num, Value
from stratoscope.llm.hardware import HardwareSpec

Level = Literal["peak", "prior", "calibrated", "measured"]
LEVELS: tuple[Level, ...] = ("peak", "prior", "calibrated", "measured")


class Spread(Value):
    """Measured over predicted time at the 10th and 90th percentile of the table that a curve was fitted to."""

    p10: float = Field(gt=0)
    p50: float = Field(default=1.0, gt=0)
    p90: float = Field(gt=0)
    n: int = 0
    mae: float = 0.0


class GemmCurve(Spread):
    """t = t0 + ((bytes / memory B)^norm + (flops / compute P)^norm)^(1/norm).

    A kernel computes at least `tile_m` rows, whatever the batch; one row alone is a matrix-vector product, which may
    stream at a rate of its own (`vector_memory`): libraries copy the matrix into packed panels only for more rows.
    Each of the n rows of weights costs `row_s` to start on, which short rows (small k) do not hide. Activations that
    arrive in a wider format are converted first, by kernels of their own that take `quantize_s` and move
    `quantize_bytes` an element, unless the engine has the kernel before them do it.
    """

    t0_s: float = Field(ge=0)
    memory: float = Field(gt=0, le=1)
    compute: float = Field(gt=0, le=1)
    norm: float = Field(default=2.0, ge=1)
    tile_m: float = Field(default=1.0, ge=1)
    vector_memory: float | None = Field(default=None, gt=0, le=1)
    row_s: float = Field(default=0.0, ge=0)
    quantize_s: float = Field(default=0.0, ge=0)
    quantize_bytes: float = Field(default=0.0, ge=0)


class DecodeCurve(Spread):
    """t = t0 + (bytes / B) (1 + (half_bytes / bytes)^exponent)."""

    t0_s: float = Field(ge=0)
    half_bytes: float = Field(ge=0)
    exponent: float = Field(gt=0, le=1)


class PrefillCurve(Spread):
    """t = t0 + flops / (compute P) (1 + half_seq / s) + bytes / (0.8 B)."""

    t0_s: float = Field(ge=0)
    compute: float = Field(gt=0, le=1)
    half_seq: float = Field(ge=0)


class StreamCurve(Spread):
    """t = t0 + bytes / (memory B)."""

    t0_s: float = Field(ge=0)
    memory: float = Field(gt=0, le=1)


class CollectiveCurve(Spread):
    """t = alpha + factor bytes / (bus B) (1 + sqrt(half_bytes / bytes)); `bus` is a fraction of the link."""

    alpha_s: float = Field(ge=0)
    bus: float = Field(gt=0)
    half_bytes: float = Field(ge=0)


class ExpertCurve(Spread):
    """t = t0 + ((bytes / memory B)^2 + (padded flops / compute P (1 + half_width / width))^2)^(1/2).

    Each touched expert computes half a tile of rows more than it was given. The p90 includes skewed routing.
    """

    t0_s: float = Field(ge=0)
    memory: float = Field(gt=0, le=1)
    compute: float = Field(gt=0, le=1)
    tile_rows: float = Field(default=0.0, ge=0)
    half_width: float = Field(default=0.0, ge=0)


class Curves(Value):
    """All curves of one device generation (or of one machine, when calibrated)."""

    gemm: dict[str, GemmCurve]
    decode: DecodeCurve
    prefill: PrefillCurve
    elementwise: StreamCurve
    moe: ExpertCurve
    moe_formats: dict[str, ExpertCurve] = {}  # of formats whose kernels are not those of `moe`
    collectives: dict[str, dict[str, CollectiveCurve]]


class Priors(Value):
    """The fitted curves that ship with the project, with where and when they come from."""

    schema_version: int = Field(alias="schema")
    source: str
    date: str
    generations: dict[str, Curves]


@cache
def shipped_priors() -> Priors:
    """The committed priors; parsed once."""
    text = resources.files("stratoscope.llm").joinpath("data/priors.json").read_text(encoding="utf-8")
    return Priors.model_validate(json.loads(text))


# Generations without a kernel table borrow the nearest one's curves; their intervals are wider by `spread`.
BORROWED: dict[str, tuple[str, float]] = {
    "ampere": ("ampere", 1.0), "hopper": ("hopper", 1.0), "volta": ("ampere", 1.5), "ada": ("ampere", 1.5),
    "blackwell": ("hopper", 1.5), "cdna2": ("hopper", 2.0), "cdna3": ("hopper", 2.0), "cdna4": ("hopper", 2.0),
    "gaudi": ("hopper", 2.0), "tpu": ("hopper", 2.0), "trainium": ("hopper", 2.0), "cpu": ("ampere", 2.0),
}  # fmt: skip
REFERENCE_MATMUL = {"ampere": 271.2 / 312, "hopper": 794.5 / 989}  # measured matmul fraction of the tables' devices
# Bandwidth of the second-level cache: A100 recalled from microbenchmarks, H100 from Chips and Cheese, "Nvidia's H100:
# Funny L2, and Tons of Bandwidth" (2023-07, recalled); others keep A100's ratio to the memory.
SECOND_LEVEL_BYTES_PER_S = {"ampere": 4.5e12, "hopper": 5.7e12}
SECOND_LEVEL_RATIO = 2.2
PEAK_SPREAD = {"p10": 1.0, "p90": 1.0}


def largest(value: Num) -> float:
    """The largest entry, without a detour over arrays where the value is one number."""
    return float(value.max()) if isinstance(value, np.ndarray) else float(value)


@dataclass(frozen=True)
class Cost:
    """Seconds of one operator (scalar or one per plan) with its interval and what bounds it."""

    time: Num
    low: Num
    high: Num
    compute: Num
    memory: Num
    latency: Num
    formula: str
    level: str

    @property
    def bound(self) -> str:
        """The largest part of a scalar cost: compute, memory or latency."""
        parts = {"compute": self.compute, "memory": self.memory, "latency": self.latency}
        return max(parts, key=lambda name: largest(parts[name]))


@dataclass(frozen=True)
class Efficiency:
    """Turns work into time on one device at one level."""

    hardware: HardwareSpec
    level: Level
    curves: Curves
    spread: float = 1.0
    source: str = ""
    measured: dict[tuple[str, int, int, int], float] = field(default_factory=dict)
    corrections: tuple[tuple[float, float, float, float], ...] = ()  # log2 of m, n, k; log of measured over the curve

    def gemm(
        self, m: Num, n: Num, k: Num, *, kind: str, unit: str, nbytes: Num, batch: Num = 1.0, quantize: Num = 0.0
    ) -> Cost:  # fmt: skip
        """A matrix product (`batch` of them in one kernel): flops 2 m n k, `nbytes` moved, multiplied on `unit`.

        `quantize` activation elements are converted to the format of `unit` before.
        """
        hit = self._table_hit(m, n, k, kind)
        if hit is not None:
            return Cost(hit, hit, hit, hit, 0.0, 0.0, "measured shape", "measured")
        curve = self._gemm_curve(kind, unit)
        rows = np.asarray(m, dtype=float)
        rows = np.where(rows > 1.0, np.maximum(rows, curve.tile_m), rows)
        flops = 2.0 * rows * n * k * batch
        rate = np.where(rows > 1.0, curve.memory, curve.vector_memory or curve.memory)
        memory = nbytes / (rate * self.hardware.memory_bandwidth) + curve.row_s * n * batch
        compute = flops / (curve.compute * self.hardware.peak(unit))
        top = np.maximum(memory, compute)
        share = np.minimum(memory, compute) / np.maximum(top, 1e-30)
        body = (curve.t0_s + top * (1.0 + share**curve.norm) ** (1.0 / curve.norm)) * self._near_measured(m, n, k)
        wide = np.asarray(quantize, dtype=float)
        stream = self.curves.elementwise.memory * self.hardware.memory_bandwidth
        before = np.where(wide > 0, curve.quantize_s + curve.quantize_bytes * wide / stream, 0.0)
        return self._cost(before + body, curve, compute, memory + before, curve.t0_s, "gemm roofline")

    def experts(self, flops: Num, nbytes: Num, unit: str, rows: Num, width: Num) -> Cost:
        """The routed experts of one layer in one grouped kernel: `rows` per touched expert, `width` inner columns."""
        narrow = {"fp4": "fp8"}.get(unit, unit)
        curve = self.curves.moe_formats.get(narrow, self.curves.moe)
        memory = nbytes / (curve.memory * self.hardware.memory_bandwidth)
        padded = flops * (1.0 + curve.tile_rows / 2.0 / np.maximum(np.asarray(rows, dtype=float), 1e-9))
        compute = padded / (curve.compute * self.hardware.peak(unit)) * (1.0 + curve.half_width / width)
        body = np.sqrt(np.square(memory) + np.square(compute))
        return self._cost(curve.t0_s + body, curve, compute, memory, curve.t0_s, "grouped gemm")

    def decode_attention(self, nbytes: Num, flops: Num, unit: str, reread: float = 1.0) -> Cost:
        """One token per sequence against its cache of `nbytes` in all, read `reread` times from the
        second-level cache.
        """
        curve = self.curves.decode
        size = np.maximum(np.asarray(nbytes, dtype=float), 1.0)
        memory = size / self.hardware.memory_bandwidth * (1.0 + (curve.half_bytes / size) ** curve.exponent)
        bandwidth = self.hardware.memory_bandwidth
        second = SECOND_LEVEL_BYTES_PER_S.get(self.hardware.generation, SECOND_LEVEL_RATIO * bandwidth)
        memory = np.maximum(memory, reread * size / second)
        compute = flops / (0.5 * self.hardware.peak(unit))
        body = np.maximum(memory, compute)
        return self._cost(curve.t0_s + body, curve, compute, memory, curve.t0_s, "decode attention")

    def prefill_attention(self, flops: Num, nbytes: Num, seq: Num, unit: str) -> Cost:
        """Fused attention over `seq` queries; `flops` counts only the pairs that are visited."""
        curve = self.curves.prefill
        short = 1.0 + curve.half_seq / np.maximum(np.asarray(seq, dtype=float), 1.0)
        compute = flops / (curve.compute * self.hardware.peak(unit)) * short
        memory = nbytes / (self.curves.elementwise.memory * self.hardware.memory_bandwidth)
        return self._cost(curve.t0_s + compute + memory, curve, compute, memory, curve.t0_s, "fused attention")

    def stream(self, nbytes: Num, kernels: Num = 1.0) -> Cost:
        """Elementwise work: `nbytes` read and written by `kernels` launches."""
        curve = self.curves.elementwise
        memory = nbytes / (curve.memory * self.hardware.memory_bandwidth)
        latency = curve.t0_s * kernels
        return self._cost(latency + memory, curve, 0.0, memory, latency, "stream")

    def _cost(self, time: Num, curve: Spread, compute: Num, memory: Num, latency: Num, formula: str) -> Cost:
        low, high = curve.p10**self.spread, curve.p90**self.spread
        stamp = "calibrated" if self.level == "measured" else self.level  # a shape that the table lacks
        return Cost(time, time * low, time * high, compute, memory, latency, formula, stamp)

    def _gemm_curve(self, kind: str, unit: str) -> GemmCurve:
        self.hardware.peak(unit)
        for name in (kind, {"fp4": "fp8", "fp8": "bf16"}.get(kind, "bf16"), "bf16"):
            if name in self.curves.gemm:
                return self.curves.gemm[name]
        raise LlmError(f"the {self.level} curves have no gemm of {kind}", hint="calibrate again or use level prior")

    def _near_measured(self, m: Num, n: Num, k: Num) -> Num:
        """What the measured shapes nearby say of the curve: their measured over fitted time, weighted by distance.

        Distance counts octaves of m, n and k under a Gaussian of one octave; a weight of 0.1 for the curve itself draws
        shapes far from all measured ones back to it.
        """
        if not self.corrections:
            return 1.0
        table = np.array(self.corrections)
        sides = np.broadcast_arrays(*(np.log2(np.asarray(side, dtype=float)) for side in (m, n, k)))
        squared = sum(np.square(side[..., None] - table[:, axis]) for axis, side in enumerate(sides))
        weight = np.exp(-squared / 2.0)
        factor: Num = np.exp((weight * table[:, 3]).sum(-1) / (weight.sum(-1) + 0.1))
        return factor

    def _table_hit(self, m: Num, n: Num, k: Num, kind: str) -> float | None:
        if not self.measured or any(isinstance(side, np.ndarray) for side in (m, n, k)):
            return None
        return self.measured.get((kind, round(float(m)), round(float(n)), round(float(k))))


def peak_curves() -> Curves:
    """The roofs themselves: no floor, no loss."""
    gemm = GemmCurve(t0_s=0, memory=1, compute=1, norm=64, **PEAK_SPREAD)
    collective = CollectiveCurve(alpha_s=0, bus=1, half_bytes=0, **PEAK_SPREAD)
    return Curves(
        gemm={"bf16": gemm},
        decode=DecodeCurve(t0_s=0, half_bytes=0, exponent=1, **PEAK_SPREAD),
        prefill=PrefillCurve(t0_s=0, compute=1, half_seq=0, **PEAK_SPREAD),
        elementwise=StreamCurve(t0_s=0, memory=1, **PEAK_SPREAD),
        moe=ExpertCurve(t0_s=0, memory=1, compute=1, **PEAK_SPREAD),
        collectives={
            name: {"2": collective}
            for name in ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "custom_all_reduce")
        },
    )


def prior_efficiency(hardware: HardwareSpec) -> Efficiency:
    """The shipped curves for a device.

    The compute efficiency is scaled by the device's measured matmul fraction over that of the device whose table was
    fitted, where both are known; a device nobody measured keeps the curve and a wider interval.
    """
    base, spread = BORROWED.get(hardware.generation, ("hopper", 2.0))
    priors = shipped_priors()
    curves = priors.generations[base]
    fraction = hardware.matmul_fraction("bf16")
    scale = fraction / REFERENCE_MATMUL[base] if fraction else 1.0
    if abs(scale - 1.0) > 1e-9:
        scaled = {name: _scale_compute(curve, scale) for name, curve in curves.gemm.items()}
        prefill = curves.prefill.model_copy(update={"compute": min(1.0, curves.prefill.compute * scale)})
        curves = curves.model_copy(update={"gemm": scaled, "prefill": prefill})
    return Efficiency(hardware, "prior", curves, spread, f"{priors.source} ({priors.date}), generation {base}")


def _scale_compute(curve: GemmCurve, scale: float) -> GemmCurve:
    return curve.model_copy(update={"compute": min(1.0, curve.compute * scale)})


def efficiency(hardware: HardwareSpec, level: Level = "prior", calibration: dict[str, Any] | None = None) -> Efficiency:
    """The efficiency model of `level` for a device.

    Raises:
        LlmError: level calibrated or measured without a calibration document (see `stratoscope llm calibrate`).
    """
    if level == "peak":
        return Efficiency(hardware, "peak", peak_curves(), 1.0, "data-sheet peaks")
    if level == "prior":
        return prior_efficiency(hardware)
    if calibration is None:
        raise LlmError(
            f"level {level!r} needs a calibration", hint="run `stratoscope llm calibrate --output FILE` first"
        )
    curves = Curves.model_validate(calibration["curves"])
    measured = {}
    if level == "measured":
        measured = {(row["kind"], row["m"], row["n"], row["k"]): row["seconds"] for row in calibration["measured"]}
    corrections = tuple(
        (np.log2(row["m"]), np.log2(row["n"]), np.log2(row["k"]), row["log_ratio"])
        for row in calibration["measured"]
        if "log_ratio" in row  # documents made before the ratio was kept have none
    )
    return Efficiency(hardware, level, curves, 1.0, str(calibration["source"]), measured, corrections)
