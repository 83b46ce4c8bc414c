"""What a rule of advice finds, and the words that all rules say it with."""

from __future__ import annotations

from dataclasses import dataclass

from stratoscope.explain.advice.changes import Change
from stratoscope.spec.advice import Question


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that applies: where, what it claims, what to do, and the change that does it.

    `untried` says why there is nothing to try, where `change` changes nothing.
    """

    key: str
    question: Question
    title: str
    claim: str
    action: str
    change: Change
    layers: tuple[str, ...] = ()
    share: float | None = None
    untried: str = ""


def count_of(number: int, noun: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def takes(share: float | None) -> str:
    """Which part of the layers' time that is, in words."""
    return "take an unknown part of the time" if share is None else f"take {share:.0%} of the layers' time"
