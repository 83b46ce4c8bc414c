"""Leveled profiling: where the time of a model goes by layer, and what looking costs.

A profiler at one level measures that level and inflates all above it (XSP, IPDPS 2020). So model time comes from
unprofiled inferences only, layer times from layer-profiled ones only, and the difference of the two is reported as
overhead, not subtracted. Here the two kinds are interleaved in random order, so that drift of the machine does not look
like overhead, beside a control (unprofiled against unprofiled) that tells which differences mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.backends.base import Backend, BackendOptions, Feeds, TracingBackend
from stratoscope.errors import MeasurementError
from stratoscope.host.noise import Observation, observe
from stratoscope.measure.leveled_join import ExecutedModel, executed_model
from stratoscope.measure.leveled_rows import ProfiledRuns, closest_to_median, layer_rows, resolved
from stratoscope.measure.leveled_runs import (
    CONTROL,
    PLAIN,
    PROFILED,
    Runs,
    Schedule,
    block_medians,
    interleave,
    kept_spans,
    open_sessions,
    warm_up,
    with_waits,
)
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.record import ProfileSection
from stratoscope.stats.estimators import estimate
from stratoscope.stats.noise import GateResult
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.check import Conservation, check_conservation

#: Rounds of all configurations; their medians are the pairs of the overhead's interval.
BLOCKS: Final = 12
BUDGET_S: Final = 4.0
_NS: Final = 1e-9
_SEQUENCE: Final = "same_sequence_in_all_runs"  # no order to hold threads to that race

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def profile_layers(
    backend: Backend,
    model: LoadableModel,
    options: BackendOptions,
    feeds: Feeds,
    *,
    repeats: int | None = None,
    blocks: int = BLOCKS,
    budget_s: float = BUDGET_S,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> tuple[ProfileSection, pl.DataFrame]:
    """The layers of `model` with their times and work, and the spans (trace.spans.SPAN_SCHEMA) that they come from.

    Args:
        repeats: inferences of each configuration; None: as many as `budget_s` has room for.
        blocks: rounds of all configurations; order within each is random, from `seed`.
        budget_s: seconds for the inferences, loading apart; a model of long inferences gets the fewest that make sense.

    The spans are those of the profiled inferences that the noise gate accepted, `run` counting them from 0.

    Raises:
        MeasurementError: the back end cannot trace beside unprofiled inferences, or it left no layers.
        BackendError: the model does not load or run.
    """
    if not isinstance(backend, TracingBackend):
        raise MeasurementError(f"back end {backend.name!r} cannot trace layers beside unprofiled inferences")
    if blocks < 1 or (repeats is not None and repeats < 1) or budget_s <= 0:
        raise MeasurementError("a profile needs at least one block and one repeat, and a budget above zero")
    executed, measured = _measure(
        backend, model, options, feeds, (repeats, blocks, budget_s, seed), on_progress or _silent
    )
    verdicts = {name: runs.gate() for name, runs in measured.runs.items()}
    calls = np.asarray(measured.runs[PROFILED].call)
    recorded = np.isin(calls, measured.spans["run"].unique().to_numpy())
    accepted = verdicts[PROFILED].accepted & recorded
    kept = kept_spans(measured.spans, calls[accepted].tolist())
    kept = with_waits(kept, measured.runs[PROFILED], accepted)
    profiled = ProfiledRuns.of(kept)
    if profiled.models.height != int(accepted.sum()) or profiled.layers.height == 0:
        raise MeasurementError(f"the trace of model {model.name!r} holds no layers, or not one model span an inference")
    compared = _Compared(measured.runs, verdicts, accepted, profiled)
    found = check_conservation(kept)
    section = ProfileSection(
        backend=backend.name,
        repeats=profiled.models.height,
        model_time=estimate(compared.plain_s, "s", "median"),
        profiled_model_time=estimate(profiled.model_s(), "s", "median"),
        overhead=compared.overhead,
        overhead_below_noise=compared.below_noise,
        control=compared.control,
        layers_sum=sum_of_layers(profiled),
        gap=gap_between_layers(profiled),
        checks=checks_of(found, profiled, bool(recorded.all())),
        layers=tuple(layer_rows(profiled, executed, closest_to_median(profiled.model_s()), "trimmed_mean")),
        noise=measured.observation.record(*judged(verdicts)),
        note=_note(measured, seed, profiled, found, compared),
    )
    return section, kept


@dataclass(frozen=True, slots=True)
class _Measured:
    """The runs of all configurations, the trace of the profiled ones, and how they were made."""

    runs: dict[str, Runs]
    spans: pl.DataFrame
    schedule: Schedule
    separate_control: bool
    observation: Observation


def _measure(
    backend: TracingBackend,
    model: LoadableModel,
    options: BackendOptions,
    feeds: Feeds,
    plan: tuple[int | None, int, float, int],
    report: Callable[[str], None],
) -> tuple[ExecutedModel, _Measured]:
    """Loads, warms up and runs all configurations; `plan` is repeats, blocks, budget in seconds and seed."""
    repeats, blocks, budget_s, seed = plan
    report("layers: reading the executed graph")
    executed = executed_model(backend, model, options)
    report("layers: loading")
    with open_sessions(backend, model, options, feeds, executed.size_bytes) as sessions:
        schedule = Schedule.plan(warm_up(sessions), budget_s, blocks=blocks, repeats=repeats)
        with observe() as observation:
            runs = interleave(sessions, schedule, seed, report)
        report("layers: reading the trace")
        spans = sessions.trace.finish()
    return executed, _Measured(runs, spans, schedule, sessions.separate_control, observation)


def _silent(text: str) -> None:
    """Progress that nobody watches."""


class _Compared:
    """Profiled and control inferences against unprofiled ones, paired block by block."""

    def __init__(
        self, measured: dict[str, Runs], verdicts: dict[str, GateResult], accepted: Bools, profiled: ProfiledRuns
    ) -> None:
        plain, control = measured[PLAIN], measured[CONTROL]
        self.plain_s = np.asarray(plain.duration_ns)[verdicts[PLAIN].accepted] * _NS
        durations = np.zeros(accepted.size)
        durations[accepted] = profiled.model_s()  # the back end's own span: without what tracing adds around it
        base = block_medians(plain, np.asarray(plain.duration_ns) * _NS, verdicts[PLAIN].accepted)
        self.overhead = paired_by_block(block_medians(measured[PROFILED], durations, accepted), base)
        self.control = paired_by_block(
            block_medians(control, np.asarray(control.duration_ns) * _NS, verdicts[CONTROL].accepted), base
        )

    @property
    def below_noise(self) -> bool:
        """Whether the overhead cannot be told from nothing, or from the difference of two unprofiled sessions."""
        return below_noise(self.overhead, self.control)


def below_noise(overhead: Quantity, control: Quantity) -> bool:
    """Whether a difference cannot be told from nothing, or is no larger than the control's may be."""
    if overhead.value is None or overhead.ci_low is None or overhead.ci_high is None:
        return True
    if overhead.ci_low <= 0 <= overhead.ci_high:
        return True
    ends = [abs(end) for end in (control.value, control.ci_low, control.ci_high) if end is not None]
    return abs(overhead.value) <= max(ends, default=0.0)


