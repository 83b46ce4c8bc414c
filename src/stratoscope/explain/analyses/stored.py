"""Takes the leveled trace of a stored run out of the results database."""

from __future__ import annotations

import os

from stratoscope.explain.analyses.leveled_trace import LeveledTrace
from stratoscope.store.store import Store


def stored_trace(selector: str, database: str | os.PathLike[str] | None = None) -> tuple[str, LeveledTrace]:
    """(id of the run, its trace) of a run: an id or its beginning, `last`, a model's name, as `Store.get` takes it.

    A run without spans is a trace without any, of which some analyses still tell what the record holds.

    Raises:
        StoreError: there is no such run or database.
    """
    with Store.open(database, create=False) as store:
        record = store.get(selector)
        return record.id, LeveledTrace.of_record(record, store.spans(record.id), store.samples(record.id))
