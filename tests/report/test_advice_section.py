"""Advice on the page and the terminal: every figure with its interval, names that cannot do anything."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from stratoscope.explain.advice.calibration import Tried
from stratoscope.report.advise_text import gain, render_advice
from stratoscope.spec.advice import Advice, AdviceSection, GapItem, LayerBound, ModelBound, Trial
from stratoscope.stats.quantity import Quantity


def ratio(value: float) -> Quantity:
    return Quantity(value=value, unit="1", statistic="median", n=9, ci_low=value - 0.05, ci_high=value + 0.05)


def seconds(value: float) -> Quantity:
    return Quantity(value=value, unit="s", n=9, ci_low=value * 0.99, ci_high=value * 1.01)


def advice(status: str, **changes: object) -> Advice:
    nothing = Quantity.unavailable("1", "it was not timed")
    timed = status in ("faster", "no gain")
    trial = Trial.model_validate(
        {
            "status": status,
            "reason": None if timed else "outputs differ",
            "time": seconds(1e-3) if timed else Quantity.unavailable("s", "it was not timed"),
            "speedup": ratio(1.8) if timed else nothing,
            "max_error": 1e-6,
            "tolerance": 1e-4,
            "inputs": 3,
        }
    )
    fields = {"key": "k", "question": "Q3", "title": f"Title of {status}", "claim": "seen \x1b[31m", "action": "--do"}
    return Advice.model_validate({**fields, "predicted": ratio(1.9), "trial": trial, **changes})


def section() -> AdviceSection:
    bound = ModelBound(key="library", title="Best calls", time=seconds(5e-4), ratio=ratio(0.5), coverage=0.4)
    layer = LayerBound(
        index=0, name="n", op="LRN", measured=seconds(1e-3), roofline=seconds(1e-5), bound=seconds(1e-5),
        best=Quantity.unavailable("s", "not measured"), limited_by="L3",
    )  # fmt: skip
    return AdviceSection(
        backend="onnxruntime", threads=1, measured=seconds(2e-3), roofs="test", bounds=(bound,), layers=(layer,),
        gap=(GapItem(title="LRN", seconds=Quantity.exact(1.5e-3, "s")),), advice=(advice("faster"), advice("wrong")),
    )  # fmt: skip


def printed(width: int = 100) -> str:
    out = StringIO()
    render_advice(section(), Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_predicted_and_achieved_stand_side_by_side() -> None:
    text = printed()
    assert "predicted 1.90x ± 0.05, achieved 1.80x ± 0.05" in text
    assert "40 %" in text  # coverage is always printed
    assert "wrong" in text


def test_no_control_character_reaches_the_terminal() -> None:
    assert "\x1b" not in printed()


def test_a_gain_that_is_not_known_is_a_dash() -> None:
    assert gain(Quantity.unavailable("1", "unknown")) == "—"


def test_a_prediction_of_next_to_nothing_has_no_part_that_was_achieved() -> None:
    assert Tried("r", "m", "b", "k", 1.008, 0.96).realised is None
    assert Tried("r", "m", "b", "k", 2.0, 2.0).realised == 1.0
    assert Tried("r", "m", "b", "k", 2.0, 4 / 3).realised == pytest.approx(0.5)


def test_the_calibration_is_of_the_newest_trial_of_each_advice() -> None:
    from types import SimpleNamespace

    from stratoscope.explain.advice.calibration import calibration

    def record(run: str, predicted: float, achieved: float) -> SimpleNamespace:
        one = advice("faster", predicted=ratio(predicted))
        assert one.trial is not None
        trial = one.trial.model_copy(update={"speedup": ratio(achieved)})
        found = section().model_copy(update={"advice": (one.model_copy(update={"trial": trial}),)})
        names = {"digests": SimpleNamespace(model="m", software="s"), "model": SimpleNamespace(id="m")}
        return SimpleNamespace(id=run, advice=found, backend=SimpleNamespace(name="b"), **names)

    found = calibration([record("new", 2.0, 1.5), record("old", 2.0, 4.0)])  # type: ignore[list-item]
    assert [one.run for one in found.tried] == ["new"]
    assert found.realised.require() == (1 - 1 / 1.5) / (1 - 1 / 2.0)
    assert abs(found.bias.require() - 0.75) < 1e-12
    assert calibration([]).bias.value is None