def paired_by_block(one: dict[int, float], base: dict[int, float]) -> Quantity:
    """The median over the blocks that have both of `one` minus `base`."""
    both = sorted(one.keys() & base.keys())
    if not both:
        return Quantity.unavailable("s", "no block has accepted inferences of both", "median")
    return estimate([one[block] - base[block] for block in both], "s", "median")


def sum_of_layers(profiled: ProfiledRuns) -> Quantity:
    """The layers' time of an inference together."""
    count = float(np.median(profiled.layer_counts()))
    return resolved(estimate(profiled.sums_s(), "s", "trimmed_mean"), count, profiled.resolution_ns)


def gap_between_layers(profiled: ProfiledRuns) -> Quantity:
    """Model time that no layer covers, less what rounding took from the layers where they run one after the other."""
    gap = estimate(profiled.model_s() - profiled.covered_s(), "s", "trimmed_mean")
    if profiled.side_by_side:
        return gap
    return _less(gap, float(np.median(profiled.layer_counts())), profiled.resolution_ns)


def _less(gap: Quantity, count: float, resolution_ns: int) -> Quantity:
    """The gap without what rounding took from the layers: `resolved` with the other sign."""
    taken = resolved(Quantity(value=0.0, unit="s", ci_low=0.0, ci_high=0.0), count, resolution_ns)
    if gap.value is None or taken.value is None:
        return gap
    change = {"value": gap.value - taken.value}
    if gap.ci_low is not None and gap.ci_high is not None and taken.ci_low is not None and taken.ci_high is not None:
        change |= {"ci_low": gap.ci_low - taken.ci_high, "ci_high": gap.ci_high - taken.ci_low}
    return gap.model_copy(update=change)


