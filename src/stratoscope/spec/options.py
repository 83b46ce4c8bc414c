"""Options that a back end is asked for: threads, graph optimisation, providers, number format, execution mode."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from stratoscope.spec.base import Document


class BackendOptions(Document):
    """Options that every back end understands as far as it can; it reports those in effect.

    `threads` null means the back end's default, `spin` false keeps idle worker threads from burning a core.
    """

    threads: PositiveInt | None = Field(default=None, description="threads inside one operator")
    inter_threads: PositiveInt | None = Field(default=None, description="operators run at once")
    graph_optimization: Literal["off", "basic", "extended", "all"] = Field(
        default="all", description="how far the runtime may rewrite the graph"
    )
    providers: tuple[str, ...] = Field(default=(), description="execution providers in order of preference; empty: CPU")
    spin: bool = Field(default=True, description="idle worker threads spin: quicker, and busy")
    shared: bool = Field(
        default=False,
        description="run from the one copy of the weights that all processes share; prepared at first use",
    )
    shared_granularity: Literal["model", "layer"] = Field(
        default="model", description="what is shared: whole models, or layers that several models have too"
    )
    null_latency_s: float = Field(default=0.001, ge=0, le=60, description="null back end: how long one inference takes")
    precision: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="PyTorch, OpenVINO: format that the model computes in; null: as it is written"
    )
    execution: Literal["eager", "compile"] = Field(default="eager", description="PyTorch: eager, or torch.compile")
    channels_last: bool = Field(default=False, description="PyTorch: images with channels as the innermost dimension")
