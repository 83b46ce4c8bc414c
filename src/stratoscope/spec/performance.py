"""What a micro-benchmark of a part of a model is: the part, the candidate that runs it, the protocol, the measurement.

The performance database keeps one measurement for each (part, candidate, environment, protocol). All four are keys by
content, so results of several machines and teams merge, and a new model finds whatever of it is known.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from stratoscope.spec.base import Document, digest_of
from stratoscope.spec.hardware import Cache, HardwareManifest, Unlimited
from stratoscope.stats.quantile import low_quartile
from stratoscope.stats.quantity import Quantity

CacheState = Literal["hot", "flushed", "evicted", "sequence"]
PartKind = Literal["layer", "executed", "brick"]
PartStatus = Literal["ok", "failed", "wrong", "refused", "unsupported"]
#: The statuses that will not change when the same is measured again: `bench fill` leaves them alone.
SETTLED: frozenset[PartStatus] = frozenset({"ok", "wrong", "unsupported", "failed"})
#: The version of what `measure/parts/` does beside what `Protocol` says: warm-up, fillers, stopping rule, timer.
PROTOCOL_VERSION = 1


class Protocol(Document):
    """How a part is measured; times of different protocols do not compare.

    `hot`: calls follow each other, whatever they leave in the caches is there. `flushed`: between calls a buffer of the
    size of L2 is read, as if other layers had run. `evicted`: inputs and weights are out of all caches. A model's time
    lies between the sums of its hot and its evicted parts; `flushed` is the point estimate. `sequence` (bricks only):
    the bricks of a model follow each other as in the model, in one memory arena: caches hold what the model leaves in
    them.
    """

    cache: CacheState = "flushed"
    threads: PositiveInt = 1
    version: PositiveInt = PROTOCOL_VERSION

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    def __str__(self) -> str:
        return f"{self.cache}, {self.threads} thread{'s' if self.threads > 1 else ''}"


class Candidate(Document):
    """One way to compute a part: a library, the implementation that is chosen in it, data layout and precision.

    `layout` is that of the activations at the part's border, into and out of it: a candidate that converts inside
    (ONNX Runtime's graph level all) has the layout of what it takes and gives, and its time has the conversion in it.
    """

    library: str = Field(description="onnxruntime, pytorch, onednn, torch.compile, openvino")
    implementation: str = Field(description="what is chosen within it: graph=all, eager, ...")
    layout: str = Field(default="NCHW", description="NCHW, NHWC, NCHWc (blocked by the library) or opaque")
    precision: str = Field(default="float32", description="what is computed in, by its NumPy name, read back")
    version: str = Field(description="of the library")

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def name(self) -> str:
        """A short name without the version: onnxruntime/graph=all, pytorch/eager/NHWC, openvino/compiled/bfloat16."""
        words = [self.library, self.implementation]
        words += [self.layout] if self.layout != "NCHW" else []
        words += [self.precision] if self.precision != "float32" else []
        return "/".join(words)


class Environment(Document):
    """The machine as far as it decides a part's time: what is equal here makes measurements one and the same.

    The kernel's release and the host's name are for the reader; they are not in the digest.
    """

    architecture: str | None = None
    cpu: str | None = Field(default=None, description="model name of the CPU")
    isa: tuple[str, ...] = ()
    physical_cores: int | None = None
    logical_cpus: int | None = None
    smt: bool | None = None
    caches: tuple[Cache, ...] = ()
    memory_bytes: int | None = None
    governor: str | None = None
    boost: bool | None = None
    hypervisor: str | None = None
    cpu_quota: float | Unlimited | None = None
    hostname: str | None = Field(default=None, description="for the reader; decides nothing")
    kernel: str | None = Field(default=None, description="for the reader; decides nothing")

    @property
    def digest(self) -> str:
        """sha256 of what decides, without the names for the reader."""
        return digest_of(self.model_dump(mode="json", exclude={"hostname", "kernel"}, exclude_none=True))

    @property
    def l2_bytes(self) -> int | None:
        """Size of one core's L2 cache; None where the machine does not tell."""
        return next((one.size_bytes for one in self.caches if one.level == 2 and one.type != "instruction"), None)

    @property
    def last_level_bytes(self) -> int | None:
        """Bytes of all last-level caches together; None where the machine does not tell."""
        data = [one for one in self.caches if one.type != "instruction"]
        return max((one.size_bytes * one.instances for one in data), default=None)

    @classmethod
    def of(cls, hardware: HardwareManifest, kernel: str | None = None) -> Self:
        """The environment of a captured machine."""
        cpu = hardware.cpu
        return cls(
            architecture=cpu.architecture,
            cpu=cpu.model,
            isa=cpu.isa or (),
            physical_cores=cpu.physical_cores,
            logical_cpus=cpu.logical_cpus,
            smt=cpu.smt,
            caches=cpu.caches or (),
            memory_bytes=hardware.memory.total_bytes,
            governor=cpu.governor,
            boost=cpu.boost,
            hypervisor=hardware.virtualisation.hypervisor,
            cpu_quota=hardware.allowance.cpu_quota,
            hostname=hardware.hostname,
            kernel=kernel,
        )


class Part(Document):
    """What is measured: a layer of a model, a node of an executed graph, or a brick of several layers.

    `digest` is the layer's signature (graph/signature.py) or the brick's Merkle key: names and the values of weights
    are not in it. Work is None where it is not known, never zero for that reason.
    """

    digest: str
    kind: PartKind
    slug: str = Field(description="in one readable word; not unique")
    operators: tuple[str, ...]
    flops: NonNegativeInt | None = None
    flops_valid: NonNegativeInt | None = Field(default=None, description="taps on real data only: for bounds")
    bytes: NonNegativeInt | None = Field(default=None, description="read + written + parameters, each once")
    parameter_bytes: NonNegativeInt | None = None
    element_type: str | None = Field(default=None, description="of the first output, by its NumPy name")


class PartNoise(Document):
    """What the machine did meanwhile; a figure that is absent was not told."""

    wall_over_cpu: float | None = Field(default=None, description="median over the calls: waits are above 1")
    cpu_p25_s: float | None = Field(default=None, description="p25 of the calls' CPU time, all threads that took part")
    sentinel: float | None = Field(default=None, description="time of the fixed kernel over that of a quiet machine")
    involuntary_switches: int | None = None
    steal_s: float | None = None
    load_average: float | None = None
    quiet: bool | None = Field(default=None, description="the verdict; null where nothing could tell")
    reason: str = ""


class PartMeasurement(Document):
    """One part, measured with one candidate in one environment under one protocol; or why it was not.

    `failed`: the library refused it, crashed or hung. `wrong`: its output differs from the reference. `refused`: the
    machine was too noisy. `unsupported`: the candidate has nothing for this part. Samples are wall seconds of one call,
    call overhead in them; where the candidate was the best of its part it was measured again, and that second batch
    (`confirmed_samples_s`) is the one that counts: the smallest of several noisy figures is too small.
    """

    schema_: Literal["stratoscope/part-measurement/1"] = Field(default="stratoscope/part-measurement/1", alias="schema")
    part: Part
    candidate: Candidate
    environment: Environment
    protocol: Protocol
    status: PartStatus
    reason: str | None = None
    samples_s: tuple[NonNegativeFloat, ...] = ()
    confirmed_samples_s: tuple[NonNegativeFloat, ...] = ()
    overhead_s: NonNegativeFloat = Field(default=0.0, description="p25 of a call of an empty model, same process")
    overhead_low_s: NonNegativeFloat | None = None
    overhead_high_s: NonNegativeFloat | None = None
    max_error: NonNegativeFloat | None = Field(
        default=None, description="largest difference to the reference over the largest magnitude of the reference"
    )
    executed_operators: tuple[str, ...] = Field(default=(), description="what the library ran, where it tells")
    settings: dict[str, Any] = Field(default={}, description="threads, precision, ... as read back from the library")
    started_at: datetime
    duration_s: NonNegativeFloat = Field(default=0.0, description="that it took in all, set-up and check included")
    noise: PartNoise = PartNoise()

    @model_validator(mode="after")
    def _samples_or_reason(self) -> Self:
        if self.status == "ok" and not self.samples_s:
            raise ValueError("a measurement that is ok has samples")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a measurement that is {self.status} says why")
        return self

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Digests of part, candidate, environment and protocol: there is one measurement for each."""
        return (self.part.digest, self.candidate.digest, self.environment.digest, self.protocol.digest)

    @property
    def counted_samples_s(self) -> tuple[float, ...]:
        """The samples that count: the second batch where there is one, else the first. Call overhead is in them."""
        return self.confirmed_samples_s or self.samples_s

    def seconds(self) -> Quantity:
        """Seconds of one execution without the cost of the call; unavailable unless the status is ok.

        The value is the 25th percentile of the samples less that of an empty call. Disturbances only ever add time, so
        a low percentile is steadier than the median on a shared machine (under load p25 of a batch moved by 4 %, the
        median by 5.4 %, the mean by more), and unlike the minimum it does not fall with the number of samples. The
        interval is the bootstrap interval of p25, widened by that of the overhead. A part that costs no more than an
        empty call is 0, with the interval's upper end above it.
        """
        if self.status != "ok":
            return Quantity.unavailable("s", f"{self.status}: {self.reason}", "p25")
        raw = low_quartile(self.counted_samples_s)
        most = self.overhead_high_s if self.overhead_high_s is not None else self.overhead_s
        least = self.overhead_low_s if self.overhead_low_s is not None else self.overhead_s
        low = None if raw.ci_low is None else max(0.0, raw.ci_low - most)
        high = None if raw.ci_high is None else max(0.0, raw.ci_high - least)
        value = max(0.0, raw.require() - self.overhead_s)
        return raw.model_copy(update={"value": value, "ci_low": low, "ci_high": high})