def checks_of(found: Conservation, profiled: ProfiledRuns, all_recorded: bool) -> dict[str, bool]:
    """The verdicts that a section shows: conservation, no negative remainder, nothing lost."""
    checks = dict(found.holds)
    if profiled.side_by_side:
        del checks[_SEQUENCE]
    checks["no_negative_gap"] = bool((profiled.model_s() >= profiled.covered_s()).all())
    checks["all_repeats_recorded"] = all_recorded
    return checks


def judged(verdicts: dict[str, GateResult]) -> tuple[int, int, bool | None, str]:
    """Accepted, rejected, quiet and reason over all configurations."""
    flags = [verdict.quiet for verdict in verdicts.values()]
    quiet = None if None in flags else all(flags)
    accepted = sum(int(verdict.accepted.sum()) for verdict in verdicts.values())
    total = sum(verdict.accepted.size for verdict in verdicts.values())
    reason = "; ".join(f"{name}: {verdict.reason}" for name, verdict in verdicts.items())
    return accepted, total - accepted, quiet, reason


def _note(measured: _Measured, seed: int, profiled: ProfiledRuns, found: Conservation, compared: _Compared) -> str:
    """How the figures came about, and what a reader of them must know."""
    schedule = measured.schedule
    parts = [
        f"Unprofiled, profiled and control inferences in {schedule.blocks} blocks of {schedule.repeats} each, in "
        f"random order (seed {seed}), {schedule.dropped or 'none'} dropped at each change. Model times are medians, "
        "layer times 20 % trimmed means, over the inferences that the noise gate accepted; overhead is the median of "
        "the blocks' differences."
    ]
    if profiled.resolution_ns:
        unit = f"{profiled.resolution_ns / 1000:g} us"
        parts.append(
            f"The runtime rounds a layer's time down to {unit}: half of that is added to each layer, and the intervals "
            "hold what it may be off."
        )
    slower = np.median(profiled.sums_s()) > np.median(compared.plain_s)
    if slower and not profiled.side_by_side and not compared.below_noise:
        parts.append(
            "The layers take longer under the profiler than the whole model without it: their shares tell more than "
            "their times."
        )
    if not measured.separate_control:
        parts.append("The control is the unprofiled session once more: memory has no room for a third copy.")
    if profiled.nested:
        parts.append("Layers in the bodies of control-flow nodes are in the trace; their time counts with the node.")
    if profiled.side_by_side:
        parts.append("Layers ran side by side: their sum is more than the time that they cover, which the gap is from.")
    skipped = {_SEQUENCE} if profiled.side_by_side else set()
    parts.extend(f"Check {name} fails: {why}." for name, why in found.details.items() if name not in skipped)
    return " ".join(parts)
