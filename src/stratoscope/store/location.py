"""Where results are kept: the database's URL, and the folder of the files that belong to its runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from stratoscope.errors import StoreError

_POSTGRESQL_DRIVER = "postgresql+psycopg"


@dataclass(frozen=True, slots=True)
class Location:
    """A results database and the folder of its artefacts.

    Attributes:
        url: SQLAlchemy URL, of SQLite or PostgreSQL.
        file: the database's file, or None for PostgreSQL.
        artifacts: folder with one folder a run; it need not exist yet.
    """

    url: URL
    file: Path | None
    artifacts: Path

    def __str__(self) -> str:
        """How messages name the database: its file, or the URL without the password."""
        return str(self.file) if self.file is not None else self.url.render_as_string(hide_password=True)


def data_dir() -> Path:
    """Stratoscope's data folder: `$XDG_DATA_HOME/stratoscope`, else `~/.local/share/stratoscope`; it need not exist."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "stratoscope"


def locate(database: str | os.PathLike[str] | None = None) -> Location:
    """The database to use: `database`, else STRATOSCOPE_DB, else `results.db` in the data folder.

    `database` is a file or an SQLAlchemy URL of SQLite or PostgreSQL. A SQLite database `x.db` keeps its artefacts in
    `x.artifacts` beside it; those of a PostgreSQL database lie in STRATOSCOPE_ARTIFACTS, else in the data folder.

    Raises:
        StoreError: the URL cannot be read, or names another kind of database.
    """
    text = os.fspath(database) if database is not None else os.environ.get("STRATOSCOPE_DB", "")
    if not text:
        return _sqlite(data_dir() / "results.db")
    if "\0" in text:
        raise StoreError("the name of the results database holds a NUL character", hint="e.g. results.db")
    if "://" not in text:
        return _sqlite(Path(text).expanduser())
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The URL may hold a password: it is not repeated.
        raise StoreError(
            "the database URL cannot be read", hint="e.g. results.db or postgresql://user@host/name"
        ) from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        if not url.database or url.database == ":memory:" or url.query:
            raise StoreError("an SQLite URL names a file and nothing else", hint="e.g. sqlite:///results.db")
        return _sqlite(Path(url.database).expanduser())
    if kind in {"postgresql", "postgres"}:
        folder = os.environ.get("STRATOSCOPE_ARTIFACTS")
        artifacts = Path(folder).expanduser() if folder else data_dir() / "artifacts"
        return Location(url.set(drivername=_POSTGRESQL_DRIVER), None, artifacts)
    raise StoreError(f"results cannot be kept in {kind!r}", hint="use an SQLite file or a postgresql:// URL")


def _sqlite(path: Path) -> Location:
    file = path.absolute()
    return Location(URL.create("sqlite", database=str(file)), file, file.with_name(f"{file.stem}.artifacts"))
