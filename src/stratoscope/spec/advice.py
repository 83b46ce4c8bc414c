"""What `stratoscope advise` found: how fast a model could be, what stops it, and advice with its gain, tried or not."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from stratoscope.spec.base import Document
from stratoscope.stats.quantity import Quantity

Question = Literal["Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "Q7", "Q8", "Q9", "Q10"]
#: What each question asks; Q1 to Q6 are Benanza's (IPDPS 2020).
QUESTIONS: dict[Question, str] = {
    "Q1": "How much faster could it be?",
    "Q2": "Would running independent layers side by side help?",
    "Q3": "Is the best implementation used for each layer?",
    "Q4": "Where does the framework itself lose time?",
    "Q5": "Would fusing layers help?",
    "Q6": "Would a lower precision help?",
    "Q7": "Would another data layout help?",
    "Q8": "Would other session options help?",
    "Q9": "Would another batch size help?",
    "Q10": "Would another runtime, or another version of it, help?",
}
TrialStatus = Literal["faster", "no gain", "unsure", "wrong", "failed"]


class Trial(Document):
    """A piece of advice that was followed: outputs compared, time measured interleaved against the original.

    `wrong`: the outputs differ by more than the tolerance, and it was not timed. `failed`: it could not be run.
    `unsure`: it was timed, but too few rounds were undisturbed for an interval of its speed-up.
    """

    status: TrialStatus
    reason: str | None = None
    time: Quantity
    speedup: Quantity = Field(description="original over new time, median of the pairs of all rounds")
    max_error: float | None = Field(
        default=None, description="largest difference of the outputs over the largest magnitude of the original's"
    )
    tolerance: float = Field(description="what `max_error` may be")
    inputs: int = Field(default=0, description="different inputs on which the outputs were compared")
    accuracy: Quantity | None = Field(default=None, description="top-1 where there is a labelled data set")
    accuracy_before: Quantity | None = None


class Advice(Document):
    """One thing to do: what was seen, what following it is predicted to give, how to do it, and what it gave."""

    key: str = Field(description="the rule's name")
    question: Question
    title: str
    claim: str = Field(description="what was seen, with the figures that it rests on")
    action: str = Field(description="how to do it, as a command, an option, or in words")
    layers: tuple[str, ...] = Field(default=(), description="authored layers that it is about; empty: the whole model")
    share: float | None = Field(default=None, description="of the inference time that those layers take")
    predicted: Quantity = Field(description="speed-up of the whole model, before it was tried")
    basis: str = Field(default="", description="what the prediction was made from")
    changes_numbers: bool = Field(default=False, description="it computes in another precision")
    trial: Trial | None = Field(default=None, description="null: not tried, for the reason in `not_tried`")
    not_tried: str | None = None


class LayerBound(Document):
    """One executed layer between its two bounds: the roofline, and the best library call that was measured."""

    index: int
    name: str
    op: str
    authored: tuple[str, ...] = ()
    measured: Quantity = Field(description="s, in place, from the layer profile")
    roofline: Quantity = Field(description="s; unavailable where its work is not known")
    limited_by: str | None = Field(default=None, description="compute, or the memory level of its working set")
    best: Quantity = Field(description="s, the best verified library call; unavailable where none was measured")
    best_candidate: str | None = None
    bound: Quantity = Field(description="what counts in the model's bounds: `best` where measured, else `roofline`")
    critical: bool = Field(default=False, description="on the longest path of the parallel bound")


class ModelBound(Document):
    """A time that the model cannot (roofline) or need not (library calls) be slower than."""

    key: str
    title: str
    time: Quantity
    ratio: Quantity = Field(description="bound over measured time: Benanza's ratio")
    coverage: float = Field(description="part of the layers' measured time whose best library call is known")
    note: str = ""


class GapItem(Document):
    """A piece of the way from the measured time down to a bound."""

    title: str
    seconds: Quantity
    layers: tuple[str, ...] = ()


class GraphEdge(Document):
    """A dependence between two executed layers, by index."""

    source: int
    target: int


class AdviceSection(Document):
    """Bounds, the gap to them, and ranked advice for one model, back end and set of options."""

    backend: str
    options: dict[str, Any] = Field(default={}, description="those of the original that all is compared with")
    threads: int
    measured: Quantity = Field(description="s, median of unprofiled inferences")
    roofs: str = Field(default="", description="where the machine's roofs are from")
    bounds: tuple[ModelBound, ...] = ()
    layers: tuple[LayerBound, ...] = ()
    edges: tuple[GraphEdge, ...] = ()
    gap: tuple[GapItem, ...] = Field(default=(), description="from the measured time to the sequential library bound")
    advice: tuple[Advice, ...] = Field(default=(), description="the largest gain first")
    together: Advice | None = Field(default=None, description="all that was faster and computes the same, at once")
    saved: str | None = Field(default=None, description="the file of the rewritten model")
    quiet: bool | None = Field(default=None, description="the noise gate's verdict on the trials")
    noise: str = ""
    notes: tuple[str, ...] = ()
