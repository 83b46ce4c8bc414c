"""Running the command line as a user does: one process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """Lines on standard error that are not empty."""
        return [line for line in self.err.splitlines() if line.strip()]


@pytest.fixture
def stratoscope(tmp_path: Path) -> Callable[..., Result]:
    """Runs `stratoscope ARGS` in an empty folder with a database of its own; keyword arguments: the environment."""

    def run(*arguments: str | Path, **environment: str) -> Result:
        process = subprocess.run(
            [sys.executable, "-m", "stratoscope", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            env={**os.environ, "STRATOSCOPE_DB": str(tmp_path / "results.db"), "COLUMNS": "100", **environment},
        )
        return Result(process.returncode, process.stdout, process.stderr)

    return run
