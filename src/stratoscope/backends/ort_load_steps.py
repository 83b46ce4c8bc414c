"""The steps inside a load of ONNX Runtime (parse, optimise, place weights, pack), from the runtime's own log."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from stratoscope.trace.steps import note

#: Lines of the log at which a step ends, in order.
_STEPS: Final = (
    ("parse", "Initializing session."),
    ("optimise", "Saving initialized tensors."),
    ("place weights", "Done saving initialized tensors"),
    ("pack", "Session successfully initialized."),
)
_INFO: Final = 1
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{9}) \[I:onnxruntime")


@contextmanager
def load_steps(settings: Any) -> Iterator[None]:
    """Notes the steps of the session that is opened with `settings` inside.

    Standard error is kept from the terminal meanwhile, for the runtime logs to it.
    """
    before = settings.log_severity_level
    settings.log_severity_level = _INFO
    wall, clock = time.time_ns(), time.perf_counter_ns()
    try:
        with _captured_errors() as lines:
            yield
    finally:
        settings.log_severity_level = before
    end = time.perf_counter_ns()
    marks = _marks(lines, clock - wall)
    start = clock
    for name, _ in _STEPS:
        if start <= marks.get(name, -1) <= end:
            note(name, start, marks[name])
            start = marks[name]


def _marks(lines: list[str], offset_ns: int) -> dict[str, int]:
    """When each step ended, on our clock; the log has local time."""
    marks = {}
    for line in lines:
        found = _STAMP.search(line)
        name = next((step for step, words in _STEPS if words in line), None)
        if found is not None and name is not None:
            seconds = int(datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").timestamp())
            marks[name] = seconds * 10**9 + int(found[2]) + offset_ns
    return marks


@contextmanager
def _captured_errors() -> Iterator[list[str]]:
    """Lines that are written to standard error inside, whoever writes them."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines.extend(file.read().decode(errors="replace").splitlines())
