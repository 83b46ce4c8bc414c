"""Takes runs from one database to another: a JSONL file of records, with their tables in a folder beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pydantic import ValidationError

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store.artifacts import artifact_path, write_atomically
from stratoscope.store.faults import clear_errors
from stratoscope.store.ids import check_run_id

if TYPE_CHECKING:
    from stratoscope.store.store import Store

#: Largest record that is read from a file: a record of 10,000 layers takes some 20 MB.
MAX_RECORD_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did, as run ids: added, there already with the same content, and added without their tables."""

    added: tuple[str, ...]
    present: tuple[str, ...]
    without_tables: tuple[str, ...]


def tables_folder(file: Path) -> Path:
    """The folder of the tables that belong to an export: `x.artifacts` beside `x.jsonl`."""
    return file.with_name(f"{file.stem}.artifacts")


def export_runs(store: Store, file: Path, selectors: Sequence[str] | None = None) -> tuple[str, ...]:
    """Writes the runs that `selectors` mean (None: all) to `file`, the oldest first, and returns their ids.

    The tables of the runs are copied before the file is put in place, so an export that is there is whole.

    Raises:
        StoreError: a run or one of its tables is missing, or the file cannot be written.
    """
    if selectors is None:
        ids = [summary.id for summary in reversed(store.list())]
    else:
        ids = list(dict.fromkeys(store.resolve(selector) for selector in selectors))
    with clear_errors(file, "write the export"):
        descriptor, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as out:
                for run_id in ids:
                    record = store.get(run_id)
                    missing = _copy_tables(record, store.artifacts, tables_folder(file))
                    if missing:
                        raise StoreError(
                            f"run {run_id}: {missing[0]} is missing",
                            hint="put the artefact folder back, or delete the run",
                        )
                    out.write(record.model_dump_json(by_alias=True) + "\n")
                out.flush()
                os.fsync(out.fileno())
            os.chmod(part, 0o644)
            os.replace(part, file)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    return tuple(ids)


def merge_runs(store: Store, file: Path) -> MergeResult:
    """Adds the runs of an export to the store; a run that is there already is left as it is, so merging twice is safe.

    The whole file is checked before anything is added. A run whose tables did not come along is added without them,
    and they are filled in by a later merge that has them.

    Raises:
        StoreError: the file cannot be read, a line is no record, or a run has the id but not the content of one here.
    """
    with clear_errors(file, "read the export"):
        for record in _records(file):
            _is_present(store, record)
    added: list[str] = []
    present: list[str] = []
    without: list[str] = []
    with clear_errors(file, "merge the export"):
        for record in _records(file):
            missing = _copy_tables(record, tables_folder(file), store.artifacts)
            if _is_present(store, record):
                present.append(record.id)
                continue
            store.insert(record)
            added.append(record.id)
            if missing:
                without.append(record.id)
    return MergeResult(tuple(added), tuple(present), tuple(without))


def _is_present(store: Store, record: RunRecord) -> bool:
    known = store.record_json(record.id)
    if known is None:
        return False
    if RunRecord.model_validate_json(known) != record:
        raise StoreError(
            f"run {record.id} is already in {store} with another content; nothing was changed for it",
            hint="delete one of the two first",
        )
    return True


def _records(file: Path) -> Iterator[RunRecord]:
    with file.open("rb") as lines:
        for number, line in _bounded_lines(lines, file):
            try:
                record = RunRecord.model_validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(map(str, first["loc"])) or "line"
                raise StoreError(
                    f"{file}, line {number} is not the record of a run: {where}: {first['msg']}",
                    hint="merge takes files that `stratoscope results export` wrote",
                ) from None
            check_run_id(record.id)
            yield record


def _bounded_lines(lines: IO[bytes], file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := lines.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise StoreError(f"{file}, line {number} is longer than {MAX_RECORD_BYTES >> 20} MiB: not a record")
        if line.strip():
            yield number, line


def _copy_tables(record: RunRecord, source: Path, target: Path) -> list[Path]:
    """Copies the tables of a run that `target` does not have yet, and returns those that `source` does not have."""
    missing: list[Path] = []
    for relative in record.artifacts.values():
        origin = artifact_path(source, record.id, relative)
        destination = artifact_path(target, record.id, relative)
        if destination.is_file():
            continue
        if not origin.is_file():
            missing.append(origin)
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(destination, origin.read_bytes())
    return missing
