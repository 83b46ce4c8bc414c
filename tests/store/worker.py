"""A process that writes runs, for the tests of concurrent and killed writers: `worker.py MODE DATABASE COUNT`."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import polars as pl

from stratoscope.store.store import Store


def load_records() -> object:
    spec = importlib.util.spec_from_file_location("records", Path(__file__).parents[1] / "records.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def save(database: str, count: int) -> None:
    """Opens, saves `count` runs with tables and names each once it is saved."""
    make_record = load_records().make_record
    with Store.open(database) as store:
        for number in range(count):
            table = pl.DataFrame({"query": range(1000), "run": [number] * 1000})
            say(store.save(make_record(), samples=table, spans=table).id)


def hold(database: str, count: int) -> None:
    """Inserts `count` runs in one transaction and never commits it."""
    from sqlalchemy import insert

    from stratoscope.store.schema import RUNS
    from stratoscope.store.summary import row_of

    make_record = load_records().make_record
    with Store.open(database) as store:
        engine = store.engine.execution_options(sqlite_begin="IMMEDIATE")
        with engine.begin() as connection:
            for _ in range(count):
                connection.execute(insert(RUNS).values(**row_of(make_record())))
            say("holding")
            time.sleep(600)


if __name__ == "__main__":
    mode, where, number = sys.argv[1:]
    say("ready")
    sys.stdin.readline()  # all start together
    {"save": save, "hold": hold}[mode](where, int(number))
