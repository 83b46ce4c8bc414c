"""The process behind workers.py: loads one library and runs its cases, one JSON line in and one out."""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any

from stratoscope.measure.machine.cuda_cases import Timed, prepare_cuda
from stratoscope.measure.machine.library_cases import PREPARE, CannotRun
from stratoscope.measure.machine.probe import Operate, Repeat
from stratoscope.measure.machine.timing import operate, operate_process, repeated


def serve(library: str, threads: int, questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answers questions until they end."""
    cases: dict[int, Operate] = {}
    for number, line in enumerate(questions):
        question = json.loads(line)
        try:
            answer = {"ok": _answer(question, number, library, threads, cases)}
        except (CannotRun, ImportError, MemoryError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            answer = {"error": f"{library}: {' '.join(str(error).split())[:300] or type(error).__name__}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _answer(question: dict[str, Any], number: int, library: str, threads: int, cases: dict[int, Operate]) -> Any:
    """The answer to `open` (a key and a note), `run` (a repeat) or `close`."""
    if question["do"] == "open":
        case = question["case"]
        if library == "cuda":
            timed, note = prepare_cuda(case, threads)
            if timed is not None:
                cases[number] = _device_timed(timed)
        else:
            call, note = PREPARE[library](case, threads)
            cases[number] = (operate if threads == 1 else operate_process)(repeated(call))
        return {"key": number, "note": note}
    if question["do"] == "close":
        cases.pop(question["key"], None)
        return None
    return list(cases[question["key"]](question["iterations"]))


def _device_timed(timed: Timed) -> Operate:
    """A call that tells the device's own time, with the host thread's noise around it."""
    took = 0

    def remember(iterations: int) -> None:
        nonlocal took
        took = timed(iterations)

    run = operate(remember)

    def device(iterations: int) -> Repeat:
        repeat = run(iterations)
        return repeat._replace(wall_ns=max(1, took))

    return device


def main() -> None:
    """Serves on standard input and output; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.argv[1], int(sys.argv[2]), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
