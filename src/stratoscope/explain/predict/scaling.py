"""A time measured on one machine as it would be on another, by the ratios of their roofs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from stratoscope.errors import MeasurementError

if TYPE_CHECKING:
    from stratoscope.host.roofs import Roofs


@dataclass(frozen=True, slots=True)
class Resources:
    """What a machine offers to one way of running: peak, and bandwidth by the size of what is worked on.

    Attributes:
        flops_per_s: peak of the element type with the threads that are used.
        bandwidths: (bytes that the level holds, byte/s), nearest level first; the last holds everything.
        source: where the figures are from.
    """

    flops_per_s: float
    bandwidths: tuple[tuple[float, float], ...]
    source: str = ""

    def bandwidth(self, working_set: float) -> float:
        """Byte/s of the nearest level that holds so many bytes."""
        return next((rate for size, rate in self.bandwidths if working_set <= size), self.bandwidths[-1][1])


@dataclass(frozen=True, slots=True)
class Exponents:
    """How much of a ratio of roofs arrives: 1 all of it, 0 nothing. Fitted by `fit_exponents`."""

    compute: float = 1.0
    memory: float = 1.0


#: Without a fit, whole ratios: plain roofline scaling of each resource.
WHOLE: Final = Exponents()
#: Relative error that nine of ten models stay within under plain scaling: one and two threads of one machine taken for
#: two machines, both ways, six models (benchmarks/predict_machines.py threads: median 14 %, worst ShuffleNet, which
#: does not get faster with threads). Other machines were not at hand.
SCALING_ERROR: Final = 0.71


#: So many parts measured on both machines are fitted to; with fewer, whole ratios are taken.
LEAST_PAIRS: Final = 8
_FOLDS: Final = 8


@dataclass(frozen=True, slots=True)
class Load:
    """What a part asks of a machine."""

    flops: float
    moved_bytes: float


#: A part that both machines have measured: seconds here, seconds there, and what it asks.
Pair = tuple[float, float, Load]


@dataclass(frozen=True, slots=True)
class Fit:
    """What parts measured on both machines say.

    Attributes:
        exponents: fitted to all pairs.
        pairs: how many there were.
        error: relative error, either way, that nine of ten parts stayed within when left out of the fit (in eighths).
            A model's is smaller where its parts err independently.
        plain_error: the same with exponents of 1.
    """

    exponents: Exponents
    pairs: int
    error: float
    plain_error: float


def memory_share(load: Load, here: Resources) -> float:
    """The part of a load's time that is memory's, if it reached both roofs of the machine: 0 compute, 1 memory."""
    compute = load.flops / here.flops_per_s
    memory = load.moved_bytes / here.bandwidth(load.moved_bytes)
    return memory / (compute + memory) if compute + memory > 0 else 1.0


def scaled(seconds: float, load: Load, here: Resources, there: Resources, exponents: Exponents = WHOLE) -> float:
    """Seconds there of a load that takes `seconds` here.

    T' = T * (F / F')^(a (1 - g)) * (B / B')^(b g) with g the memory share of the load here: the form of Habitat's wave
    scaling (Yu et al., USENIX ATC 2021), in which the exponents a and b are fitted.
    """
    share = memory_share(load, here)
    compute = math.log(here.flops_per_s / there.flops_per_s)
    memory = math.log(here.bandwidth(load.moved_bytes) / there.bandwidth(load.moved_bytes))
    return seconds * math.exp(exponents.compute * (1 - share) * compute + exponents.memory * share * memory)


def fitted_scaling(pairs: Sequence[Pair], here: Resources, there: Resources) -> Fit | None:
    """Exponents from pairs, with their error on pairs that were left out; None where there are fewer than LEAST_PAIRS.

    The pairs are dealt into eight folds in their order; each fold is judged by a fit to the others.
    """
    if len(pairs) < LEAST_PAIRS:
        return None
    left_out: list[float] = []
    plain: list[float] = []
    for fold in range(_FOLDS):
        known = [pair for number, pair in enumerate(pairs) if number % _FOLDS != fold]
        exponents = fit_exponents(known, here, there)
        for seconds, other, load in pairs[fold::_FOLDS]:
            for errors, used in ((left_out, exponents), (plain, WHOLE)):
                errors.append(abs(math.log(scaled(seconds, load, here, there, used) / other)))
    error, plain_error = (float(math.expm1(np.quantile(errors, 0.9))) for errors in (left_out, plain))
    return Fit(fit_exponents(pairs, here, there), len(pairs), error, plain_error)


def fit_exponents(pairs: Sequence[Pair], here: Resources, there: Resources, *, ridge: float = 1.0) -> Exponents:
    """Exponents that explain pairs (seconds here, seconds there, load) best, by least squares of logarithms.

    They are drawn towards 1 (plain scaling) with the weight of `ridge` pairs, and kept in [0, 2]: where one resource
    does not differ between the machines, its exponent cannot be told and stays 1. Raises MeasurementError without one.
    """
    if not pairs:
        raise MeasurementError("no part was measured on both machines: exponents cannot be fitted")
    rows, rights = [], []
    for seconds, other, load in pairs:
        share = memory_share(load, here)
        compute = math.log(here.flops_per_s / there.flops_per_s) * (1 - share)
        memory = math.log(here.bandwidth(load.moved_bytes) / there.bandwidth(load.moved_bytes)) * share
        rows.append((compute, memory))
        rights.append(math.log(other / seconds) - compute - memory)
    matrix, right = np.array(rows), np.array(rights)
    scale = max(float((matrix**2).sum() / len(rows)), 1e-12)
    found = np.linalg.solve(matrix.T @ matrix + ridge * scale * np.eye(2), matrix.T @ right)
    compute_exponent, memory_exponent = np.clip(1 + found, 0.0, 2.0)
    return Exponents(float(compute_exponent), float(memory_exponent))


def resources_of(roofs: Roofs, threads: int = 1, element_type: str = "float32") -> Resources:
    """The resources that a machine's record tells, for so many threads.

    Raises MeasurementError where the record has no peak or no bandwidth for them.
    """
    peak = roofs.peak(element_type, threads)
    if peak.value is None:
        raise MeasurementError(
            f"the machine's record has no peak: {peak.figure.reason}",
            hint=f"measure it there with --probe gemm; it has thread counts {roofs.thread_counts}",
        )
    sizes = {
        f"L{cache.level}": float(cache.size_bytes * min(cache.instances, -(-threads // cache.shared_by)))
        for cache in roofs.record.hardware.cpu.caches or ()
        if cache.type != "instruction"
    }
    levels = []
    for level in roofs.levels:
        rate = roofs.bandwidth(level, threads).value
        if rate is not None:
            levels.append((sizes.get(level, math.inf), rate))
    if not levels:
        raise MeasurementError(
            "the machine's record has no memory bandwidth", hint="measure it there with --probe stream"
        )
    levels[-1] = (math.inf, levels[-1][1])
    return Resources(peak.value, tuple(levels), f"{roofs.record.hardware.cpu.model}, {threads} threads")
