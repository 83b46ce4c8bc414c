"""Filling the database: only what is missing is measured, and nothing that was measured is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from stratoscope.errors import MeasurementError
from stratoscope.measure.parts import runner
from stratoscope.measure.parts.fill import Group, Plan, Wanted, fill, plan_of
from stratoscope.measure.parts.status import status_of
from stratoscope.models.resolve import resolve
from stratoscope.spec.performance import Environment
from stratoscope.store.performance import PerformanceDatabase

HERE = Environment(cpu="test")
ORT_HOT = Wanted(libraries=("onnxruntime",), caches=("hot",))

#: Fills the database given second for the model given first; told from outside when to end.
SCRIPT = """
import sys
from stratoscope.measure.parts.fill import Wanted, fill, plan_of
from stratoscope.models.resolve import resolve
from stratoscope.spec.performance import Environment
from stratoscope.store.performance import PerformanceDatabase
plan = plan_of([resolve(sys.argv[1])], Wanted(libraries=("onnxruntime",), caches=("hot",)))
with PerformanceDatabase(sys.argv[2]) as database:
    fill(plan, database, Environment(cpu="test"))
"""


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other measurements on this machine do not hold up the tests."""
    monkeypatch.setenv("STRATOSCOPE_LOCK", str(tmp_path / "lock"))


def plan(small: ModuleType, tmp_path: Path, layers: int = 3, wanted: Wanted = ORT_HOT, width: int = 8) -> Plan:
    path = tmp_path / f"relus-{layers}-{width}.onnx"
    onnx.save(small.relus(layers, width), str(path))
    return plan_of([resolve(str(path))], wanted)


def test_what_is_known_is_not_measured_again(
    small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PerformanceDatabase(tmp_path / "results.db") as database:
        done = fill(plan(small, tmp_path), database, HERE)
        assert (done.measured, done.known) == (6, 0)
        before = database.find()

        def refuse(*arguments: object, **options: object) -> None:
            raise AssertionError("something was measured, or the lock was taken")

        monkeypatch.setattr("stratoscope.measure.parts.workers.subprocess.Popen", refuse)
        monkeypatch.setattr("stratoscope.measure.parts.fill.measurement_lock", refuse)
        again = fill(plan(small, tmp_path), database, HERE)
        inside = fill(plan(small, tmp_path, layers=2), database, HERE)  # its layers are among the known ones
        assert (again.known, again.counts, inside.known, inside.counts) == (6, {}, 4, {})
        assert database.find() == before


def test_another_machine_knows_nothing_of_it(small: ModuleType, tmp_path: Path) -> None:
    elsewhere = Environment(cpu="another")
    with PerformanceDatabase(tmp_path / "results.db") as database:
        fill(plan(small, tmp_path, layers=1), database, HERE)
        assert len(plan(small, tmp_path, layers=1).missing(database, HERE)) == 0
        assert len(plan(small, tmp_path, layers=1).missing(database, elsewhere)) == 2


def test_a_killed_fill_loses_the_part_that_was_running_and_goes_on_later(small: ModuleType, tmp_path: Path) -> None:
    layers, file = 12, tmp_path / "results.db"
    wanted = plan(small, tmp_path, layers)
    model = tmp_path / f"relus-{layers}-8.onnx"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(model), str(file)], env=dict(os.environ))
    with PerformanceDatabase(file) as database:
        while database.count() < 6:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = database.find()
        assert 6 <= len(kept) < 2 * layers
        assert len(kept) % 2 == 0 or len(kept) == database.count()
        assert all(one.seconds().value is not None for one in kept)
        done = fill(wanted, database, HERE)
        assert done.known == len(kept)
        assert done.measured == 2 * layers - len(kept)
        assert wanted.missing(database, HERE) == []
        assert all(one in database.find() for one in kept)


