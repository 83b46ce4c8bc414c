"""The performance database: what parts of models take, by content key; found again, exported, merged."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, Row, Select, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from stratoscope.errors import StoreError
from stratoscope.spec.base import Document
from stratoscope.spec.performance import (
    SETTLED,
    Candidate,
    Environment,
    Part,
    PartMeasurement,
    Protocol,
)
from stratoscope.store.database import Database
from stratoscope.store.location import locate
from stratoscope.store.performance_exchange import PartMergeResult, read_measurements, write_measurements
from stratoscope.store.schema import PART_DOCUMENTS, PART_MEASUREMENTS
from stratoscope.store.summary import utc_text

if TYPE_CHECKING:
    import polars as pl

D = TypeVar("D", bound=Document)
_KEY: Final = tuple(PART_MEASUREMENTS.c[name] for name in ("part", "candidate", "environment", "protocol"))
_DOCUMENTS: Final[Mapping[str, type[Document]]] = {
    "part": Part,
    "candidate": Candidate,
    "environment": Environment,
    "protocol": Protocol,
}
#: Values of one IN list: SQLite takes 32,766 variables in a statement.
_MOST_VALUES: Final = 10_000
#: Columns of `measured` beside those of the candidate: name -> polars type.
_COLUMNS: Final = (
    *("part", "slug", "kind", "candidate", "library", "implementation", "layout", "precision", "version"),
    *("environment", "protocol", "cache", "threads", "status", "reason"),
    *("seconds", "seconds_low", "seconds_high", "samples", "max_error", "started_at"),
)


class PerformanceDatabase:
    """Measurements of parts in a results database. One row for each (part, candidate, environment, protocol).

    Use in a `with` block, or call `close`. `database` is a file or URL, else STRATOSCOPE_DB, else the default file;
    it is made where it does not exist, unless `create` is false.

    Raises:
        StoreError: it cannot be opened or made, is not a results database, is corrupt, or is newer than this code.
    """

    def __init__(self, database: str | os.PathLike[str] | None = None, *, create: bool = True) -> None:
        self._database = Database(locate(database), create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return str(self._database.location)

    def close(self) -> None:
        """Gives the connections back."""
        self._database.close()

    def record(self, measurement: PartMeasurement, *, replace: bool = False) -> bool:
        """Keeps a measurement in a transaction of its own, and returns whether it was kept.

        Where there is one with this key, it stays and False is returned, unless it was refused for noise (which is no
        result) or `replace` is set.
        """
        with self._database.writing(f"keep the measurement of {measurement.part.slug}") as connection:
            return _keep(connection, measurement, replace=replace)

    def find(
        self,
        parts: Iterable[Part | str] | None = None,
        *,
        candidates: Iterable[Candidate] | None = None,
        environment: Environment | str | None = None,
        protocols: Iterable[Protocol] | None = None,
    ) -> list[PartMeasurement]:
        """The measurements of these parts (or their digests), candidates, environment and protocols; None: any.

        Raises:
            StoreError: a row cannot be read.
        """
        wanted = {
            "part": None if parts is None else {one if isinstance(one, str) else one.digest for one in parts},
            "candidate": None if candidates is None else {one.digest for one in candidates},
            "protocol": None if protocols is None else {one.digest for one in protocols},
        }
        place = environment.digest if isinstance(environment, Environment) else environment
        with self._database.reading("read the measurements of parts") as connection:
            rows = [row for query in _queries(wanted, place) for row in connection.execute(query).all()]
            documents = _documents(connection, rows)
        return [self._measurement(row, documents) for row in rows]

    def measured(
        self,
        parts: Iterable[Part | str] | None = None,
        candidates: Iterable[Candidate] | None = None,
        environment: Environment | str | None = None,
        protocols: Iterable[Protocol] | None = None,
    ) -> pl.DataFrame:
        """As `find`, one row a measurement; `seconds` is null unless the status is ok. Sorted by part and time.

        `part`, `environment` and `protocol` are digests, `candidate` is its short name.
        """
        import polars as pl

        found = self.find(parts, candidates=candidates, environment=environment, protocols=protocols)
        frame = pl.DataFrame([_row(one) for one in found], schema=_schema(), orient="row")
        return frame.sort("slug", "part", "protocol", "seconds", nulls_last=True)

    def missing(
        self,
        parts: Sequence[Part],
        candidates: Sequence[Candidate],
        environment: Environment,
        protocols: Sequence[Protocol],
        *,
        retry: Collection[str] = (),
    ) -> list[tuple[Part, Candidate, Protocol]]:
        """What has no measurement here that will stay, in the order of parts; those of a status in `retry` count too.

        A refused measurement is no result. A failure is one: the same library on the same machine fails again.
        """
        settled = {str(status) for status in SETTLED} - set(retry)
        wanted = {
            "part": {part.digest for part in parts},
            "candidate": {one.digest for one in candidates},
            "protocol": {one.digest for one in protocols},
        }
        with self._database.reading("look for measurements of parts") as connection:
            known = {
                (row.part, row.candidate, row.protocol)
                for query in _queries(wanted, environment.digest, records=False)
                for row in connection.execute(query).all()
                if row.status in settled
            }
        return [
            (part, candidate, protocol)
            for part in {part.digest: part for part in parts}.values()
            for candidate in candidates
            for protocol in protocols
            if (part.digest, candidate.digest, protocol.digest) not in known
        ]

    def environments(self) -> dict[str, Environment]:
        """The environments that have measurements, by digest."""
        with self._database.reading("list the environments") as connection:
            rows = connection.execute(
                select(PART_DOCUMENTS.c.digest, PART_DOCUMENTS.c.record).where(PART_DOCUMENTS.c.kind == "environment")
            ).all()
        return {row.digest: self._document(Environment, row.record, row.digest) for row in rows}

    def count(self) -> int:
        """The number of measurements."""
        with self._database.reading("count the measurements of parts") as connection:
            return int(connection.scalar(select(func.count()).select_from(PART_MEASUREMENTS)) or 0)

    def export(self, file: Path, *, environment: Environment | str | None = None) -> int:
        """Writes all measurements (of one environment) to a JSONL file, oldest first, in one step; returns how many.

        Raises:
            StoreError: the file cannot be written.
        """
        found = sorted(self.find(environment=environment), key=lambda one: (one.started_at, one.key))
        write_measurements(found, file)
        return len(found)

    def merge(self, file: Path) -> PartMergeResult:
        """Adds the measurements of an export; what is there already stays, so merging twice changes nothing.

        The whole file is checked before anything is added, and all is added in one transaction.

        Raises:
            StoreError: the file cannot be read, is cut off, or a line is no measurement.
        """
        added = present = differing = 0
        held = list(read_measurements(file))
        known = {one.key: one for one in self.find({one.part.digest for one in held})}
        with self._database.writing(f"merge {file}") as connection:
            for one in held:
                before = known.get(one.key)
                if _keep(connection, one):
                    added += 1
                    known[one.key] = one
                elif before == one:
                    present += 1
                else:
                    differing += 1
        return PartMergeResult(added, present, differing)

    def _measurement(self, row: Row[Any], documents: Mapping[tuple[str, str], str]) -> PartMeasurement:
        fields: dict[str, Any] = {}
        for name, kind in _DOCUMENTS.items():
            digest = str(getattr(row, name))
            if (name, digest) not in documents:
                raise StoreError(f"{self}: the {name} {digest} of a measurement is missing", hint="merge an export")
            fields[name] = self._document(kind, documents[name, digest], digest)
        try:
            return PartMeasurement.model_validate({**json.loads(row.record), **fields})
        except (ValidationError, ValueError, TypeError) as error:
            raise self._unreadable(row.part, error) from None

    def _document(self, kind: type[D], text: str, digest: str) -> D:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise self._unreadable(digest, error) from None

    def _unreadable(self, what: str, error: Exception) -> StoreError:
        return StoreError(
            f"{self}: the measurement of {what} cannot be read: {' '.join(str(error).split())[:200]}",
            hint="it was written by another version of Stratoscope, or changed by hand",
        )


def _keep(connection: Connection, measurement: PartMeasurement, *, replace: bool = False) -> bool:
    part, candidate, environment, protocol = measurement.key
    here = [column == digest for column, digest in zip(_KEY, measurement.key, strict=True)]
    status = connection.scalar(select(PART_MEASUREMENTS.c.status).where(*here))
    if status is not None:
        if not replace and (status != "refused" or measurement.status == "refused"):
            return False
        connection.execute(delete(PART_MEASUREMENTS).where(*here))
    for kind, digest in (
        ("part", part),
        ("candidate", candidate),
        ("environment", environment),
        ("protocol", protocol),
    ):
        _keep_document(connection, kind, digest, getattr(measurement, kind).model_dump_json())
    connection.execute(
        insert(PART_MEASUREMENTS).values(
            part=part,
            candidate=candidate,
            environment=environment,
            protocol=protocol,
            status=measurement.status,
            started_at=utc_text(measurement.started_at),
            record=measurement.model_dump_json(by_alias=True, exclude=set(_DOCUMENTS)),
        )
    )
    return True


def _keep_document(connection: Connection, kind: str, digest: str, text: str) -> None:
    """Another machine may keep the same document at this moment: the database decides, and either is right."""
    add = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(add(PART_DOCUMENTS).values(kind=kind, digest=digest, record=text).on_conflict_do_nothing())


def _queries(
    wanted: Mapping[str, set[str] | None], environment: str | None, *, records: bool = True
) -> Iterator[Select[Any]]:
    """Queries that together give the rows of the wanted digests; several where there are many parts.

    Without `records` they give keys and status only: raw samples are most of a row.
    """
    query = select(PART_MEASUREMENTS) if records else select(*_KEY, PART_MEASUREMENTS.c.status)
    if environment is not None:
        query = query.where(PART_MEASUREMENTS.c.environment == environment)
    for name in ("candidate", "protocol"):
        digests = wanted[name]
        if digests is not None:
            query = query.where(PART_MEASUREMENTS.c[name].in_(sorted(digests)))
    parts = wanted["part"]
    if parts is None:
        yield query
        return
    ordered = sorted(parts)
    for start in range(0, len(ordered), _MOST_VALUES):
        yield query.where(PART_MEASUREMENTS.c.part.in_(ordered[start : start + _MOST_VALUES]))


def _documents(connection: Connection, rows: Iterable[Row[Any]]) -> dict[tuple[str, str], str]:
    digests = sorted({str(getattr(row, name)) for row in rows for name in _DOCUMENTS})
    found: dict[tuple[str, str], str] = {}
    for start in range(0, len(digests), _MOST_VALUES):
        query = select(PART_DOCUMENTS).where(PART_DOCUMENTS.c.digest.in_(digests[start : start + _MOST_VALUES]))
        found.update({(row.kind, row.digest): row.record for row in connection.execute(query).all()})
    return found


def _schema() -> dict[str, Any]:
    import polars as pl

    special = {
        **dict.fromkeys(("seconds", "seconds_low", "seconds_high", "max_error"), pl.Float64),
        **dict.fromkeys(("threads", "samples"), pl.Int64),
        "started_at": pl.Datetime("us", "UTC"),
    }
    return {name: special.get(name, pl.String) for name in _COLUMNS}


def _row(one: PartMeasurement) -> tuple[Any, ...]:
    seconds = one.seconds()
    candidate, (part, _, environment, protocol) = one.candidate, one.key
    return (
        *(part, one.part.slug, one.part.kind, candidate.name, candidate.library, candidate.implementation),
        *(candidate.layout, candidate.precision, candidate.version),
        *(environment, protocol, one.protocol.cache, one.protocol.threads, one.status, one.reason),
        *(seconds.value, seconds.ci_low, seconds.ci_high, len(one.counted_samples_s), one.max_error, one.started_at),
    )
