"""Send times of a load, as arrays of nanoseconds from its start: constant rate, Poisson, and replay of a trace."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.errors import MeasurementError

#: Queries of one load; each is a row of the samples, and LoadGen holds each in memory (some 300 bytes).
MAX_QUERIES: Final = 1_000_000
#: Size of a trace file; a million lines of microseconds are below it.
MAX_TRACE_BYTES: Final = 64 * 2**20

Schedule = NDArray[np.int64]


def constant_rate(rate: float, min_duration_s: float, min_queries: int) -> Schedule:
    """Sends every 1/`rate` s from 0 on, to the first one at or after the duration once there are `min_queries`."""
    count = _bounded_count(rate, max(min_queries, math.ceil(rate * min_duration_s) + 1))
    return np.round(np.arange(count) * (1e9 / rate)).astype(np.int64)


def poisson(rate: float, min_duration_s: float, min_queries: int, seed: int) -> Schedule:
    """A Poisson process of `rate` from 0 on: exponential gaps, as LoadGen's server scenario draws them.

    It ends with the first query at or after `min_duration_s` once there are `min_queries`.
    """
    expected = _bounded_count(rate, max(min_queries, math.ceil(rate * min_duration_s)))
    rng = np.random.default_rng(seed)
    times = np.zeros(1)
    while times.size < min_queries or times[-1] < min_duration_s:
        block = rng.exponential(1 / rate, max(64, expected // 2))
        times = np.concatenate((times, times[-1] + np.cumsum(block)))
    last = max(min_queries - 1, int(np.searchsorted(times, min_duration_s, side="left")))
    return (times[: last + 1] * 1e9).astype(np.int64)


def read_trace(path: Path, max_duration_s: float) -> tuple[Schedule, str | None]:
    """The send times of a trace file, from its first one on, and a note where they had to be sorted.

    The file holds one time in seconds a line, or one JSON object a line with a number `t`; empty lines and lines that
    start with `#` are passed over.

    Raises:
        MeasurementError: the file cannot be read or is too large; a time is negative, not finite or no number (the
            line is named); the trace is empty or longer than `max_duration_s`.
    """
    times = np.array([_time(path, number, line) for number, line in _lines(path)])
    if times.size == 0:
        raise MeasurementError(f"trace {path} holds no send time", hint="write one time in seconds a line")
    if times.size > MAX_QUERIES:
        raise MeasurementError(f"trace {path} holds {times.size} queries, more than {MAX_QUERIES}", hint="split it")
    note = None
    if (np.diff(times) < 0).any():
        backwards = int(np.count_nonzero(np.diff(times) < 0))
        note = f"the trace was not in order ({backwards} steps back in time) and has been sorted"
        times = np.sort(times)
    times = times - times[0]
    if times[-1] > max_duration_s:
        raise MeasurementError(
            f"trace {path} lasts {times[-1]:g} s, longer than the {max_duration_s:g} s allowed",
            hint="raise max_duration_s or cut the trace",
        )
    return np.round(times * 1e9).astype(np.int64), note


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        size = path.stat().st_size
        if size > MAX_TRACE_BYTES:
            raise MeasurementError(f"trace {path} has {size} bytes, more than {MAX_TRACE_BYTES}", hint="split it")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MeasurementError(f"cannot read trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MeasurementError(f"trace {path} is no text: {error.reason} at byte {error.start}") from error
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _time(path: Path, number: int, line: str) -> float:
    value: Any = line
    if line.startswith("{"):
        try:
            value = json.loads(line).get("t")
        except (ValueError, RecursionError) as error:
            raise MeasurementError(f"{path}, line {number}: no JSON object ({error})") from error
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise MeasurementError(f"{path}, line {number}: no number `t`", hint='write {"t": 0.25}')
    try:
        seconds = float(value)
    except (ValueError, OverflowError) as error:
        raise MeasurementError(f"{path}, line {number}: {line[:40]!r} is no number of seconds") from error
    if not math.isfinite(seconds) or seconds < 0:
        raise MeasurementError(f"{path}, line {number}: a send time is finite and not negative, not {line[:40]}")
    return seconds


def _bounded_count(rate: float, count: int) -> int:
    """`count`, once it is sure to fit."""
    if count > MAX_QUERIES:
        raise MeasurementError(
            f"{rate:g} queries a second make {count} queries, more than the {MAX_QUERIES} of one load",
            hint="lower target_qps, min_duration_s or min_queries",
        )
    return count
