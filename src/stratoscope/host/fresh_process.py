"""Questions to a fresh Python process: a module is run, reads a request as JSON, and answers as JSON; and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from stratoscope.errors import StratoscopeError


def ask(
    module: str,
    request: Mapping[str, Any],
    *,
    what: str,
    timeout_s: float,
    error: type[StratoscopeError],
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The answer of `module`, whose `main` calls `answer`.

    Raises:
        `error`: the process cannot be started, takes longer than `timeout_s`, says nothing, or reports an error;
            the message begins with `what`.
    """
    try:
        # -P: a file in the current folder cannot stand in for a module.
        done = subprocess.run(
            [sys.executable, "-P", "-m", module],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=None if environment is None else {**os.environ, **environment},
        )
    except subprocess.TimeoutExpired as late:
        raise error(f"{what} took longer than {timeout_s:g} s", hint="allow it more time") from late
    except OSError as missing:
        raise error(f"{what}: cannot start {sys.executable}: {missing.strerror}") from missing
    try:
        reply = json.loads(done.stdout)
    except ValueError as garbled:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise error(f"{what}: the process ended with {done.returncode}: {last[0]}") from garbled
    if "error" in reply:
        raise error(f"{what}: {reply['error']}")
    return dict(reply)


def end_child(process: subprocess.Popen[Any], patience_s: float = 5.0) -> None:
    """Closes a child's pipes, which tells it to end, and kills it where it does not within `patience_s` seconds."""
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            with suppress(BrokenPipeError):  # it is gone already
                stream.close()
    try:
        process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answer(handle: Callable[[dict[str, Any]], Mapping[str, Any]]) -> int:
    """Answers one request; standard output holds nothing but the answer, whatever a framework prints there.

    Returns the exit status. Errors of Stratoscope are part of the answer; others end the process with their traceback.
    """
    answer_to = os.dup(1)
    os.dup2(2, 1)
    try:
        reply: Mapping[str, Any] = handle(json.load(sys.stdin))
    except StratoscopeError as error:
        reply = {"error": str(error)}
    with os.fdopen(answer_to, "w") as out:
        json.dump(reply, out)
    return 2 if "error" in reply else 0
