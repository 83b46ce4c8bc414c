"""Machine records in the results database: save one, find it again by its id, 'last' or 'last~N'."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from stratoscope.errors import StoreError
from stratoscope.spec.machine import MachineRecord
from stratoscope.store.database import Database
from stratoscope.store.ids import check_run_id
from stratoscope.store.location import locate
from stratoscope.store.schema import MACHINES
from stratoscope.store.summary import utc_text

_LAST = re.compile(r"last(?:~(\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """A machine record as lists show it."""

    id: str
    created_at: datetime
    hostname: str
    digest_hardware: str


def save_machine(database: str | os.PathLike[str] | None, record: MachineRecord) -> None:
    """Keeps a record in the results database, which is made where it does not exist.

    Raises:
        StoreError: the database cannot be opened or written, or holds another record with this id.
    """
    row = {
        "id": check_run_id(record.id),
        "created_at": utc_text(record.created_at),
        "hostname": (record.hardware.hostname or "").replace("\0", "\ufffd"),
        "digest_hardware": record.digests.get("hardware", ""),
        "record": record.model_dump_json(by_alias=True),
    }
    opened = Database(locate(database))
    try:
        with opened.writing(f"save machine record {record.id}") as connection:
            try:
                connection.execute(insert(MACHINES).values(**row))
            except IntegrityError as error:
                raise StoreError(f"a machine record with the id {record.id} is there already") from error
    finally:
        opened.close()


def list_machines(database: str | os.PathLike[str] | None = None) -> list[MachineSummary]:
    """All machine records, the newest first. Raises StoreError where the database cannot be read."""
    columns = (MACHINES.c.id, MACHINES.c.created_at, MACHINES.c.hostname, MACHINES.c.digest_hardware)
    opened = Database(locate(database), create=False)
    try:
        with opened.reading("list the machine records") as connection:
            rows = connection.execute(
                select(*columns).order_by(MACHINES.c.created_at.desc(), MACHINES.c.id.desc())
            ).all()
    finally:
        opened.close()
    return [
        MachineSummary(row.id, datetime.strptime(row.created_at, "%Y-%m-%dT%H:%M:%S.%f%z"), row.hostname, row[3])
        for row in rows
    ]


def get_machine(selector: str = "last", database: str | os.PathLike[str] | None = None) -> MachineRecord:
    """The record with this id or the unique beginning of one, the newest for 'last', the one N before it for 'last~N'.

    Raises:
        StoreError: there is none or there are several, or it cannot be read.
    """
    known = [machine.id for machine in list_machines(database)]
    match = _LAST.fullmatch(selector)
    if match is not None:
        back = int(match.group(1) or 0)
        found = known[back : back + 1]
    else:
        found = [name for name in known if name == selector] or [name for name in known if name.startswith(selector)]
    if len(found) != 1:
        what = "no machine record" if not found else f"{len(found)} machine records"
        raise StoreError(
            f"{what} for {selector[:80]!r} among the {len(known)} in {locate(database)}",
            hint="measure with `stratoscope machine`, or name a file that --json wrote",
        )
    opened = Database(locate(database), create=False)
    try:
        with opened.reading(f"read machine record {found[0]}") as connection:
            text = connection.scalar(select(MACHINES.c.record).where(MACHINES.c.id == found[0]))
    finally:
        opened.close()
    try:
        return MachineRecord.model_validate_json(text or "")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise StoreError(
            f"machine record {found[0]} cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="it was written by another version of Stratoscope, or changed by hand",
        ) from None
