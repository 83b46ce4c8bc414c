"""What decides a kernel's time on a GPU, from the vendors' data sheets: units, clock, peaks, bandwidth, L2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from stratoscope.errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        multiprocessors: streaming multiprocessors (SMs) that are enabled.
        clock_hz: the SM clock that the peaks are stated at.
        peak_flops_per_s: dense peak of matrix products by NumPy type name ("bfloat16", "float8", "int8"); int8
            operations count as FLOPs.
        bandwidth_bytes_per_s: of device memory.
        l2_bytes: last-level cache.
    """

    name: str
    multiprocessors: int
    clock_hz: float
    peak_flops_per_s: Mapping[str, float]
    bandwidth_bytes_per_s: float
    l2_bytes: int

    def peak(self, kind: str) -> float:
        """The peak of a type; raises MeasurementError where the GPU has no such unit."""
        found = self.peak_flops_per_s.get(kind) or self.peak_flops_per_s.get({"float16": "bfloat16"}.get(kind, ""))
        if found is None:
            raise MeasurementError(
                f"{self.name} has no matrix units for {kind}", hint=f"it has {', '.join(self.peak_flops_per_s)}"
            )
        return found


def _gpu(
    name: str, units: int, clock_ghz: float, half: float, eight: float, int8: float, gbytes: float, l2_mb: int
) -> Gpu:
    """Peaks in TFLOP/s, 0 where there is none."""
    peaks = {"bfloat16": half, "float8": eight, "int8": int8}
    return Gpu(
        name,
        units,
        clock_ghz * 1e9,
        MappingProxyType({kind: peak * 1e12 for kind, peak in peaks.items() if peak}),
        gbytes * 1e9,
        l2_mb * 10**6,
    )


#: From the data sheets and architecture white papers of NVIDIA. Peaks are dense; of GeForce with float32 accumulation.
#: The clock is the one at which units * operations a clock gives the stated peak, where it differs from the highest.
_TABLE: Final = (
    _gpu("t4", 40, 1.59, 65, 0, 130, 320, 4),
    _gpu("v100-sxm2", 80, 1.53, 125, 0, 0, 900, 6),
    _gpu("a10", 72, 1.695, 125, 0, 250, 600, 6),
    _gpu("a30", 56, 1.44, 165, 0, 330, 933, 24),
    _gpu("a40", 84, 1.74, 149.7, 0, 299.3, 696, 6),
    _gpu("a100-sxm4-40gb", 108, 1.41, 312, 0, 624, 1555, 40),
    _gpu("a100-pcie-80gb", 108, 1.41, 312, 0, 624, 1935, 40),
    _gpu("a100-sxm4-80gb", 108, 1.41, 312, 0, 624, 2039, 40),
    _gpu("rtx-3090", 82, 1.695, 71, 0, 284, 936, 6),
    _gpu("rtx-4090", 128, 2.52, 165.2, 330.3, 660.6, 1008, 72),
    _gpu("l4", 58, 2.04, 121, 242, 242, 300, 48),
    _gpu("l40s", 142, 2.52, 362, 733, 733, 864, 96),
    _gpu("h20", 78, 1.83, 148, 296, 296, 4000, 60),
    _gpu("h100-pcie", 114, 1.62, 756, 1513, 1513, 2000, 50),
    _gpu("h100-nvl", 132, 1.545, 835, 1671, 1671, 3900, 50),
    _gpu("h100-sxm5", 132, 1.83, 989.4, 1978.9, 1978.9, 3350, 50),
    _gpu("gh200", 132, 1.83, 989.4, 1978.9, 1978.9, 4000, 50),
    _gpu("h200-sxm5", 132, 1.83, 989.4, 1978.9, 1978.9, 4800, 50),
    _gpu("b200-sxm6", 148, 1.856, 2250, 4500, 4500, 8000, 126),
    _gpu("gb200", 152, 2.0, 2500, 5000, 5000, 8000, 126),
    _gpu("b300-sxm6", 148, 1.856, 2250, 4500, 0, 8000, 126),
    _gpu("rtx-pro-6000", 188, 2.62, 503.8, 1007.6, 1007.6, 1792, 128),
)
GPUS: Final[Mapping[str, Gpu]] = MappingProxyType({gpu.name: gpu for gpu in _TABLE})
_NOISE: Final = re.compile(r"nvidia|geforce|tesla|graphics|hbm3?e?|[^a-z0-9]+")


def find_gpu(name: str) -> Gpu:
    """The GPU that a device's name means ("NVIDIA A100-SXM4-80GB", "h200"); of several fits the one named first.

    Raises MeasurementError where none or none clearly fits.
    """
    asked = _words(name)
    for gpu in GPUS.values():
        if _words(gpu.name) == asked:
            return gpu
    fits = [gpu for gpu in GPUS.values() if _words(gpu.name) <= asked or (asked and asked <= _words(gpu.name))]
    if not fits:
        raise MeasurementError(f"no GPU {name!r} in the table", hint=f"there are {', '.join(GPUS)}")
    return max(fits, key=lambda gpu: len(_words(gpu.name) & asked))


def _words(name: str) -> frozenset[str]:
    return frozenset(word for word in _NOISE.sub(" ", name.lower()).split() if word)
