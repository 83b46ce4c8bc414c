"""Finds, predicts, tries and ranks what makes a model faster here: what `stratoscope advise` does after the profile."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratoscope.backends.registry import get_backend
from stratoscope.errors import BackendError, ModelError, StratoscopeError
from stratoscope.explain.advice.changes import Change
from stratoscope.explain.advice.facts import Facts
from stratoscope.explain.advice.finding import Finding
from stratoscope.explain.advice.rules import findings
from stratoscope.explain.bounds.calls import Calls
from stratoscope.explain.bounds.model import ModelBounds, model_bounds
from stratoscope.explain.bounds.roofline import Machine
from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.host.capture import capture_hardware
from stratoscope.host.lock import measurement_lock
from stratoscope.improve.catalogue import GRAPH_REWRITES, GraphRewrite, load_for_rewrite, rewrite_graph, save_onnx
from stratoscope.improve.placing import placed_layers
from stratoscope.improve.predict import (
    BASIS,
    CALLS_BASIS,
    PRIOR_ERROR,
    PairTimer,
    PartTimer,
    predict_by_calls,
    predict_speedup,
    with_model_error,
)
from stratoscope.improve.trials import Attempt, Trials, run_trials
from stratoscope.improve.variants import Variant, changed
from stratoscope.spec.advice import Advice, AdviceSection, Trial
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import ProfileSection, SweepSection
from stratoscope.stats.quantity import Quantity

if TYPE_CHECKING:
    from onnx import ModelProto

_MOST_NAMED = 3
_OTHER_BACKENDS = ("onnxruntime", "openvino", "pytorch")


@dataclass(frozen=True, slots=True)
class Request:
    """What to give advice on, and how much time to take.

    Attributes:
        profile: the layers of the original, measured with the same options.
        machine: makes the roofs that bounds rest on, or says (by raising) why there are none; None: no bounds.
        calls: measured library calls by the digest of a layer's signature.
        chosen: names of options that the user set himself, which advice leaves.
        budget_s: seconds for racing changes against the original; 0: nothing is tried.
        quick: try only what is quick and likely (session options, rewrites of this graph).
        prediction_error: root mean square of the log of achieved over predicted speed-ups of before.
        lower_precision: put advice that changes the numbers into what is saved and tried together.
        save: where the rewritten model goes, or None.
    """

    model: LoadableModel
    backend: str
    options: BackendOptions
    profile: ProfileSection
    operators: Mapping[str, int] = field(default_factory=dict)
    sweep: SweepSection | None = None
    machine: Callable[[], Machine] | None = None
    calls: Mapping[str, Calls] = field(default_factory=dict)
    chosen: frozenset[str] = frozenset()
    budget_s: float = 20.0
    quick: bool = False
    prediction_error: float = PRIOR_ERROR
    lower_precision: bool = False
    save: Path | None = None
    seed: int = 0
    wait: bool = True


Report = Callable[[str], None]


def advise(
    request: Request,
    timer: PartTimer | None,
    *,
    pairs: PairTimer | None = None,
    on_progress: Report | None = None,
) -> AdviceSection:
    """Advice on a model: each piece with its predicted gain, tried where it can be, the largest achieved gain first.

    Args:
        timer: benchmarks new executed layers for the predictions; None: nothing is predicted that needs it.
        pairs: benchmarks layers as they run and by another library call; None likewise.

    Raises:
        StratoscopeError: the original cannot be run, or the rewritten model cannot be written.
    """
    report = on_progress or _silent
    with measurement_lock(wait=request.wait, on_wait=report), tempfile.TemporaryDirectory("-stratoscope") as folder:
        return _Advisor(request, timer, pairs, Path(folder), report).run()


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _silent(text: str) -> None:
    """Progress that nobody watches."""


class _Advisor:
    """One run of the advisor over one model."""

    def __init__(
        self, request: Request, timer: PartTimer | None, pairs: PairTimer | None, folder: Path, report: Report
    ) -> None:
        self.request, self.timer, self.pairs, self.folder, self.report = request, timer, pairs, folder, report
        self.original = Variant(request.model, request.backend, request.options)
        self.notes: list[str] = []
        self.roofs = ""
        self.graph: ModelProto | None = None

    def run(self) -> AdviceSection:
        self.report("advice: looking for rewrites that fit")
        bounds = self._bounds()
        facts = self._facts(bounds)
        found = findings(facts, quick=self.request.quick)
        todo = [one for one in found if one.change != Change()] if self.request.budget_s > 0 else []
        predicted = {one.key: self._predict(one) for one in todo}
        groups = run_trials(
            self.original,
            [self._attempt(one) for one in todo],
            budget_s=self.request.budget_s * 0.75,
            seed=self.request.seed,
            on_progress=self.report,
        )
        trials = {key: trial for group in groups for key, trial in group.trials.items()}
        advice = [_advice(one, predicted.get(one.key), trials.get(one.key)) for one in found]
        together, last = self._together(todo, trials)
        noise = [group.noise for group in (*groups, *last)]
        saved = self._save(todo, trials)
        quiet = [one.quiet for one in noise]
        return AdviceSection(
            backend=self.request.backend,
            options=self.request.options.model_dump(mode="json"),
            threads=facts.threads,
            measured=self.request.profile.model_time,
            roofs=self.roofs,
            bounds=bounds.bounds if bounds is not None else (),
            layers=bounds.layers if bounds is not None else (),
            edges=bounds.edges if bounds is not None else (),
            gap=bounds.gap if bounds is not None else (),
            advice=tuple(sorted(advice, key=_rank)),
            together=together,
            saved=saved,
            quiet=None if not quiet or None in quiet else all(quiet),
            noise=next((one.reason or "" for one in noise if one.quiet is False), ""),
            notes=tuple(self.notes),
        )

    def _bounds(self) -> ModelBounds | None:
        request = self.request
        if request.machine is None:
            return None
        try:
            machine = request.machine()
        except StratoscopeError as error:
            self.notes.append(f"there are no bounds: {error}")
            return None
        self.roofs = machine.source
        placed = placed_layers(self.original, request.profile)
        workers = max(1, _cpus() // (request.options.threads or _cpus()))
        found = model_bounds(request.profile, placed, machine, request.calls, workers=workers, seed=request.seed)
        if found.beaten:
            names = ", ".join(found.beaten[:_MOST_NAMED]) + (", ..." if len(found.beaten) > _MOST_NAMED else "")
            self.notes.append(
                f"faster than their roofline, and counted as they run ({len(found.beaten)}): {names}; the runtime does "
                "less than the operator says (a transpose by strides), or the roofs are too low"
            )
        return found

    def _facts(self, bounds: ModelBounds | None) -> Facts:
        request = self.request
        hardware = capture_hardware()
        return Facts(
            backend=request.backend,
            options=request.options,
            profile=request.profile,
            sweep=request.sweep,
            cpus=_cpus(),
            cpu=hardware.cpu.model or "",
            isa=frozenset(hardware.cpu.isa or ()),
            other_backends=() if request.quick else self._others(),
            fits=self._fits(),
            bounds=bounds.layers if bounds is not None else (),
            parallel_gain=bounds.parallel_gain if bounds is not None else None,
            operators=request.operators,
            chosen=request.chosen,
        )

    def _others(self) -> tuple[str, ...]:
        names = [name for name in _OTHER_BACKENDS if name != self.request.backend]
        return tuple(name for name in names if get_backend(name).capabilities().available)

    def _fits(self) -> dict[str, tuple[str, ...]]:
        """The graph rewrites that fit, each tried on the original alone."""
        if self.request.model.path is None or self.request.options.shared:
            return {}
        try:
            self.graph = load_for_rewrite(self.request.model)
        except ModelError as error:
            self.notes.append(f"the graph was not rewritten: {error}")
            return {}
        fits: dict[str, tuple[str, ...]] = {}
        for rewrite in GRAPH_REWRITES:
            fits.update(rewrite_graph(self.graph, (rewrite,)).changed)
        return fits

    def _attempt(self, found: Finding) -> Attempt:
        return Attempt(found.key, lambda: self._variant(found.change, found.key), found.change.tolerance)

    def _variant(self, change: Change, name: str) -> Variant:
        return changed(self.original, change, self.graph, self.folder, name)

    def _predict(self, found: Finding) -> Quantity:
        change = found.change
        if change.calls is not None:
            return self._predict_by_calls(found.key, change, change.calls)
        if change.backend or change.modules or set(change.options) - {"graph_optimization"}:
            return Quantity.unavailable("1", "nothing here predicts it; it was tried", "prediction")
        if self.timer is None:
            return Quantity.unavailable("1", "new layers were not benchmarked", "prediction")
        self.report(f"advice: predicting {found.key}")
        try:
            predicted = predict_speedup(
                self.request.profile, self.original, self._variant(change, found.key), self.timer
            )
        except StratoscopeError as error:
            return Quantity.unavailable("1", str(error), "prediction")
        return with_model_error(predicted, self.request.prediction_error)

    def _predict_by_calls(self, key: str, change: Change, call: tuple[str, str, str]) -> Quantity:
        if self.pairs is None:
            return Quantity.unavailable("1", "layers were not benchmarked", "prediction")
        self.report(f"advice: predicting {key}")
        try:
            graph, known = self._layers_to_time(change)
            predicted = predict_by_calls(self.request.profile, graph, call, self.pairs, known)
        except StratoscopeError as error:
            return Quantity.unavailable("1", str(error), "prediction")
        return with_model_error(predicted, self.request.prediction_error)

    def _layers_to_time(self, change: Change) -> tuple[Graph, Mapping[int, str]]:
        """The graph that the profiled layers are of; of a module that is not from one, a graph of its linear layers."""
        request = self.request
        told = any(row.signature is not None for row in request.profile.layers)
        if change.modules is not None and not told:
            from stratoscope.improve.torch_modules import linear_layers

            return linear_layers(request.model, request.options, request.profile.layers)
        if request.model.path is None:
            raise ModelError(f"model {request.model.name!r} has no graph file")
        return read_graph(request.model.path, request.model.bound_shapes()), {}

    def _together(self, todo: Sequence[Finding], trials: Mapping[str, Trial]) -> tuple[Advice | None, list[Trials]]:
        """All that was faster and computes the same, at once, where there are two or more such."""
        change, keys = self._combined(todo, trials)
        if len(keys) < 2:
            return None, []
        predicted = 1.0
        for key in keys:
            predicted *= trials[key].speedup.require()
        attempt = Attempt("together", lambda: self._variant(change, "together"), change.tolerance)
        group = run_trials(
            self.original,
            [attempt],
            budget_s=self.request.budget_s / 4,
            seed=self.request.seed,
            on_progress=self.report,
        )
        advice = Advice(
            key="together",
            question="Q1",
            title="All of it at once",
            claim=", ".join(keys),
            action="; ".join(one.action for one in todo if one.key in keys),
            predicted=Quantity(value=predicted, unit="1", statistic="prediction"),
            basis="the product of the gains of each",
            changes_numbers=change.changes_numbers,
            trial=group[0].trials["together"],
        )
        return advice, group

    def _combined(self, todo: Sequence[Finding], trials: Mapping[str, Trial]) -> tuple[Change, list[str]]:
        """The change that takes in every gain, the largest first, as far as they go together."""
        gains = [one for one in todo if one.key in trials and trials[one.key].status == "faster"]
        gains = [one for one in gains if self.request.lower_precision or not one.change.changes_numbers]
        gains = [one for one in gains if one.change.backend is None]
        gains.sort(key=lambda one: -trials[one.key].speedup.require())
        change, keys = Change(), []
        for one in gains:
            both = change.with_(one.change)
            if both is not None:
                change = both
                keys.append(one.key)
        return change, keys

    def _save(self, todo: Sequence[Finding], trials: Mapping[str, Trial]) -> str | None:
        if self.request.save is None:
            return None
        change, _ = self._combined(todo, trials)
        if not change.graph or self.graph is None:
            self.notes.append("nothing was saved: no rewrite of the graph made it faster with the same outputs")
            return None
        rewrites: tuple[GraphRewrite, ...] = tuple(one for one in GRAPH_REWRITES if one.key in change.graph)
        save_onnx(rewrite_graph(self.graph, rewrites).model, self.request.save)
        return str(self.request.save)


def _advice(found: Finding, predicted: Quantity | None, trial: Trial | None) -> Advice:
    nothing = Quantity.unavailable("1", "it rests on a measurement, not on a prediction", "prediction")
    return Advice(
        key=found.key,
        question=found.question,
        title=found.title,
        claim=found.claim,
        action=found.action,
        layers=found.layers,
        share=found.share,
        predicted=predicted or nothing,
        basis=_basis(found) if predicted is not None and predicted.value is not None else "",
        changes_numbers=found.change.changes_numbers,
        trial=trial,
        not_tried=None if trial is not None else _why_not(found),
    )


def _basis(found: Finding) -> str:
    return BASIS if found.change.calls is None else CALLS_BASIS


def _why_not(found: Finding) -> str:
    return found.untried if found.change == Change() else "no time was given for trials"


def _rank(advice: Advice) -> tuple[int, float]:
    """What was faster first, by its gain; then what was not tried; then what did not surely help, or failed."""
    if advice.trial is None:
        return (1, -(advice.predicted.value or 0.0))
    gain = advice.trial.speedup.value or 0.0
    return (0 if advice.trial.status == "faster" else 2, -gain)


def require_onnx_path(save: Path | None) -> None:
    """Raises BackendError where the rewritten model could not be read again by its name."""
    if save is not None and save.suffix.lower() != ".onnx":
        raise BackendError(f"--save {save}: the name of an ONNX file ends in .onnx")
