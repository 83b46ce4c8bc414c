"""A library for tests: computes Relu right, or crashes, hangs, lies, refuses, by the candidate's implementation."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from stratoscope.measure.parts.library import Job, Prepared, Unsupported


def prepare(job: Job) -> Prepared:
    if job.empty:
        return Prepared(lambda: None, lambda: [], ("Identity",), {"threads": job.threads})
    array = next(iter(job.feeds.values()))
    how = job.candidate.implementation
    if how == "unsupported":
        raise Unsupported("it has no such operator")
    if how == "raises":
        raise RuntimeError("cannot allocate")
    if how == "crashes when opened":
        sys.stderr.write("internal compiler fault\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hangs when opened":
        time.sleep(60)
    calls = 0

    def call() -> object:
        nonlocal calls
        calls += 1
        if how == "crashes when sampled" and calls > 20:
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "hangs when sampled" and calls > 20:
            time.sleep(60)
        if how == "slow":
            np.maximum(np.zeros(1 << 18), 0)
        return np.maximum(array, 0)

    def outputs() -> list[np.ndarray]:
        right = np.maximum(array, 0)
        return [np.minimum(right, 6.0).astype(np.float32) if how == "clips" else right]

    operators = () if how == "folds" else ("Relu",)
    threads = 7 if how == "takes threads" else job.threads
    return Prepared(call, outputs, operators, {"threads": threads})
