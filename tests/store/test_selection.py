"""Which run a word means: an id, the beginning of one, `last~N`, the newest run of a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from stratoscope.errors import StoreError
from stratoscope.spec.record import RunRecord
from stratoscope.store.store import Store


@pytest.fixture
def filled(store: Store, make_record: Callable[..., RunRecord]) -> Store:
    """Four runs, one second apart, the last of another model."""
    start = datetime(2025, 6, 1, tzinfo=UTC)
    for second, run_id in enumerate(("01aa0000", "01ab1111", "01b-2222", "02cc3333")):
        model = "bert" if second == 3 else "resnet50"
        store.save(make_record(id=run_id, model=model, created_at=start + timedelta(seconds=second)))
    return store


@pytest.mark.parametrize(
    ("selector", "run_id"),
    [
        ("01ab1111", "01ab1111"),
        ("01ab", "01ab1111"),
        ("02", "02cc3333"),
        ("last", "02cc3333"),
        ("last~0", "02cc3333"),
        ("last~3", "01aa0000"),
        ("resnet50", "01b-2222"),
        ("resnet50~1", "01ab1111"),
        ("bert", "02cc3333"),
    ],
)
def test_a_selector_means_one_run(filled: Store, selector: str, run_id: str) -> None:
    assert filled.resolve(selector) == run_id
    assert filled.get(selector).id == run_id


@pytest.mark.parametrize(
    ("selector", "message", "hint"),
    [
        ("01a", "begins the ids of several runs: 01ab1111, 01aa0000", "more of the id"),
        ("01", "01b-2222, 01ab1111, 01aa0000", "more of the id"),
        ("resnet5", "there is no run 'resnet5'", "did you mean resnet50?"),
        ("01ab111x", "there is no run '01ab111x'", "01ab1111"),
        ("zzzzzz", "there is no run 'zzzzzz'", "last runs are 02cc3333 \\(bert\\), 01b-2222 \\(resnet50\\)"),
        ("last~4", "holds only 4 runs", "lists them"),
        ("bert~1", "bert has only 1 run$", "lists them"),
        ("", "there is no run ''", "last runs are"),
        ("%", "there is no run '%'", "last runs are"),
        ("01b_", "there is no run '01b_'", "01b-2222"),
        ("'; DROP TABLE runs; --", "there is no run", "last runs are"),
    ],
)
def test_no_run_or_several_is_one_line_that_names_the_nearest(
    filled: Store, selector: str, message: str, hint: str
) -> None:
    with pytest.raises(StoreError) as caught:
        filled.get(selector)
    assert caught.value.hint is not None
    assert re.search(message, caught.value.message), caught.value.message
    assert re.search(hint, caught.value.hint), caught.value.hint
    assert len(filled.list()) == 4


def test_an_empty_database_says_so(store: Store) -> None:
    with pytest.raises(StoreError, match="holds no runs"):
        store.get("abc")
    with pytest.raises(StoreError, match="no runs"):
        store.get("last")
