"""The shared record factory makes records that hold together, so that tests built on it mean something."""

from __future__ import annotations

from collections.abc import Callable

from stratoscope.spec.record import RunRecord
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest


def test_a_made_record_survives_json_and_its_key_follows_its_parts(make_record: Callable[..., RunRecord]) -> None:
    record = make_record()
    assert RunRecord.model_validate_json(record.model_dump_json(by_alias=True)) == record
    assert record.key == record.digests.key()
    other = make_record(scenario=ScenarioManifest(kind=ScenarioKind.OFFLINE))
    assert other.digests.model == record.digests.model
    assert other.digests.scenario != record.digests.scenario
    assert other.key != record.key


def test_every_section_of_a_made_record_is_filled(make_record: Callable[..., RunRecord]) -> None:
    empty = {name for name, value in make_record() if value in (None, "", (), {})}
    of_other_verbs = {"training", "generation", "advice"}  # a record of an inference run has none
    assert empty == {"status_reason", "artifacts"} | of_other_verbs
