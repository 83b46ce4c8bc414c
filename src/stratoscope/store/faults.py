"""Turns what databases and disks report into one clear line that names the place and the way out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from stratoscope.errors import StoreError

#: SQLite's result codes (sqlite.org/rescode.html), by the beginning of their name: what happened, and the way out.
_SQLITE_FAULTS = {
    "SQLITE_FULL": ("the disk is full", "free some space or use another --db"),
    "SQLITE_READONLY": ("the database is read-only here", "get write permission or use another --db"),
    "SQLITE_NOTADB": ("this file is not a results database", "use another --db"),
    "SQLITE_CORRUPT": ("the database is corrupt", "restore it, or move it away and `results merge` an export"),
    "SQLITE_CANTOPEN": ("the file cannot be opened or made", "check the folder's permissions or use another --db"),
    "SQLITE_BUSY": ("another process has kept it locked for too long", "try again when that process has ended"),
    "SQLITE_LOCKED": ("another process has kept it locked for too long", "try again when that process has ended"),
    "SQLITE_IOERR": ("the disk failed while reading or writing", "check the disk or use another --db"),
    "SQLITE_PERM": ("access is not permitted", "check the file's permissions or use another --db"),
    "SQLITE_AUTH": ("access is not permitted", "check the file's permissions or use another --db"),
    "SQLITE_TOOBIG": ("the record is larger than SQLite takes", "use a PostgreSQL database with --db"),
}


@contextmanager
def clear_errors(place: object, action: str) -> Iterator[None]:
    """Re-raises errors of databases and disks as StoreError.

    `action` says what was tried ("save run x"); `place` names the database or the file.
    """
    try:
        yield
    except DBAPIError as error:
        raise _from_driver(error.orig, place, action) from error
    except sqlite3.Error as error:
        raise _from_driver(error, place, action) from error
    except NoSuchModuleError as error:
        raise StoreError(f"cannot {action}: no driver for {place}", hint="use SQLite or PostgreSQL") from error
    except SQLAlchemyError as error:
        raise StoreError(f"cannot {action} in {place}: {_one_line(error)}") from error
    except OSError as error:
        raise StoreError(
            f"cannot {action} in {place}: {error.strerror or error}",
            hint="free some space, check permissions, or use another --db",
        ) from error


def _from_driver(error: BaseException | None, place: object, action: str) -> StoreError:
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "")
        for prefix, (what, hint) in _SQLITE_FAULTS.items():
            if name.startswith(prefix):
                return StoreError(f"cannot {action} in {place}: {what}", hint=hint)
        return StoreError(f"cannot {action} in {place}: {_one_line(error)}")
    return StoreError(
        f"cannot {action} in {place}: {_one_line(error)}", hint="check the server, the URL and your permissions"
    )


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300]
