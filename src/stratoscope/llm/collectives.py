"""What communication costs: alpha-beta curves fitted to NCCL, hierarchical where a group spans scale-up domains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stratoscope.llm.base import Num
from stratoscope.llm.efficiency import CollectiveCurve, Cost, Efficiency
from stratoscope.llm.hardware import HardwareSpec

# Bytes on the wire per rank over bytes of the buffer, n ranks: ring all-reduce 2 (n-1)/n, the others (n-1)/n.
FACTOR = {"all_reduce": 2.0, "custom_all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "alltoall": 1.0}
NETWORK_BUS = 0.85  # share of the NIC's rate that NCCL reaches over InfiniBand at large messages; nccl-tests, recalled
ONE_SHOT_LIMIT = 512 * 1024  # bytes up to which one-shot all-reduce kernels are used before NCCL takes over


@dataclass(frozen=True)
class Group:
    """`ranks` devices in one collective, of which `local` share a scale-up domain (one NIC each beyond it)."""

    ranks: Num
    local: Num


def group(hardware: HardwareSpec, ranks: Num, stride: Num) -> Group:
    """The group of `ranks` devices that lie `stride` apart in the placement."""
    size = float(hardware.scale_up.size or 2**31)
    local = np.clip(np.floor(size / np.maximum(stride, 1.0)), 1.0, None)
    return Group(ranks, np.minimum(ranks, local))


def collective(efficiency: Efficiency, op: str, nbytes: Num, members: Group, *, one_shot: bool = False) -> Cost:
    """Seconds of one collective over a buffer of `nbytes` (the whole gathered buffer for all-gather and
    reduce-scatter).

    A group that spans domains runs in two levels: inside with everything, across with the share of one rank on its own
    NIC. One rank costs nothing.
    """
    hardware = efficiency.hardware
    ranks, local = np.asarray(members.ranks, dtype=float), np.asarray(members.local, dtype=float)
    size = np.maximum(np.asarray(nbytes, dtype=float), 1.0)
    curves = efficiency.curves.collectives
    inside, spread = _one_level(curves[op], FACTOR[op], size, local, hardware.scale_up.bandwidth_bytes_per_s.value)
    if one_shot and op == "all_reduce":
        fast, _ = _one_level(
            curves["custom_all_reduce"], 2.0, size, local, hardware.scale_up.bandwidth_bytes_per_s.value
        )
        inside = np.where(size <= ONE_SHOT_LIMIT, np.minimum(fast, inside), inside)
    outer = ranks / np.maximum(local, 1.0)
    across = np.zeros_like(size * outer)
    if np.any(outer > 1) and hardware.scale_out is not None:
        out = hardware.scale_out
        share = size / local
        wire = FACTOR[op] * (outer - 1) / outer * share / (NETWORK_BUS * out.bandwidth_bytes_per_s.value)
        steps = np.ceil(np.log2(np.maximum(outer, 1.0))) * FACTOR[op]
        latency = 0.0 if efficiency.level == "peak" else out.latency_s.value
        across = np.where(outer > 1, steps * latency + wire, 0.0)
    elif np.any(outer > 1):
        hardware.link(float(np.max(ranks)))
    time = np.where(ranks > 1, np.where(local > 1, inside, 0.0) + across, 0.0)
    low, high = spread.p10**efficiency.spread, spread.p90**efficiency.spread
    latency_part = np.where(ranks > 1, spread.alpha_s, 0.0)
    name = {"all_reduce": "all-reduce alpha-beta", "alltoall": "all-to-all alpha-beta"}.get(op, f"{op} alpha-beta")
    return Cost(time, time * low, time * high, 0.0, time - latency_part, latency_part, name, efficiency.level)


def point_to_point(efficiency: Efficiency, nbytes: Num, *, across: bool | npt.NDArray[np.bool_]) -> Cost:
    """Seconds to hand `nbytes` to the next pipeline stage, over the network (`across`) or inside the domain."""
    hardware = efficiency.hardware
    out = hardware.scale_out or hardware.scale_up
    up = hardware.scale_up
    bus = 1.0 if efficiency.level == "peak" else NETWORK_BUS
    alpha = np.where(across, out.latency_s.value, up.latency_s.value) * (efficiency.level != "peak")
    rate = np.where(across, out.bandwidth_bytes_per_s.value, up.bandwidth_bytes_per_s.value)
    time = alpha + np.asarray(nbytes, dtype=float) / (bus * rate)
    return Cost(time, time * 0.9, time * 1.3, 0.0, time - alpha, alpha, "point to point", efficiency.level)


def _one_level(
    curves: dict[str, CollectiveCurve], factor: float, size: Num, ranks: Num, bandwidth: float
) -> tuple[Num, CollectiveCurve]:
    """Time inside one domain; between the measured rank counts alpha and the bus fraction are interpolated in log2."""
    known = sorted(int(name) for name in curves)
    points = np.log2(np.array(known, dtype=float))
    where = np.log2(np.maximum(ranks, 1.0))
    alpha = np.interp(where, points, [curves[str(n)].alpha_s for n in known])
    # beyond the largest measured domain (NVL72, pods) latency grows with the depth of the tree
    alpha = alpha * np.maximum(1.0, where / max(points[-1], 1.0))
    bus = np.interp(where, points, [curves[str(n)].bus for n in known])
    half = np.interp(where, points, [curves[str(n)].half_bytes for n in known])
    wire = factor * (ranks - 1) / np.maximum(ranks, 1.0) * size / (bus * bandwidth)
    return alpha + wire * (1.0 + np.sqrt(half / size)), curves[str(known[-1])]
