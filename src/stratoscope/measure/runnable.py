"""A brick as it is handed to the process that runs it."""

from __future__ import annotations

from dataclasses import dataclass

from stratoscope.spec.performance import Part


@dataclass(frozen=True, slots=True)
class RunnableBrick:
    """A brick to measure: what it is, its skeleton, and why there is none. `wanted` is false for one that is measured
    already and only runs to leave the caches as the model would. `further_bytes` are weights that a pass of the model
    reads beside those of the bricks that run: at the further places of this brick, and of those left out before it.
    `last`: what it computes leaves the model."""

    part: Part
    skeleton: bytes
    problem: str | None = None
    wanted: bool = True
    further_bytes: int = 0
    last: bool = False
