"""Why one run is faster than another: both explanations side by side, the largest differences first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stratoscope.llm.base import LlmError, Value, validated
from stratoscope.llm.efficiency import efficiency
from stratoscope.llm.estimate import estimate_inference, estimate_training
from stratoscope.llm.hardware import find_hardware
from stratoscope.llm.hf import load_model, shipped_configs
from stratoscope.llm.infer import Deployment
from stratoscope.llm.plan import Generation, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.report import Node, Report


class Question(Value):
    """A question in a file: a model, a device, a plan, and a training step or a static batch."""

    model: str
    hardware: str
    plan: str = ""
    precision: str = "bf16"
    engine: str = "generic"
    level: str = "prior"
    train: TrainStep | None = None
    generate: Generation | None = None


class Change(Value):
    """One part of the time in both runs."""

    name: str
    before_s: float
    after_s: float
    bound: str

    @property
    def gain_s(self) -> float:
        """Seconds that the second run saves here."""
        return self.before_s - self.after_s


def load_question(path: str | Path) -> Question:
    """A question from YAML; raises LlmError naming the field at fault."""
    file = Path(path)
    try:
        data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LlmError(f"{file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise LlmError(f"{file}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise LlmError(f"{file}: not a question", hint="keys: model, hardware, plan, train or generate")
    question: Question = validated(Question, data, str(file))
    if (question.train is None) == (question.generate is None):
        raise LlmError(f"{file}: give exactly one of train and generate")
    return question


def answer(question: Question, folder: Path | None = None) -> Report:
    """The report of a question; relative model paths start at `folder`."""
    named = question.model.lower() in shipped_configs() or folder is None or Path(question.model).is_absolute()
    model = load_model(question.model if named or folder is None else folder / question.model)
    if question.level not in ("peak", "prior"):
        raise LlmError(f"level {question.level!r} needs a calibration file", hint="use peak or prior in question files")
    device = efficiency(find_hardware(question.hardware), "peak" if question.level == "peak" else "prior")
    plan, precision = ParallelPlan.parse(question.plan), Precision.preset(question.precision)
    engine = find_engine(question.engine)
    if question.train is not None:
        return estimate_training(model, plan, question.train, device, precision=precision, engine=engine)
    if question.generate is None:
        raise LlmError("the question asks for nothing", hint="give train or generate")
    return estimate_inference(Deployment(model, plan, precision, engine, device), question.generate)


def compare(before: Report, after: Report) -> list[Change]:
    """Parts of the main result of both reports, by how much the second saves; parts that one lacks count as zero.

    Raises LlmError for reports of different kinds.
    """
    if before.kind != after.kind:
        raise LlmError(f"a {before.kind} report cannot be compared with a {after.kind} report")
    name = "step_s" if before.kind == "train" else "latency_s"
    left, right = _parts(before.results[name]), _parts(after.results[name])
    changes = [
        Change(
            name=part,
            before_s=left[part].value if part in left else 0.0,
            after_s=right[part].value if part in right else 0.0,
            bound=(left.get(part) or right[part]).bound,
        )
        for part in dict.fromkeys([*left, *right])
    ]
    return sorted(changes, key=lambda change: -abs(change.gain_s))


def _parts(node: Node) -> dict[str, Node]:
    """Two levels of the tree, by path."""
    out: dict[str, Node] = {}
    for child in node.children:
        if not child.children:
            out[child.name] = child
        for grandchild in child.children:
            out[f"{child.name} / {grandchild.name}"] = grandchild
    return out
