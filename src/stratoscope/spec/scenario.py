"""The scenario: which load is put on the model, for how long, with which seeds."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from stratoscope.spec.base import Document, Manifest


class ScenarioKind(StrEnum):
    """The load patterns: the first four are MLPerf's and run through LoadGen; cold is a first answer, no load."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    SERVER = "server"
    OFFLINE = "offline"
    CONCURRENCY = "concurrency"
    CONSTANT_RATE = "constant-rate"
    REPLAY = "replay"
    COLD = "cold"


#: MLPerf's own scenarios, which LoadGen drives.
MLPERF_SCENARIOS = frozenset(
    {ScenarioKind.SINGLE_STREAM, ScenarioKind.MULTI_STREAM, ScenarioKind.SERVER, ScenarioKind.OFFLINE}
)


class Seeds(Document):
    """Seeds of LoadGen's three random streams and of generated inputs and weights; recorded with every run."""

    qsl: int = Field(default=13281865557512327830, ge=0, lt=2**64)
    sample_index: int = Field(default=198141574272810017, ge=0, lt=2**64)
    schedule: int = Field(default=7575108116881280410, ge=0, lt=2**64)
    inputs: int = Field(default=0, ge=0, lt=2**64)


class ScenarioManifest(Manifest):
    """One load pattern with its limits. Durations in seconds, rates in queries a second."""

    schema_: Literal["stratoscope/scenario/1"] = Field(default="stratoscope/scenario/1", alias="schema")
    not_content: ClassVar[frozenset[str]] = frozenset({"description"})

    kind: ScenarioKind = Field(default=ScenarioKind.SINGLE_STREAM, description="load pattern")
    mode: Literal["performance", "accuracy"] = "performance"
    description: str = ""
    batch_size: PositiveInt = 1
    min_duration_s: PositiveFloat = Field(default=3.0, description="measure at least so many seconds")
    max_duration_s: PositiveFloat = Field(default=600.0, description="measure at most so many seconds")
    min_queries: PositiveInt = Field(default=64, description="and at least so many queries")
    warmup_s: float = Field(default=0.5, ge=0, le=3600, description="seconds of calls before, not counted")
    warmup_queries: int = Field(default=3, ge=0, description="at least so many calls before, not counted")
    performance_samples: PositiveInt = Field(default=16, description="distinct inputs held in memory")
    target_percentile: float = Field(default=0.9, gt=0, lt=1, description="percentile that the scenario is judged by")
    target_qps: PositiveFloat | None = Field(
        default=None, description="server, constant-rate: queries a second; measured where not given"
    )
    target_latency_s: PositiveFloat | None = Field(
        default=None, description="server: bound in seconds at the target percentile"
    )
    samples_per_query: PositiveInt = Field(default=8, description="multi-stream: inputs of one query")
    concurrency: PositiveInt = Field(default=2, description="concurrency: queries in flight; server and rates: workers")
    trace_file: str | None = Field(
        default=None, description="replay: file of send times in seconds, one a line, or JSONL with t"
    )
    seeds: Seeds = Seeds()

    def at(self, batch_size: int, seed: int) -> ScenarioManifest:
        """The same load at another batch size, with inputs generated from `seed`."""
        seeds = self.seeds.model_copy(update={"inputs": seed})
        return self.model_copy(update={"batch_size": batch_size, "seeds": seeds})
