"""The reference log: manifests bound to measured results and tolerances, and the verdict of a rerun against it.

DLSpec (Pearson et al. 2020) names the reference log and leaves open how ids form a run and what "reproduced" means.
Here: the same model, dataset and scenario were measured, every metric that the log promises lies within its tolerance,
and the outputs are those expected, where the log has their digest. Software and hardware may differ; the verdict says
in which fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from stratoscope.errors import SpecError
from stratoscope.spec.base import Document, Manifest, SemVer
from stratoscope.spec.dataset import DatasetManifest, Sha256
from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.record import BackendRecord, Digests, RunRecord
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.spec.software import SoftwareManifest
from stratoscope.stats.quantity import Quantity

Aspect = Literal["model", "dataset", "software", "hardware", "scenario"]

#: Aspects that must be the same for a rerun to be one of this log; the other two explain differences.
_ASKED: tuple[Aspect, ...] = ("model", "dataset", "scenario")
_ASPECTS: tuple[Aspect, ...] = ("model", "dataset", "software", "hardware", "scenario")

_MANIFESTS: Mapping[Aspect, type[Manifest]] = {
    "model": ModelManifest,
    "dataset": DatasetManifest,
    "software": SoftwareManifest,
    "hardware": HardwareManifest,
    "scenario": ScenarioManifest,
}


class Tolerance(Document):
    """How far a metric may lie from the reference: a share of its value, or an amount in its unit.

    `direction` says on which side it matters: a latency may not be `higher`, a throughput not `lower`, an accuracy
    or a count neither.
    """

    relative: NonNegativeFloat | None = None
    absolute: NonNegativeFloat | None = None
    direction: Literal["either", "higher", "lower"] = Field(default="either", description="the side that fails")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError("a tolerance is either relative or absolute")
        return self

    def band(self, value: float) -> tuple[float | None, float | None]:
        """Lowest and highest accepted value around a reference value; None: no bound on that side."""
        width = abs(value) * self.relative if self.relative is not None else float(self.absolute or 0.0)
        low = None if self.direction == "higher" else value - width
        high = None if self.direction == "lower" else value + width
        return low, high


class ReferenceMetric(Document):
    """A measured result that reruns are held against."""

    quantity: Quantity
    tolerance: Tolerance


class ReferenceLog(Manifest):
    """What was asked, on what, what came out, and how far a rerun may be from it.

    The manifests are embedded as the run's record has them (plain data with their schema tags), so that a difference
    can be named by field; the digests decide whether there is one.
    """

    schema_: Literal["stratoscope/reference/1"] = Field(default="stratoscope/reference/1", alias="schema")
    not_content: ClassVar[frozenset[str]] = frozenset({"description", "author", "notes", "command"})

    id: str
    version: SemVer = "1.0.0"
    description: str = ""
    author: str | None = None
    notes: str = Field(default="", description="what a reader must know: hyper-parameters, where it was measured")
    command: str = Field(default="", description="the command that was run")
    digests: Digests
    model: ModelManifest
    scenario: ScenarioManifest
    dataset: dict[str, Any] | None = None
    software: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    backend: BackendRecord
    metrics: dict[str, ReferenceMetric] = Field(description="name as in `metrics_of`: latency.p90, throughput, ...")
    outputs_sha256: Sha256 | None = Field(default=None, description="digest of the outputs on the scenario's inputs")

    @model_validator(mode="after")
    def _promises_something(self) -> Self:
        if not self.metrics and self.outputs_sha256 is None:
            raise ValueError("a reference log holds at least one metric, or the digest of the outputs")
        without = [name for name, held in self.metrics.items() if held.quantity.value is None]
        if without:
            raise ValueError(f"metrics without a value cannot be held: {', '.join(without)}")
        return self


class FieldDifference(Document):
    """A field whose values differ; None: absent on that side."""

    path: str
    expected: Any = None
    found: Any = None


class AspectVerdict(Document):
    """Whether one of the five aspects is the same, by digest; and which fields differ, where both are at hand."""

    aspect: Aspect
    same: bool
    required: bool = Field(description="a rerun with another one is no rerun of this log")
    differences: tuple[FieldDifference, ...] = ()


class MetricVerdict(Document):
    """One metric against its tolerance.

    "within": the value lies in the accepted band. "outside": it does not, nor does its interval reach into the band
    (widened by the reference's own interval). "undecided": the value is outside and its interval reaches in: more
    samples would decide. "missing": the rerun has no such value, or one of another unit or statistic.
    """

    name: str
    outcome: Literal["within", "outside", "undecided", "missing"]
    expected: Quantity
    found: Quantity | None
    low: float | None
    high: float | None
    difference: float | None = Field(description="found minus expected, in the unit")
    ratio: float | None = Field(description="found divided by expected; null where the reference is 0")
    reason: str


class Verdict(Document):
    """Reproduced or not, and why."""

    reproduced: bool
    reasons: tuple[str, ...] = Field(description="everything that speaks against it; empty where reproduced")
    aspects: tuple[AspectVerdict, ...]
    metrics: tuple[MetricVerdict, ...]

    @property
    def undecided(self) -> tuple[str, ...]:
        """Names of the metrics that a longer measurement would decide."""
        return tuple(metric.name for metric in self.metrics if metric.outcome == "undecided")


def metrics_of(record: RunRecord) -> dict[str, Quantity]:
    """Every result of a record that a reference can hold, by name.

    latency.p90 (and each other key of the latency section), throughput, cold_start.load_s, accuracy.top1,
    sweep.8.latency, sweep.8.throughput, profile.model_time, graph.flops.
    """
    found: dict[str, Quantity] = {}
    if record.load is not None:
        found |= {f"latency.{name}": quantity for name, quantity in record.load.latency.items()}
        found["throughput"] = record.load.throughput
    for section in ("cold_start", "graph", "profile"):
        values = getattr(record, section)
        for name in type(values).model_fields if values is not None else ():
            if isinstance(quantity := getattr(values, name), Quantity):
                found[f"{section}.{name}"] = quantity
    if record.accuracy is not None:
        found |= {f"accuracy.{name}": quantity for name, quantity in record.accuracy.metrics.items()}
    for point in record.sweep.points if record.sweep is not None else ():
        found[f"sweep.{point.batch_size}.latency"] = point.latency
        found[f"sweep.{point.batch_size}.throughput"] = point.throughput
    return found


def failing_side(metric: str) -> Literal["either", "higher", "lower"]:
    """On which side of the reference a metric fails: times when higher, throughput when lower, the rest on either."""
    if metric == "throughput" or metric.endswith(".throughput"):
        return "lower"
    times = metric.startswith(("latency.", "cold_start.", "profile.")) or metric.endswith(".latency")
    return "higher" if times else "either"


def reference_from_record(
    record: RunRecord,
    tolerances: Mapping[str, Tolerance],
    *,
    id: str | None = None,
    outputs_sha256: str | None = None,
    author: str | None = None,
    notes: str = "",
) -> ReferenceLog:
    """A reference log that promises the metrics named in `tolerances`, with the record's values.

    Raises:
        SpecError: the record is not complete or not valid, or it has no value for one of the metrics.
    """
    if record.status != "complete":
        raise SpecError(f"run {record.id} is {record.status} and cannot be a reference", hint=record.status_reason)
    if record.load is not None and not record.load.validity.valid:
        why = "; ".join(record.load.validity.reasons)
        raise SpecError(f"run {record.id} is not valid and cannot be a reference: {why}")
    available = {name: quantity for name, quantity in metrics_of(record).items() if quantity.status == "ok"}
    absent = sorted(set(tolerances) - set(available))
    if absent or not tolerances:
        what = f"has no value for {', '.join(absent)}" if absent else "is given no metric to hold"
        raise SpecError(f"run {record.id} {what}", hint=f"it has: {', '.join(sorted(available)) or 'none'}")
    return ReferenceLog(
        id=id or f"reference-of-{record.id}",
        author=author,
        notes=notes,
        command=record.command,
        digests=record.digests,
        model=record.model,
        scenario=record.scenario,
        dataset=record.dataset,
        software=record.software,
        hardware=record.hardware,
        backend=record.backend,
        metrics={
            name: ReferenceMetric(quantity=available[name], tolerance=tolerance)
            for name, tolerance in tolerances.items()
        },
        outputs_sha256=outputs_sha256,
    )


def compare_to_reference(reference: ReferenceLog, record: RunRecord, *, outputs_sha256: str | None = None) -> Verdict:
    """Whether `record` reproduces `reference`, and which aspect differs. Pure: nothing is run or read.

    Args:
        outputs_sha256: digest of the rerun's outputs; compared where the reference has one.
    """
    aspects = tuple(_compare_aspect(aspect, reference, record) for aspect in _ASPECTS)
    measured = metrics_of(record)
    metrics = tuple(_compare_metric(name, held, measured.get(name)) for name, held in reference.metrics.items())
    reasons = [f"another {verdict.aspect} was measured" for verdict in aspects if verdict.required and not verdict.same]
    if record.status != "complete":
        reasons.append(f"the run is {record.status}")
    if record.load is not None and not record.load.validity.valid:
        reasons.append(f"the run is not valid: {'; '.join(record.load.validity.reasons)}")
    reasons += [f"{metric.name}: {metric.reason}" for metric in metrics if metric.outcome != "within"]
    if reference.outputs_sha256 is not None:
        expected, found = (_bare(digest) for digest in (reference.outputs_sha256, outputs_sha256))
        if found is None:
            reasons.append("the outputs were not compared: the rerun has no digest of them")
        elif expected != found:
            reasons.append("the outputs differ from those expected")
    return Verdict(reproduced=not reasons, reasons=tuple(reasons), aspects=aspects, metrics=metrics)


def _bare(digest: str | None) -> str | None:
    return None if digest is None else digest.removeprefix("sha256:")


def _compare_aspect(aspect: Aspect, reference: ReferenceLog, record: RunRecord) -> AspectVerdict:
    """Same by the digests as recorded, or by today's digests of the embedded manifests.

    The second lets a log of an older version, whose manifests lacked a field, match a record of the same content.
    """
    same = getattr(reference.digests, aspect) == getattr(record.digests, aspect)
    embedded = [getattr(document, aspect) for document in (reference, record)]
    if not same and all(isinstance(manifest, Manifest) for manifest in embedded):
        same = embedded[0].digest() == embedded[1].digest()
    differences: tuple[FieldDifference, ...] = ()
    if not same:
        expected, found = (_plain(manifest) for manifest in embedded)
        if aspect == "software":  # the back end's options are part of what ran
            expected["backend"], found["backend"] = (_plain(log.backend) for log in (reference, record))
        differences = tuple(_differences(expected, found, _MANIFESTS[aspect].not_content))
    return AspectVerdict(aspect=aspect, same=same, required=aspect in _ASKED, differences=differences)


def _plain(value: Any) -> dict[str, Any]:
    """A manifest, or the plain data of one, as a new dictionary."""
    if isinstance(value, Document):
        return value.model_dump(mode="json", by_alias=True)
    return dict(value) if value is not None else {}


def _differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], ignored: frozenset[str]
) -> Iterator[FieldDifference]:
    """Leaves that differ, by path, without the top-level fields that decide nothing."""
    left, right = (
        dict(_leaves({key: part for key, part in side.items() if key not in ignored})) for side in (expected, found)
    )
    for path in sorted(left.keys() | right.keys()):
        if left.get(path) != right.get(path):
            yield FieldDifference(path=path, expected=left.get(path), found=right.get(path))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths (cpu.model, inputs[0].shape) and values; a list of plain values is one leaf; absent values have no path."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}[{index}]")
    elif value is not None:
        yield path, list(value) if isinstance(value, tuple) else value


def _compare_metric(name: str, held: ReferenceMetric, found: Quantity | None) -> MetricVerdict:
    expected = held.quantity
    reference_value = expected.require()
    low, high = held.tolerance.band(reference_value)
    base = {"name": name, "expected": expected, "found": found, "low": low, "high": high}
    missing = _missing(expected, found)
    if missing is not None or found is None or found.value is None:
        return MetricVerdict(**base, outcome="missing", difference=None, ratio=None, reason=missing or "no value")
    value = found.value
    difference = value - reference_value
    ratio = value / reference_value if reference_value else None
    off = f"{ratio - 1:+.1%} of the reference" if ratio is not None else f"{difference:+.6g} {expected.unit}"
    outcome: Literal["within", "outside", "undecided"] = "outside"
    if _inside(value, low, high):
        outcome, reason = "within", f"{off}, within the tolerance"
    elif _reaches(held, found):
        outcome = "undecided"
        reason = f"{off}, outside the tolerance, but its interval reaches into it: measure longer to decide"
    else:
        reason = f"{off}, outside the tolerance"
    return MetricVerdict(**base, outcome=outcome, difference=difference, ratio=ratio, reason=reason)


def _missing(expected: Quantity, found: Quantity | None) -> str | None:
    """Why there is nothing to compare, or None."""
    if found is None:
        return "the rerun did not measure it"
    if found.value is None:
        return f"{found.status}: {found.reason}"
    if (found.unit, found.statistic) != (expected.unit, expected.statistic):
        return f"the rerun has {found.statistic} in {found.unit}, not {expected.statistic} in {expected.unit}"
    return None


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _reaches(held: ReferenceMetric, found: Quantity) -> bool:
    """Whether the found interval meets the band around any value of the reference's own interval."""
    if found.value is None or (found.ci_low is None and held.quantity.ci_low is None):
        return False
    low_end = found.ci_low if found.ci_low is not None else found.value
    high_end = found.ci_high if found.ci_high is not None else found.value
    center = held.quantity.require()
    bands = [held.tolerance.band(v) for v in (center, held.quantity.ci_low, held.quantity.ci_high) if v is not None]
    lows, highs = [low for low, _ in bands], [high for _, high in bands]
    low = min((value for value in lows if value is not None), default=None)
    high = max((value for value in highs if value is not None), default=None)
    return (low is None or high_end >= low) and (high is None or low_end <= high)
