"""The fresh process of an explained cold start: notes when each step begins and ends; see `cold`."""

from __future__ import annotations

import time

_BEGIN_NS = time.perf_counter_ns()

import json  # noqa: E402 - the first statement of this module notes when the process began its work
import os  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from datetime import datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

#: Lines of ONNX Runtime's log (level INFO) at which a step of its load ends, in order.
_STEPS = (
    ("parse", "Initializing session."),
    ("optimise", "Saving initialized tensors."),
    ("place weights", "Done saving initialized tensors"),
    ("pack", "Session successfully initialized."),
)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{9}) \[I:onnxruntime")


class _Notes:
    """Steps as (name, parent, start, end), of one clock."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str | None, int, int]] = []

    @contextmanager
    def step(self, name: str, parent: str | None = None) -> Iterator[None]:
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self.steps.append((name, parent, start, time.perf_counter_ns()))


def _explain(request: dict[str, Any]) -> dict[str, Any]:
    notes = _Notes()
    notes.steps.append(("start the interpreter", None, int(request["spawned_ns"]), _BEGIN_NS))
    with notes.step("import"):
        import numpy as np
        import onnxruntime

        from stratoscope.share.library import Library
        from stratoscope.share.memory import give_back_free_memory, private_bytes
        from stratoscope.share.opening import open_arrays
        from stratoscope.share.probe import session_options

    shared = request["artifact"] is not None
    settings = session_options("off" if shared else request["optimization"])
    settings.intra_op_num_threads = int(request["threads"])
    kept = []
    with np.load(request["inputs"], allow_pickle=False) as values:
        feeds = {name: values[name] for name in values.files}
    before = private_bytes()
    path = request["graph"]
    if shared:
        with notes.step("find"):
            library = Library.open()
            artifact = library.find(request["artifact"])
            if artifact is None:
                raise ValueError("the prepared model is gone")
        with notes.step("map"):
            arrays = open_arrays(artifact, library)
        tier = arrays.tier
        if artifact.manifest.packing == "direct":
            with notes.step("page faults"):
                arrays.populate()
            raw = {tensor.name for tensor in artifact.manifest.tensors if tensor.raw}
            for name, array in arrays.items():
                if name not in raw:
                    kept.append((onnxruntime.OrtValue.ortvalue_from_numpy(array), array))
                    settings.add_initializer(name, kept[-1][0])
    else:
        tier = "private"
    settings.log_severity_level = 1
    with _captured_errors() as log:
        wall, clock = time.time_ns(), time.perf_counter_ns()
        with notes.step("load"):
            session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    _add_steps(notes, log, clock - wall)
    give_back_free_memory()
    private = private_bytes() - before
    with notes.step("first run"):
        session.run(None, feeds)
    again = time.perf_counter_ns()
    for number in range(int(request["steady_runs"])):
        with notes.step(f"later run {number + 1}"):
            session.run(None, feeds)
    return {"steps": notes.steps, "tier": tier, "private_bytes": private, "again_ns": again}


def _add_steps(notes: _Notes, log: list[str], offset_ns: int) -> None:
    """The steps inside the load, from the runtime's own log; what it does not tell stays part of the load."""
    _, _, start, end = notes.steps[-1]
    marks = {}
    for line in log:
        found = _STAMP.search(line)
        if found is None:
            continue
        seconds = int(datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").timestamp())
        for name, text in _STEPS:
            if text in line:
                marks[name] = seconds * 10**9 + int(found[2]) + offset_ns
    for name, _ in _STEPS:
        if name in marks and start <= marks[name] <= end:
            notes.steps.append((name, "load", start, marks[name]))
            start = marks[name]


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


def main() -> int:
    """Answers one request; standard output holds nothing but the answer."""
    answer_to = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = _explain(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # noqa: BLE001 - the process exists to report what happens
        answer = {"error": " ".join(str(error).split())[:500] or type(error).__name__}
    with os.fdopen(answer_to, "w") as out:
        json.dump(answer, out)
    return 2 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
