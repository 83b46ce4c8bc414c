"""The record of a run: what was asked, on what, and what was measured; a section that was not asked for is absent."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from stratoscope.spec.advice import AdviceSection
from stratoscope.spec.base import Document, digest_of
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.profile import (
    GenerationSection,
    LevelCost,
    OperatorRow,
    PrimitiveRow,
    Reconstruction,
    Reorders,
    TrainingSection,
)
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.stats.quantity import Quantity


class Digests(Document):
    """The five digests that identify a run; equal digests mean that the same thing was asked of the same machine."""

    model: str
    dataset: str
    software: str
    hardware: str
    scenario: str

    def key(self) -> str:
        """One digest over the five."""
        return digest_of(self.model_dump())


class Unavailable(Document):
    """Something that was asked for and is not there, with the reason."""

    what: str
    why: str


class BackendRecord(Document):
    """Which back end ran the model, and the options in effect, read back where the back end tells."""

    name: str
    version: str
    options: dict[str, Any] = {}
    requested: dict[str, Any] = Field(default={}, description="the options that were asked for, to run it again")
    levels: tuple[str, ...] = Field(default=(), description="names of the levels that it can trace")


class NoiseRecord(Document):
    """What the machine did to the measurement, over its whole duration; and how many repeats the gate refused."""

    wall_s: Quantity
    thread_cpu_s: Quantity
    run_queue_wait_s: Quantity
    involuntary_switches: Quantity
    steal_s: Quantity
    load_average: Quantity
    throttled: Quantity = Field(description="CPU quota or thermal throttle events during the measurement")
    foreign_cpu_s: Quantity | None = Field(default=None, description="CPU time that other processes used meanwhile")
    cpu_clock: Quantity | None = Field(default=None, description="median of all CPUs' clocks, lowest to highest")
    temperature: Quantity | None = Field(default=None, description="of the hottest CPU sensor")
    power: Quantity | None = Field(default=None, description="of the CPU packages, mean over the measurement")
    accepted: int = 0
    rejected: int = 0
    quiet: bool | None = Field(default=None, description="the gate's verdict on the whole; null where it cannot tell")
    reason: str | None = None


class Validity(Document):
    """Whether the result satisfies its scenario's rules: min duration, min queries, latency bound, early stopping."""

    valid: bool
    reasons: tuple[str, ...] = ()
    source: Literal["loadgen", "stratoscope"] = "stratoscope"


class ClientVerdict(Document):
    """Whether the load generator itself was the bottleneck, from the null back end under the same load."""

    bottleneck: bool | None
    overhead_per_query_s: Quantity
    send_lag_p99_s: Quantity = Field(description="actual minus intended send time")
    reason: str


class LoadSection(Document):
    """One scenario: latencies count from the intended send time; rates are completed samples a second."""

    scenario: ScenarioManifest
    queries: int
    samples: int
    duration_s: Quantity
    latency: dict[str, Quantity] = Field(
        description="mean, median, trimmed_mean, min, max, p50, p90, p95, p97, p99, p99.9 and early_stopping_pNN, in s"
    )
    throughput: Quantity
    headline: str = Field(
        description="key of the figure that this scenario is judged by: a key of `latency`, or 'throughput'"
    )
    validity: Validity
    client: ClientVerdict
    noise: NoiseRecord
    loadgen: dict[str, Any] = Field(default={}, description="LoadGen's own results, as its detail log has them")
    notes: tuple[str, ...] = Field(default=(), description="what a reader of the figures must know")


class SweepPoint(Document):
    """Steady-state figures at one batch size."""

    batch_size: int
    latency: Quantity
    throughput: Quantity = Field(description="inputs a second")


class SweepSection(Document):
    """A batch-size sweep and XSP's optimal batch: the smallest after which doubling gains at most 5 % throughput."""

    points: tuple[SweepPoint, ...]
    optimal_batch: int | None
    saturated: bool = Field(description="false: the sweep ended before doubling stopped paying")
    reason: str = ""


class ColdStep(Document):
    """One step of a cold start; `start_s` counts from the start of the process."""

    name: str
    inside: str | None = Field(default=None, description="the step that it is part of")
    start_s: Quantity
    duration_s: Quantity


