"""Measurements of parts in a file: JSON lines, one a measurement, behind a first line that says how many follow."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from stratoscope.errors import StoreError
from stratoscope.spec.performance import PartMeasurement
from stratoscope.store.faults import clear_errors

SCHEMA: Final = "stratoscope/performance/1"
#: Longest line that is read: a measurement with its thousand samples takes some 20 kB.
MAX_LINE_BYTES: Final = 1 << 24
_HINT: Final = "merge takes files that `stratoscope bench export` wrote"


@dataclass(frozen=True, slots=True)
class PartMergeResult:
    """What a merge did: measurements added, there already as they are, and there with other samples (ours stay)."""

    added: int
    present: int
    differing: int


def write_measurements(measurements: Sequence[PartMeasurement], file: Path) -> None:
    """Writes the file in one step. Raises StoreError where that is not possible."""
    with clear_errors(file, "write the export"):
        descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                out.write(json.dumps({"schema": SCHEMA, "measurements": len(measurements)}) + "\n")
                for one in measurements:
                    out.write(one.model_dump_json(by_alias=True) + "\n")
                out.flush()
                os.fsync(out.fileno())
            os.chmod(part, 0o644)
            os.replace(part, file)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise


def read_measurements(file: Path) -> Iterator[PartMeasurement]:
    """The measurements of a file, checked one by one and, at its end, for their number.

    Raises:
        StoreError: it cannot be read, is no such file, is cut off, or a line is no measurement; the line is named.
    """
    with clear_errors(file, "read the export"), file.open("rb") as lines:
        announced = _announced(lines.readline(MAX_LINE_BYTES + 1), file)
        number, found = 1, 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise StoreError(f"{file}, line {number} is too long to be a measurement", hint=_HINT)
            if line.strip():
                found += 1
                yield _measurement(line, file, number)
    if found != announced:
        raise StoreError(
            f"{file} holds {found} measurements where its first line announces {announced}: it is cut off or joined",
            hint="export it again",
        )


def _announced(line: bytes, file: Path) -> int:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("schema") != SCHEMA or not isinstance(head.get("measurements"), int):
        raise StoreError(f"{file} is no export of measured parts: its first line does not say {SCHEMA}", hint=_HINT)
    return int(head["measurements"])


def _measurement(line: bytes, file: Path, number: int) -> PartMeasurement:
    try:
        return PartMeasurement.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "line"
        raise StoreError(
            f"{file}, line {number} is not the measurement of a part: {where}: {first['msg']}", hint=_HINT
        ) from None
