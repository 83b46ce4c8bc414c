"""What a profile below the layer holds: what each level costs, its operators, its primitives, its phases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stratoscope.spec.base import Document
from stratoscope.stats.quantity import Quantity


class LevelCost(Document):
    """One level of a leveled experiment: runs whose deepest level it is, against those one level less deep."""

    level: str = Field(description="layer, operator, library or kernel")
    repeats: int = Field(description="inferences that the noise gate accepted")
    spans: float = Field(description="spans of one inference, of all levels")
    model_time: Quantity = Field(description="median, with everything traced down to this level")
    added: Quantity = Field(description="against runs one level less deep, paired by block")
    total: Quantity = Field(description="against unprofiled runs, paired by block")
    below_noise: bool = Field(description="whether `total` cannot be told from the control's differences")


class OperatorRow(Document):
    """One operator of a framework, from runs whose deepest level is the operator level."""

    site: str
    parent: str | None = Field(description="site of the operator or layer right above it")
    name: str
    layer: str | None = Field(description="name of the innermost layer that called it")
    depth: int = Field(description="operators above it in its layer")
    phase: str | None = None
    time: Quantity
    self_time: Quantity = Field(description="without the operators inside")
    shapes: str | None = Field(default=None, description="of its inputs")


class PrimitiveRow(Document):
    """One primitive of a library or kernel of a device, from runs whose deepest level is its own."""

    site: str
    parent: str | None = Field(description="site of the operator right above it")
    name: str
    operator: str | None
    layer: str | None
    library: str | None = None
    implementation: str | None = None
    kind: Literal["compute", "weight reorder", "layout reorder", "kernel", "copy"] = "compute"
    problem: str = ""
    time: Quantity
    share: float | None = Field(default=None, description="of the model's time in the same runs")


class Reorders(Document):
    """Time that primitives spend on bringing tensors into another layout, an inference."""

    weights: Quantity = Field(description="constants, repacked at every call")
    activations: Quantity
    weights_share: float | None = Field(description="of the model's time in the same runs")
    activations_share: float | None
    weights_count: float = Field(description="weight reorders of one inference")
    activations_count: float


class Reconstruction(Document):
    """The unprofiled latency put together from profiled runs: what they took, less what their spans cost."""

    level: str = Field(description="deepest level of the profiled runs")
    time: Quantity = Field(description="profiled model time minus spans x cost of a span")
    span_cost: Quantity = Field(description="measured on a network that computes nothing but moves as much memory")
    difference: Quantity | None = Field(
        default=None, description="put together minus unprofiled, paired by the blocks in which both ran"
    )
    agrees: bool | None = Field(description="whether the interval of the difference holds zero")


class Phase(Document):
    """A part of a training step or of a generation."""

    name: str
    time: Quantity
    share: float | None = None


class TrainingSection(Document):
    """A training step: time, rate and memory from unprofiled steps, phases from steps profiled at that level."""

    step_time: Quantity
    samples_per_s: Quantity
    peak_memory: Quantity
    phases: tuple[Phase, ...]
    optimizer: str
    loss: str
    batch_size: int
    note: str = ""


class GenerationSection(Document):
    """Autoregressive generation: prefill and decode apart, all from unprofiled runs."""

    prompt_tokens: int
    new_tokens: int
    batch_size: int
    ttft: Quantity = Field(description="time to the first token: prefill of the prompt and choice of a token")
    tpot: Quantity = Field(description="time of a token after the first")
    tokens_per_s: Quantity = Field(description="new tokens a second over the whole generation, all sequences")
    decode_tokens_per_s: Quantity
    cache_bytes: Quantity = Field(description="key-value cache at the end")
    cache_bytes_per_token: Quantity
    note: str = ""
