"""What is asked of one run: model, back end, scenario, and which sections to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import ScenarioManifest


class Section(StrEnum):
    """A part of a record that can be asked for."""

    COLD_START = "cold_start"
    LOAD = "load"
    SWEEP = "sweep"
    PROFILE = "profile"
    ACCURACY = "accuracy"


class ProfileLevel(StrEnum):
    """How deep a profile goes."""

    LAYER = "layer"
    OPERATOR = "operator"
    LIBRARY = "library"
    KERNEL = "kernel"
    HARDWARE = "hardware"


class Mode(StrEnum):
    """What the model does: answers, learns, or generates token after token."""

    INFER = "infer"
    TRAIN = "train"
    GENERATE = "generate"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        model: zoo name, path, `hf:ORG/NAME`, manifest (its file, or a `ModelManifest`), or a `torch.nn.Module`.
        example_inputs: for a module only: its inputs, batch first.
        model_folder: where the path of a `ModelManifest` starts.
        batch_size: what the user asked for by name, which the graph must allow; None: the scenario's if that is above
            one, else the graph's own.
        shapes: input name -> shape, for free dimensions.
        sections: what to measure; the graph and the environment always come with it.
        max_batch: largest batch size of the sweep.
        sweep_budget_s: seconds for the sweep.
        profile_budget_s: seconds for the leveled profile.
        profile_level: how deep the profile goes; None: to the layer, by the back end's plain tracer.
        profile_repeats: inferences of each configuration of the profile; None: what the budget has room for.
        mode: what is profiled: inferences, training steps, or generation.
        new_tokens: tokens of a generation; None: 32.
        wait: wait for another measurement on this machine to end, instead of failing.
        log_dir: where LoadGen's files are kept, or None.
        trace_load: whether the layers of every request of the load are traced.
        command: how to reproduce the run; recorded.
    """

    model: Any
    example_inputs: Any = None
    model_folder: Path = Path()
    backend: str = "onnxruntime"
    options: BackendOptions = field(default_factory=BackendOptions)
    scenario: ScenarioManifest = field(default_factory=ScenarioManifest)
    batch_size: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sections: frozenset[Section] = frozenset(Section)
    max_batch: int = 64
    sweep_budget_s: float = 20.0
    profile_budget_s: float = 10.0
    profile_level: ProfileLevel | None = None
    profile_repeats: int | None = None
    mode: Mode = Mode.INFER
    new_tokens: int | None = None
    wait: bool = True
    log_dir: Path | None = None
    trace_load: bool = False
    command: str = ""