def test_ctrl_c_keeps_what_was_measured(small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = runner._Run.measure, []

    def interrupted(self: object, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runner._Run, "measure", interrupted)
    with PerformanceDatabase(tmp_path / "results.db") as database:
        done = fill(plan(small, tmp_path), database, HERE)
        assert (done.interrupted, done.measured, done.parts_left, database.count()) == (True, 2, 2, 2)


def test_a_budget_ends_between_parts_and_tells_how_many_are_left(small: ModuleType, tmp_path: Path) -> None:
    with PerformanceDatabase(tmp_path / "results.db") as database:
        done = fill(plan(small, tmp_path), database, HERE, budget_s=0.0)
        assert (done.measured, done.parts_left) == (0, 3)


def test_coverage_is_by_work_and_never_counts_what_has_no_time(small: ModuleType, tmp_path: Path) -> None:
    with PerformanceDatabase(tmp_path / "results.db") as database:
        fill(plan(small, tmp_path, layers=1), database, HERE)  # width 8 of 8, 9, 10
        status = status_of(plan(small, tmp_path), database, HERE)
        (model,) = status.models
        (coverage,) = model.coverage
        assert (model.uses, model.parts, model.missing, model.combinations) == (3, 3, 4, 6)
        assert (coverage.measured, coverage.share) == (1, pytest.approx(8 / 27))
        assert [hole.part.slug for hole in status.holes] == ["relu_1x10_f32", "relu_1x9_f32"]
        assert status.to_json()["models"][0]["coverage"][0]["roofline_share"] == pytest.approx(8 / 27)


def test_parts_with_the_most_work_come_first_so_that_a_budget_covers_the_most(
    small: ModuleType, tmp_path: Path
) -> None:
    """The layers of the file are 8, 9 and 10 wide, in this order."""
    (group,) = plan(small, tmp_path).groups
    assert [one.part.slug for one in group.parts] == ["relu_1x10_f32", "relu_1x9_f32", "relu_1x8_f32"]


def test_a_library_that_crashes_is_kept_as_failed_with_the_reason_and_not_tried_again(
    small: ModuleType, tmp_path: Path, modules: dict[str, str]
) -> None:
    made = plan(small, tmp_path, layers=2)
    names = ("crashes when opened", "fine")
    made.groups = (Group(made.groups[0].parts, tuple(small.fake(name) for name in names)),)
    with PerformanceDatabase(tmp_path / "results.db") as database:
        first = fill(made, database, HERE, modules=modules)
        kept = {(one.part.slug, one.candidate.implementation): one for one in database.find()}
        again = fill(made, database, HERE, modules=modules)
        retried = fill(made, database, HERE, modules=modules, retry=("failed",))
    assert first.counts == {"ok": 2, "failed": 2}
    assert {one.status for (_, name), one in kept.items() if name == "fine"} == {"ok"}
    crashed = [one for (_, name), one in kept.items() if name == "crashes when opened"]
    assert len(crashed) == 2
    assert all("SIGSEGV" in (one.reason or "") for one in crashed)
    assert (again.known, again.counts) == (4, {})
    assert retried.counts == {"failed": 2}


def test_executed_nodes_are_parts_of_their_own(small: ModuleType, tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w0"], ["h"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["h"], ["y"]),
    ]
    model = small.model_of(
        nodes,
        [small.value("x", (1, 16, 8, 8))],
        [small.value("y", (1, 16, 8, 8))],
        [small.weight("w0", small.random(16, 16, 3, 3))],
    )
    path = tmp_path / "conv.onnx"
    onnx.save(model, str(path))
    wanted = Wanted.parse(["onnxruntime"], caches=["hot"], parts=["executed:extended", "executed:all"])
    made = plan_of([resolve(str(path))], wanted)
    with PerformanceDatabase(tmp_path / "results.db") as database:
        done = fill(made, database, HERE)
        operators = {one.part.operators[0]: one for one in database.find()}
    assert "com.microsoft.FusedConv" in operators
    assert any(name.startswith("com.microsoft.nchwc.") for name in operators)
    assert done.counts == {"ok": len(operators)}
    assert all(one.executed_operators == one.part.operators for one in operators.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caches": ["warm"]}, "no cache state of a part is called 'warm'"),
        ({"caches": ["sequence"]}, "no cache state of a part is called 'sequence'"),
        ({"parts": ["nodes"]}, "no parts are called 'nodes'"),
        ({"parts": ["executed:most"]}, "no parts are called 'executed:most'"),
    ],
)
def test_words_that_mean_nothing_are_refused(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        Wanted.parse(**options)
