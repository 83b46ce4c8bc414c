"""The measurement of a part: its keys, its seconds, and what it refuses to be."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from stratoscope.spec.hardware import Cache, CpuHardware, HardwareManifest
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, Protocol

PART = Part(digest="sha256:a", kind="layer", slug="relu_4_f32", operators=("Relu",), flops=4, bytes=32)
ORT = Candidate(library="onnxruntime", implementation="graph=extended", version="1.31.1")
HERE = Environment(cpu="CPU", hostname="here", kernel="6.1")


def measured(**changes: object) -> PartMeasurement:
    fields: dict[str, object] = {
        "part": PART,
        "candidate": ORT,
        "environment": HERE,
        "protocol": Protocol(),
        "status": "ok",
        "samples_s": (5e-6, 6e-6, 7e-6, 8e-6),
        "started_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return PartMeasurement.model_validate(fields | changes)


def test_seconds_are_the_low_quartile_less_an_empty_call_with_the_intervals_of_both() -> None:
    quantity = measured(overhead_s=2e-6, overhead_low_s=1e-6, overhead_high_s=3e-6).seconds()
    assert quantity.value == pytest.approx(3e-6)
    assert (quantity.ci_low, quantity.ci_high) == (pytest.approx(2e-6), pytest.approx(6e-6))
    assert (quantity.statistic, quantity.unit, quantity.n) == ("p25", "s", 4)


def test_a_part_that_costs_no_more_than_an_empty_call_is_zero_not_negative() -> None:
    quantity = measured(overhead_s=9e-6, overhead_low_s=6e-6, overhead_high_s=9e-6).seconds()
    assert (quantity.value, quantity.ci_low) == (0.0, 0.0)
    assert quantity.ci_high == pytest.approx(1e-6)


def test_the_second_batch_of_a_winner_counts_not_the_one_that_made_it_win() -> None:
    assert measured(confirmed_samples_s=(6.5e-6,) * 5).seconds().value == pytest.approx(6.5e-6)


@pytest.mark.parametrize("status", ["failed", "wrong", "refused", "unsupported"])
def test_what_was_not_measured_has_no_seconds_and_a_reason(status: str) -> None:
    quantity = measured(status=status, reason="it crashed", samples_s=()).seconds()
    assert quantity.value is None
    assert "it crashed" in (quantity.reason or "")
    with pytest.raises(ValidationError, match="says why"):
        measured(status=status)


def test_ok_without_samples_is_refused() -> None:
    with pytest.raises(ValidationError, match="has samples"):
        measured(samples_s=())


def test_keys_ignore_names_for_the_reader_and_nothing_else() -> None:
    elsewhere = HERE.model_copy(update={"hostname": "there", "kernel": "6.6"})
    assert measured(environment=elsewhere).key == measured().key
    assert HERE.model_copy(update={"cpu": "another"}).digest != HERE.digest
    assert Protocol(cache="hot").digest != Protocol().digest != Protocol(threads=2).digest
    changed = [ORT.model_copy(update={name: "x"}) for name in ("implementation", "layout", "precision", "version")]
    assert len({ORT.digest, *(one.digest for one in changed)}) == 5


def test_environment_knows_the_cache_sizes_of_the_machine() -> None:
    caches = (
        Cache(level=1, type="data", size_bytes=32 << 10, shared_by=1, instances=4),
        Cache(level=2, type="unified", size_bytes=1 << 20, shared_by=1, instances=4),
        Cache(level=3, type="unified", size_bytes=16 << 20, shared_by=2, instances=2),
    )
    environment = Environment.of(HardwareManifest(cpu=CpuHardware(model="CPU", caches=caches)))
    assert (environment.l2_bytes, environment.last_level_bytes) == (1 << 20, 32 << 20)
    assert Environment().l2_bytes is None
    assert Environment().last_level_bytes is None


def test_measurement_survives_json() -> None:
    one = measured(settings={"threads": 1}, executed_operators=("Relu",), max_error=0.0)
    assert PartMeasurement.model_validate_json(one.model_dump_json(by_alias=True)) == one
