"""A plan carried out: what the record holds, what is listed as unavailable, and what a rerun finds."""

from __future__ import annotations

from pathlib import Path

import pytest

import stratoscope
from stratoscope.errors import BackendError, SpecError
from stratoscope.measure.execute import execute
from stratoscope.measure.plan import Plan, Section
from stratoscope.measure.verify import verify
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.reference import Tolerance, reference_from_record
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.spec.yamlio import dump_yaml

QUICK = ScenarioManifest(min_duration_s=0.2, warmup_s=0.05, performance_samples=2)


def plan_of(model: str = "digits", **fields: object) -> Plan:
    """A quick run of one thread."""
    defaults: dict[str, object] = {
        "scenario": QUICK,
        "options": BackendOptions(threads=1),
        "sections": frozenset({Section.LOAD}),
    }
    return Plan(model=model, **{**defaults, **fields})  # type: ignore[arg-type]


def test_the_same_plan_has_the_same_key_and_another_scenario_another() -> None:
    first, again = execute(plan_of()).record, execute(plan_of()).record
    other = execute(plan_of(scenario=QUICK.model_copy(update={"min_queries": 65}))).record
    threads = execute(plan_of(options=BackendOptions(threads=2))).record
    assert first.key == again.key
    assert first.id != again.id
    assert other.key != first.key
    assert other.digests.model == first.digests.model
    assert threads.digests.software != first.digests.software
    assert first.outputs_sha256 == again.outputs_sha256


def test_every_section_that_was_asked_for_is_there_and_no_other() -> None:
    sections = frozenset({Section.LOAD, Section.ACCURACY, Section.PROFILE})
    record = execute(plan_of(sections=sections, profile_budget_s=1.0)).record
    assert record.load is not None
    assert record.accuracy is not None
    assert record.profile is not None
    assert record.graph is not None
    assert record.cold_start is None
    assert record.sweep is None
    assert record.unavailable == ()
    assert record.accuracy.metrics["top1"].require() > 0.95
    authored = [name for row in record.profile.layers for name in row.authored]
    assert len(authored) == len(set(authored))


def test_samples_are_those_that_the_section_counts() -> None:
    outcome = execute(plan_of())
    assert outcome.samples is not None
    assert outcome.record.load is not None
    assert outcome.samples.height == outcome.record.load.samples
    assert (outcome.samples["completed_ns"] >= outcome.samples["issued_ns"]).all()


def test_accuracy_of_seeded_weights_is_unavailable_with_the_reason() -> None:
    sections = frozenset({Section.LOAD, Section.ACCURACY})
    record = execute(plan_of("squeezenet", sections=sections)).record
    assert record.accuracy is None
    assert [item.what for item in record.unavailable] == ["accuracy"]
    assert "seeded" in record.unavailable[0].why


def test_null_back_end_takes_the_time_that_it_was_told() -> None:
    record = execute(plan_of(backend="null", options=BackendOptions(null_latency_s=0.002))).record
    assert record.load is not None
    assert record.load.latency["min"].require() >= 0.002


def test_unknown_back_end_is_refused_before_anything_else() -> None:
    with pytest.raises(BackendError, match="tensorflow"):
        execute(plan_of(backend="tensorflow"))


@pytest.mark.parametrize("kind", list(ScenarioKind))
def test_every_scenario_runs(kind: ScenarioKind, tmp_path: Path) -> None:
    trace = tmp_path / "arrivals.txt"
    trace.write_text("\n".join(str(0.002 * number) for number in range(80)))
    scenario = QUICK.model_copy(
        update={"kind": kind, "trace_file": str(trace) if kind is ScenarioKind.REPLAY else None, "samples_per_query": 2}
    )
    record = execute(plan_of(scenario=scenario)).record
    if kind is ScenarioKind.COLD:  # all of the run: it has no load
        assert record.load is None
        assert record.cold_start is not None
        assert {state.state for state in record.cold_start.states} >= {"cached", "resident"}
        return
    assert record.load is not None
    assert record.load.queries > 0
    assert record.load.headline in (*record.load.latency, "throughput")


def test_a_reference_log_is_reproduced_and_a_changed_one_is_not(tmp_path: Path) -> None:
    record = execute(plan_of(sections=frozenset({Section.ACCURACY, Section.LOAD}))).record
    log = reference_from_record(
        record, {"accuracy.top1": Tolerance(relative=0.0)}, outputs_sha256=record.outputs_sha256
    )
    path = tmp_path / "reference.yaml"
    path.write_text(dump_yaml(log))
    verdict, outcome = verify(path)
    assert verdict.reproduced, verdict.reasons
    assert outcome.record.key == record.key
    other = log.model_copy(update={"outputs_sha256": "sha256:" + "0" * 64})
    path.write_text(dump_yaml(other))
    verdict, _ = verify(path)
    assert not verdict.reproduced
    assert "outputs" in " ".join(verdict.reasons)


def test_the_package_has_the_same_verbs() -> None:
    record = stratoscope.run("digits", scenario=QUICK, options=BackendOptions(threads=1))
    assert record.model.id == "digits"
    with pytest.raises(SpecError, match="single-stream"):
        stratoscope.run("digits", scenario="sometimes")


@pytest.mark.torch
def test_a_module_goes_in_with_its_example_inputs() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    record = stratoscope.run(module, example_inputs=torch.randn(1, 8), scenario=QUICK)
    assert record.graph is not None
    assert record.graph.parameters.require() == 8 * 4 + 4