class ColdState(Document):
    """A cold start from one state of page cache and server, in fresh processes."""

    state: str
    meaning: str
    steps: tuple[ColdStep, ...]
    load_and_first_s: Quantity = Field(description="from the finished import to the first answer")
    total_s: Quantity = Field(description="from the start of the process to the first answer")
    private_bytes: Quantity = Field(description="memory that the load took for itself")
    tier: str = Field(description="where the weights are: private, file, memory")


class ColdStartSection(Document):
    """What the first answer costs, apart from steady state; each measured in a fresh process."""

    import_s: Quantity
    load_s: Quantity
    first_inference_s: Quantity
    steady_s: Quantity
    states: tuple[ColdState, ...] = Field(default=(), description="scenario cold: each state that was made on purpose")


class AccuracySection(Document):
    """Quality of the outputs on a data set with labels."""

    dataset: str
    samples: int
    metrics: dict[str, Quantity]
    labels: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = Field(default=None, description="rows: truth, columns: prediction")


class LayerRow(Document):
    """One executed layer: its time from layer-profiled runs, and the work of the authored layers that it covers."""

    index: int
    name: str
    op: str
    authored: tuple[str, ...] = Field(default=(), description="names of the authored layers fused into it")
    output_shape: tuple[int, ...] | None = None
    output_type: str | None = None
    time: Quantity
    share: float | None = Field(default=None, description="of the summed layer time")
    start_ns: int | None = Field(default=None, description="offset in the shown inference")
    duration_ns: int | None = Field(default=None, description="in the shown inference")
    track: int = 0
    flops: Quantity
    bytes: Quantity = Field(description="read + written + parameters, each once")
    parameters: Quantity
    allocated: Quantity
    provider: str | None = None
    signature: str | None = None


class ProfileSection(Document):
    """Where the time goes, from leveled runs: model time from unprofiled runs, layer times from layer-profiled ones."""

    backend: str
    repeats: int
    model_time: Quantity
    profiled_model_time: Quantity
    overhead: Quantity = Field(description="profiled minus unprofiled model time, paired")
    overhead_below_noise: bool
    control: Quantity | None = Field(
        default=None, description="a second unprofiled session minus the first, paired: differences that mean nothing"
    )
    layers_sum: Quantity
    gap: Quantity = Field(description="profiled model time minus the layers' sum: framework time between layers")
    checks: dict[str, bool] = Field(default={}, description="conservation checks that were made, true where they hold")
    layers: tuple[LayerRow, ...]
    noise: NoiseRecord
    note: str = ""
    levels: tuple[LevelCost, ...] = Field(default=(), description="what each traced level costs, the shallowest first")
    operators: tuple[OperatorRow, ...] = Field(default=(), description="in the order of execution")
    primitives: tuple[PrimitiveRow, ...] = Field(default=(), description="in the order of execution")
    reorders: Reorders | None = Field(default=None, description="null where no primitives were traced")
    reconstructions: tuple[Reconstruction, ...] = ()


class GraphSection(Document):
    """What the model is, from its graph alone."""

    layers: int
    unique_layers: int
    flops: Quantity
    parameters: Quantity
    parameter_bytes: Quantity
    activation_bytes: Quantity
    by_type: dict[str, int] = {}
    unknown_work: tuple[str, ...] = Field(
        default=(), description="operators without a work function, with their number"
    )


class RunRecord(Document):
    """One run, self-describing: identity, environment, every section that was measured, and what could not be."""

    schema_: Literal["stratoscope/run/1"] = Field(default="stratoscope/run/1", alias="schema")
    id: str
    created_at: datetime
    command: str = Field(default="", description="the command that reproduces this run")
    status: Literal["complete", "interrupted", "failed"] = "complete"
    status_reason: str | None = None
    digests: Digests
    key: str
    model: ModelManifest
    scenario: ScenarioManifest
    software: dict[str, Any]
    hardware: dict[str, Any]
    dataset: dict[str, Any] | None = None
    backend: BackendRecord
    graph: GraphSection | None = None
    cold_start: ColdStartSection | None = None
    load: LoadSection | None = None
    sweep: SweepSection | None = None
    accuracy: AccuracySection | None = None
    profile: ProfileSection | None = None
    training: TrainingSection | None = None
    generation: GenerationSection | None = None
    advice: AdviceSection | None = Field(default=None, description="bounds and advice, where they were asked for")
    outputs_sha256: str | None = Field(default=None, description="of the outputs for the first generated input")
    unavailable: tuple[Unavailable, ...] = ()
    artifacts: dict[str, str] = Field(default={}, description="name -> file, relative to the store's artefact folder")
