"""Whatever a library does to its worker, it is recorded with the reason and the rest goes on."""

from __future__ import annotations

from types import ModuleType

import pytest

from stratoscope.errors import MeasurementError
from stratoscope.measure.parts import default_candidates, runner
from stratoscope.measure.parts.runner import FillSummary, run_parts
from stratoscope.spec.performance import PartMeasurement, Protocol


def measured(
    small: ModuleType, modules: dict[str, str], candidates: list[str], **options: object
) -> tuple[dict[str, PartMeasurement], FillSummary]:
    """The fake library's candidates on one Relu, by name."""
    found: list[PartMeasurement] = []
    summary = run_parts(
        options.pop("parts", None) or small.parts_of(small.relus(1)),
        [small.fake(one) for one in candidates],
        options.pop("protocols", None) or [small.HOT],
        environment=small.HERE,
        on_result=found.append,
        modules=modules,
        **options,
    )
    return {one.candidate.implementation: one for one in found}, summary


def test_what_goes_wrong_without_a_crash_is_told_apart(small: ModuleType, modules: dict[str, str]) -> None:
    names = ["fine", "raises", "unsupported", "clips", "folds", "takes threads"]
    found, summary = measured(small, modules, names)
    assert {name: one.status for name, one in found.items()} == {
        "fine": "ok",
        "raises": "failed",
        "unsupported": "unsupported",
        "clips": "wrong",
        "folds": "failed",
        "takes threads": "failed",
    }
    reasons = {name: one.reason or "" for name, one in found.items()}
    assert "RuntimeError: cannot allocate" in reasons["raises"]
    assert "no such operator" in reasons["unsupported"]
    assert "differs from the reference" in reasons["clips"]
    assert (found["clips"].max_error or 0) > 0.01
    assert "folded" in reasons["folds"]
    assert "7 threads where 1 were asked for" in reasons["takes threads"]
    assert all(one.samples_s == () for one in found.values() if one.status != "ok")
    assert found["fine"].max_error == 0.0
    assert summary.counts == {"ok": 1, "failed": 3, "unsupported": 1, "wrong": 1}


def test_a_crash_takes_down_its_worker_only(small: ModuleType, modules: dict[str, str]) -> None:
    names = ["crashes when opened", "fine", "crashes when sampled"]
    found, _ = measured(small, modules, names, parts=small.parts_of(small.relus(2)))
    assert found["fine"].status == "ok"
    for name in ("crashes when opened", "crashes when sampled"):
        assert found[name].status == "failed"
        assert "crashed: it was ended by SIGSEGV" in (found[name].reason or "")
    assert "internal compiler fault" in (found["crashes when opened"].reason or "")


def test_a_hang_is_ended_and_recorded(small: ModuleType, modules: dict[str, str]) -> None:
    found, _ = measured(small, modules, ["hangs when opened", "fine", "hangs when sampled"], answer_s=4.0)
    assert found["fine"].status == "ok"
    for name in ("hangs when opened", "hangs when sampled"):
        assert (found[name].status, "hung: it did not answer in 4 s" in (found[name].reason or "")) == ("failed", True)


def test_the_best_is_measured_again_and_no_other(small: ModuleType, modules: dict[str, str]) -> None:
    found, _ = measured(small, modules, ["fine", "slow"])
    assert found["fine"].confirmed_samples_s
    assert not found["slow"].confirmed_samples_s
    assert found["fine"].seconds().require() < found["slow"].seconds().require()


def test_one_candidate_alone_needs_no_second_batch(small: ModuleType, modules: dict[str, str]) -> None:
    found, _ = measured(small, modules, ["fine"])
    assert not found["fine"].confirmed_samples_s


