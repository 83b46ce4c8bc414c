"""Which run a user means: an id, the beginning of one, `last`, `last~2`, or the newest run of a model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Connection, select

from stratoscope.errors import StoreError
from stratoscope.store.schema import RUNS

_BACK: Final = re.compile(r"(?P<name>.+?)(~(?P<steps>\d{1,6}))?", re.DOTALL)
_SHOWN: Final = 3


def newest_first() -> tuple[ColumnElement[str], ColumnElement[str]]:
    """The order of every list: by time, the id where two are equal."""
    return RUNS.c.created_at.desc(), RUNS.c.id.desc()


def resolve_id(connection: Connection, selector: str, place: object) -> str:
    """The id of the run that `selector` means.

    `last` is the newest run and `last~N` the N-th before it; a model's name is its newest run, and `NAME~N` works
    alike; else it is an id, or the beginning of one that no other run shares.

    Raises:
        StoreError: no run is meant, or several; the message names the nearest.
    """
    if connection.scalar(select(RUNS.c.id).where(RUNS.c.id == selector)) is not None:
        return selector
    match = _BACK.fullmatch(selector)
    name, steps = (match["name"], int(match["steps"] or 0)) if match else (selector, 0)
    ids = select(RUNS.c.id).order_by(*newest_first())
    if name == "last":
        return _back(connection.scalars(ids.limit(steps + 1)).all(), steps, selector, f"{place} holds")
    of_model = connection.scalars(ids.where(RUNS.c.model_name == name).limit(steps + 1)).all()
    if of_model:
        return _back(of_model, steps, selector, f"{name} has")
    starting = connection.scalars(ids.where(RUNS.c.id.startswith(selector, autoescape=True)).limit(_SHOWN + 1)).all()
    if len(starting) == 1 and selector:
        return str(starting[0])
    if selector and starting:
        more = ", ..." if len(starting) > _SHOWN else ""
        raise StoreError(
            f"{selector!r} begins the ids of several runs: {', '.join(starting[:_SHOWN])}{more}",
            hint="give more of the id",
        )
    raise _unknown(connection, selector, place)


def _back(ids: Sequence[str], steps: int, selector: str, who: str) -> str:
    if steps < len(ids):
        return str(ids[steps])
    count = {0: "no runs", 1: "only 1 run"}.get(len(ids), f"only {len(ids)} runs")
    raise StoreError(f"there is no run {selector!r}: {who} {count}", hint="`stratoscope results` lists them")


def _unknown(connection: Connection, selector: str, place: object) -> StoreError:
    recent = connection.execute(select(RUNS.c.id, RUNS.c.model_name).order_by(*newest_first()).limit(500)).all()
    if not recent:
        return StoreError(f"there is no run {selector!r}: {place} holds no runs", hint="measure one first")
    names = {row.id for row in recent} | {row.model_name for row in recent}
    near = difflib.get_close_matches(selector, sorted(names), n=_SHOWN, cutoff=0.6)
    if near:
        return StoreError(f"there is no run {selector!r} in {place}", hint=f"did you mean {' or '.join(near)}?")
    last = ", ".join(f"{row.id} ({row.model_name})" for row in recent[:_SHOWN])
    return StoreError(f"there is no run {selector!r} in {place}", hint=f"the last runs are {last}")
