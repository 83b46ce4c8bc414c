"""The process behind workers.py: loads one library, prepares parts, checks their outputs and times them.

One JSON line in, one out. What the library prints goes to standard error, whose last line is told when it crashes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import onnx

from stratoscope.errors import StratoscopeError
from stratoscope.graph.brick_model import with_weights
from stratoscope.measure.parts.feeds import feeds_for
from stratoscope.measure.parts.library import Array, Job, Library, Prepared, Unsupported
from stratoscope.measure.parts.protocol import Caches, time_slice
from stratoscope.spec.performance import Candidate

#: Largest difference to the reference over the largest magnitude of the reference. float32: sums of some ten thousand
#: products in another order, or by Winograd's transform; bfloat16: 8 bits of each input, sums in float32; int8: inputs
#: are rounded to a 256th of their range, exact sums.
TOLERANCE: Final[Mapping[str, float]] = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 6e-2}
_SENTINEL_SIZE: Final = 96
_MOST_WORDS: Final = 300
#: The alarm of a question comes so much later than the parent's own patience, which is the one that is reported.
ALARM_AFTER_S: Final = 30


class WrongOutput(Exception):
    """The outputs differ from the reference; `error` is by how much, None where they do not compare."""

    def __init__(self, text: str, error: float | None) -> None:
        super().__init__(text)
        self.error = error


class _Server:
    """What a worker holds: the library, the present model with its inputs, and the prepared calls."""

    def __init__(self, module: str, threads: int, folder: Path, caches: Caches) -> None:
        self._module = module
        self._library: Library | None = None
        self._threads = threads
        self._caches = caches
        self._folder = folder
        self._present: tuple[str, int] | None = None
        self._feeds: dict[str, Array] = {}
        self._prepared: dict[int, Prepared] = {}
        self._number = 0
        generator = np.random.default_rng(0)
        self._matrix = generator.standard_normal((_SENTINEL_SIZE, _SENTINEL_SIZE), dtype=np.float32)

    def answer(self, question: Mapping[str, Any]) -> Any:
        """The answer to one question, by its `do`."""
        return getattr(self, f"_{question['do']}")(question)

    def _load(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Imports the library, apart from the first part: an import that fails is no fault of a part."""
        self._library = importlib.import_module(self._module)
        return {"threads": self._threads, "cpus": sorted(os.sched_getaffinity(0))}

    def _open(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Prepares a candidate; with `reference` its outputs are checked, with `keep` they are written there."""
        assert self._library is not None
        path = self._model(question["model"], question["seed"])
        candidate = Candidate.model_validate(question["candidate"])
        job = Job(path, self._feeds, candidate, self._threads, self._folder, bool(question.get("empty")))
        prepared = self._library.prepare(job)
        error = None
        if question.get("keep"):
            np.savez(question["keep"], *prepared.outputs())
        if question.get("reference"):
            error = compare(prepared.outputs(), _load_arrays(question["reference"]), candidate.precision)
        self._number += 1
        self._prepared[self._number] = prepared
        return {
            "key": self._number,
            "max_error": error,
            "operators": prepared.operators,
            "settings": dict(prepared.settings),
        }

    def _model(self, source: str, seed: int) -> Path:
        """The file of the model with its weights, made once for all candidates of a part."""
        path = self._folder / "part.onnx"
        if self._present != (source, seed):
            self._present = None
            content = with_weights(Path(source).read_bytes(), seed)
            path.write_bytes(content)
            self._feeds = feeds_for(onnx.load_model_from_string(content), seed)
            self._present = (source, seed)
        return path

    def _sample(self, question: Mapping[str, Any]) -> dict[str, Any]:
        clean = self._caches.cleaner(question["cache"])
        call = self._prepared[question["key"]].call
        return time_slice(call, clean, question["calls"], question["seconds"])._asdict()

    def _sentinel(self, question: Mapping[str, Any]) -> list[int]:
        """Wall times of a fixed matrix product that fits into L1 and L2: it tells the clock and who else computes."""
        matrix = self._matrix

        def product() -> object:
            return np.matmul(matrix, matrix)

        clean = self._caches.cleaner("hot")
        return time_slice(product, clean, question["calls"], question["seconds"]).wall_ns

    def _close(self, question: Mapping[str, Any]) -> None:
        self._prepared.clear()
        gc.collect()

    def end(self) -> None:
        """Ends the helper threads."""
        self._prepared.clear()
        self._caches.close()


def _load_arrays(path: str) -> list[Array]:
    with np.load(path, allow_pickle=False) as held:
        return [held[f"arr_{place}"] for place in range(len(held.files))]


def compare(outputs: list[Array], reference: list[Array], precision: str) -> float:
    """The largest difference to the reference over its largest magnitude, over all outputs.

    Numbers that are not finite must be in the same places; integers and booleans must be equal. Raises WrongOutput.
    """
    if len(outputs) != len(reference):
        raise WrongOutput(f"it gives {len(outputs)} outputs where the reference has {len(reference)}", None)
    worst = 0.0
    for place, (mine, right) in enumerate(zip(outputs, reference, strict=True)):
        if mine.shape != right.shape:
            raise WrongOutput(f"output {place} has shape {list(mine.shape)}, the reference {list(right.shape)}", None)
        if right.dtype.kind not in "fV" or mine.dtype.kind in "iub":
            if not np.array_equal(mine, right):
                raise WrongOutput(f"output {place} is not equal to the reference", None)
            continue
        one, other = mine.astype(np.float64), right.astype(np.float64)
        finite = np.isfinite(other)
        if not np.array_equal(finite, np.isfinite(one)) or not np.array_equal(
            one[~finite], other[~finite], equal_nan=True
        ):
            raise WrongOutput(f"output {place} is not finite in other places than the reference", None)
        scale = float(np.max(np.abs(other[finite]), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(one[finite] - other[finite]), initial=0.0)) / scale)
    if worst > TOLERANCE.get(precision, TOLERANCE["float32"]):
        raise WrongOutput(f"its output differs from the reference by {worst:.2g} of the largest value", worst)
    return worst


def serve(server: _Server, questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answers questions until they end."""
    for line in questions:
        question = json.loads(line)
        signal.alarm(int(question["timeout_s"]) + ALARM_AFTER_S)  # ends a hung library where nobody is left to do it
        try:
            answer: dict[str, Any] = {"ok": server.answer(question)}
        except Unsupported as error:
            answer = {"status": "unsupported", "reason": _one_line(error)}
        except WrongOutput as error:
            answer = {"status": "wrong", "reason": _one_line(error), "max_error": error.error}
        except StratoscopeError as error:
            answer = {"status": "unsupported", "reason": _one_line(error)}
        except Exception as error:  # noqa: BLE001 - libraries raise what they like; it is recorded and the rest goes on
            answer = {"status": "failed", "reason": f"{type(error).__name__}: {_one_line(error)}"}
        signal.alarm(0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
    server.end()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MOST_WORDS] or type(error).__name__


def main() -> None:
    """Serves on standard input and output: module, threads, CPUs, folder, bytes of L2 and of the last level."""
    module, threads, cpus, folder, l2_bytes, last_level_bytes = sys.argv[1:7]
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    gc.disable()  # a collection in a timed call would be booked to the library
    caches = Caches(int(l2_bytes) or None, int(last_level_bytes) or None, int(threads))
    server = _Server(module, int(threads), Path(folder), caches)
    serve(server, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