def test_a_noisy_machine_is_refused_not_averaged(
    small: ModuleType, modules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([1.0, 1.5] * runner.MOST_REPEATS)
    monkeypatch.setattr(runner.Sentinel, "wait_until_quiet", lambda self: next(looks))
    monkeypatch.setattr(runner.Sentinel, "look", lambda self: next(looks))
    found, _ = measured(small, modules, ["fine", "unsupported"])
    assert found["fine"].status == "refused"
    assert "1.50 times slower" in (found["fine"].reason or "")
    assert found["unsupported"].status == "unsupported"


def test_a_library_that_does_not_load_says_nothing_of_the_part(small: ModuleType, modules: dict[str, str]) -> None:
    found, _ = measured(small, {**modules, "fake": "no_such_module"}, ["fine"])
    assert found["fine"].status == "refused"
    assert "No module named 'no_such_module'" in (found["fine"].reason or "")


def test_what_is_known_starts_no_process(
    small: ModuleType, modules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("stratoscope.measure.parts.workers.subprocess.Popen", refuse)
    found, summary = measured(small, modules, ["fine"], known=lambda part, candidate, protocol: True)
    assert (found, summary.known, summary.counts) == ({}, 1, {})


def test_a_spent_budget_begins_no_part(small: ModuleType, modules: dict[str, str]) -> None:
    found, summary = measured(small, modules, ["fine"], parts=small.parts_of(small.relus(3)), budget_s=0.0)
    assert (found, summary.parts_left) == ({}, 3)


def test_a_part_that_cannot_be_built_is_unsupported(small: ModuleType, modules: dict[str, str]) -> None:
    from stratoscope.measure.parts import RunnablePart

    (part,) = small.parts_of(small.relus(1))
    broken = RunnablePart(part.part, b"", problem="its shape is not known")
    found, _ = measured(small, modules, ["fine"], parts=[broken])
    assert (found["fine"].status, found["fine"].reason) == ("unsupported", "its shape is not known")


def test_more_threads_than_cpus_are_refused_before_anything_starts(small: ModuleType, modules: dict[str, str]) -> None:
    with pytest.raises(MeasurementError, match="4096 threads"):
        measured(small, modules, ["fine"], protocols=[Protocol(threads=4096)])


def test_an_unknown_library_is_refused(small: ModuleType) -> None:
    with pytest.raises(MeasurementError, match="nothing runs the library 'fake'"):
        measured(small, {}, ["fine"])


def test_onnxruntime_tells_the_nodes_that_it_executes(small: ModuleType, modules: dict[str, str]) -> None:
    found: list[PartMeasurement] = []
    model = small.one("Conv", (1, 16, 8, 8), small.random(16, 16, 3, 3), pads=[1, 0, 1, 2])
    run_parts(
        small.parts_of(model),
        [small.ort("extended"), small.ort("all")],
        [small.HOT, small.FLUSHED],
        environment=small.HERE,
        on_result=found.append,
        modules=modules,
    )
    assert [one.status for one in found] == ["ok"] * 4
    told = {one.candidate.implementation: one.executed_operators for one in found}
    assert told["graph=extended"] == ("Conv",)
    assert any("Conv" in name for name in told["graph=all"])
    assert all(one.settings["threads"] == 1 and not one.settings["spinning"] for one in found)
    assert all(one.overhead_s > 0 for one in found)


def test_int8_products_are_quantised_or_unsupported_never_float32(small: ModuleType, modules: dict[str, str]) -> None:
    found: list[PartMeasurement] = []
    candidates = default_candidates(libraries=("onnxruntime",), precisions=("int8",))
    parts = [
        *small.parts_of(small.one("MatMul", (8, 64), small.random(64, 32))),
        *small.parts_of(small.one("Relu", (8, 64))),
    ]
    run_parts(parts, candidates, [small.HOT], environment=small.HERE, on_result=found.append, modules=modules)
    product, relu = found
    assert product.status == "ok", product.reason
    assert 1e-4 < (product.max_error or 0) < 6e-2
    assert product.executed_operators == ("com.microsoft.DynamicQuantizeMatMul",)
    assert relu.status == "unsupported"
