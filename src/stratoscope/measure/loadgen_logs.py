"""Reads what MLPerf LoadGen wrote: its results to the digit, and the times of every sample."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.measure.timeline import Times

SUMMARY: Final = "mlperf_log_summary.txt"
DETAIL: Final = "mlperf_log_detail.txt"
TRACE: Final = "mlperf_log_trace.json"

_DETAIL_LINE = ":::MLLOG "
_KEPT = ("result_", "early_stopping_", "loadgen_version", "generated_", "effective_", "error_", "warning_")
_SUMMARY_LINE = re.compile(r"^\s*([^:]+?)\s*:\s+(.+?)\s*$")
_SAMPLE = re.compile(
    rb'"name":"Sample","cat":"default","ph":"b","pid":\d+,"id":\d+,"ts":(-?\d+)\.(\d{3}),"args":'
    rb'\{"sample_seq":(\d+),"query_seq":(\d+),"sample_idx":(\d+),"issue_start_ns":(-?\d+),"complete_ns":(-?\d+)\}'
)


def read_detail(folder: Path) -> dict[str, Any]:
    """LoadGen's results and effective settings by key; `errors` and `warnings` are lists of its messages.

    Raises:
        MeasurementError: the detail log is missing or holds no verdict (LoadGen did not come to its end).
    """
    found: dict[str, Any] = {"errors": [], "warnings": []}
    for line in _text(folder / DETAIL).splitlines():
        if not line.startswith(_DETAIL_LINE):
            continue
        try:
            entry = json.loads(line[len(_DETAIL_LINE) :])
        except ValueError:  # LoadGen does not escape quotes in its settings; no result holds one
            continue
        key = entry["key"]
        if key.startswith("error_"):
            found["errors"].append(entry["value"])
        elif key.startswith("warning_"):
            found["warnings"].append(entry["value"])
        elif key.startswith(_KEPT):
            found[key] = entry["value"]
    if "result_validity" not in found:
        raise MeasurementError(f"LoadGen left no result in {folder / DETAIL}", hint="look at the log for its reason")
    return found


def read_summary(folder: Path) -> dict[str, str]:
    """The lines `name : value` of LoadGen's summary, values as text, to the digit."""
    matches = (_SUMMARY_LINE.match(line) for line in _text(folder / SUMMARY).splitlines())
    return {match[1]: match[2] for match in matches if match}


def read_samples(folder: Path) -> tuple[Times, Times, Times, Times, Times]:
    """(query, sample, scheduled, issued, completed) of every sample in the order of issue, in nanoseconds from the
    scheduled time of the first; empty arrays where no sample was traced."""
    path = folder / TRACE
    rows: list[tuple[int, ...]] = []
    try:
        with path.open("rb") as file:
            if path.stat().st_size > 0:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                    rows = [tuple(map(int, match.groups())) for match in _SAMPLE.finditer(text)]
    except OSError as error:
        raise MeasurementError(f"cannot read LoadGen's trace {path}: {error.strerror}") from error
    table = np.array(rows, dtype=np.int64).reshape(-1, 7)
    table = table[np.argsort(table[:, 2], kind="stable")]
    micro, nano, _, query, sample, issued, completed = table.T
    scheduled = micro * 1000 + nano
    if scheduled.size:
        scheduled = scheduled - scheduled.min()
    return query.copy(), sample.copy(), scheduled, scheduled + issued, scheduled + completed


def check_whole(folder: Path, samples: int, detail: Mapping[str, Any]) -> None:
    """Raises MeasurementError where the trace has not each sample that LoadGen counted, as on a full disk."""
    counted = int(detail["result_query_count"]) * int(detail["generated_samples_per_query"])
    if samples != counted:
        raise MeasurementError(
            f"LoadGen's trace in {folder} holds {samples} of {counted} samples",
            hint="is the disk full? it takes some 700 bytes a sample",
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MeasurementError(f"cannot read LoadGen's log {path}: {error.strerror}") from error
