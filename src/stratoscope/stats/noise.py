"""The noise gate: which repeats of a measurement the machine disturbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Scales the median absolute deviation to the standard deviation of a normal distribution.
MAD_TO_SIGMA: Final = 1.4826
#: A machine that disturbs more than this part of the repeats is not called quiet: what passes may be touched too, and
#: figures over all samples (a tail percentile under load) certainly are.
MAX_REFUSED: Final = 0.1

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GateResult:
    """The gate's verdict.

    Attributes:
        accepted: one flag a repeat.
        quiet: true when nine tenths of the repeats passed, false when fewer did, None when there was no signal.
        reason: which signal was used, and what was refused; never empty.
        signal: "wait", "cpu" or "none".
    """

    accepted: Bools
    quiet: bool | None
    reason: str
    signal: str


def gate(
    wall_ns: ArrayLike,
    cpu_ns: ArrayLike | None = None,
    wait_ns: ArrayLike | None = None,
    involuntary: ArrayLike | None = None,
    *,
    max_wait_share: float = 0.05,
    max_cpu_drop: float = 0.05,
    sigmas: float = 5.0,
) -> GateResult:
    """Accepts or rejects each repeat by what the machine did to it, never by how long it took.

    Signals, the first that is there: (1) run-queue wait as a share of wall time, refused above `max_wait_share`; (2)
    CPU time over wall time, refused where it falls short of the median repeat by more than `max_cpu_drop` and by more
    than `sigmas` robust standard deviations. The second compares repeats with each other only: with several threads
    the calling thread rightly uses less CPU than wall time, and the same in each repeat. Involuntary switches refuse
    nothing alone (one that costs no wait is harmless); their number is told in the reason.

    Where fewer than nine tenths pass, `quiet` is false. Where fewer than half do, the half that was disturbed least is
    kept, so that there is a figure. All arrays have shape (repeats,); raises ValueError where they do not agree.
    """
    wall = _column(wall_ns, "wall time")
    if (wall <= 0).any():
        raise ValueError("a repeat took no time at all")
    wait, cpu, switches = (
        None if given is None else _matching(given, name, wall.size)
        for given, name in ((wait_ns, "run-queue wait"), (cpu_ns, "CPU time"), (involuntary, "involuntary switches"))
    )
    everything = np.ones(wall.size, dtype=bool)
    if wall.size == 0 or (wait is None and cpu is None):
        why = "no repeats" if wall.size == 0 else "neither run-queue wait nor CPU time is available"
        return GateResult(everything, None, f"not judged: {why}", "none")
    if wait is not None:
        signal, rule = "wait", f"run-queue wait above {max_wait_share:.0%} of wall time"
        disturbance = wait / wall
        limit = max_wait_share
    else:
        assert cpu is not None
        share = cpu / wall
        centre = float(np.median(share))
        spread = MAD_TO_SIGMA * float(np.median(np.abs(share - centre)))
        signal, rule = "cpu", f"CPU share more than {max_cpu_drop:.0%} below the median repeat"
        disturbance = centre - share
        limit = max(max_cpu_drop * centre, sigmas * spread)
    return _verdict(disturbance, limit, signal, rule, switches)


def _verdict(disturbance: Floats, limit: float, signal: str, rule: str, switches: Floats | None) -> GateResult:
    accepted = disturbance <= limit
    passed, n = int(accepted.sum()), accepted.size
    counted = "" if switches is None else f"; {int(switches.sum())} involuntary switches"
    if 2 * passed >= n:
        quiet = n - passed <= MAX_REFUSED * n
        reason = f"{n - passed} of {n} repeats refused: {rule}" if passed < n else f"all {n} repeats pass: no {rule}"
        return GateResult(accepted, quiet, ("" if quiet else "machine not quiet: ") + reason + counted, signal)
    kept = np.zeros(n, dtype=bool)
    kept[np.argsort(disturbance, kind="stable")[: (n + 1) // 2]] = True
    reason = (
        f"machine not quiet: {n - passed} of {n} repeats have {rule}; the {int(kept.sum())} least disturbed are kept"
    )
    return GateResult(kept, False, reason + counted, signal)


def _column(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name} holds a value that is negative or not finite")
    return array


def _matching(values: ArrayLike, name: str, size: int) -> Floats:
    array = _column(values, name)
    if array.size != size:
        raise ValueError(f"{name} has {array.size} values for {size} repeats")
    return array
