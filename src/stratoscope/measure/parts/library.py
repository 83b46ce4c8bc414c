"""What a library's module offers a worker: prepare a model with a candidate, and tell what it really runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stratoscope.spec.performance import Candidate

Call = Callable[[], object]
Array = np.ndarray[Any, Any]


class Unsupported(Exception):
    """The candidate has nothing for this part; the text says what is missing. Not a failure: it stays so."""


@dataclass(frozen=True, slots=True)
class Job:
    """A model to prepare.

    Attributes:
        path: the ONNX file, weights in it.
        feeds: input name -> array.
        candidate: how to compute it.
        threads: that the library may use.
        folder: for files of the library's own.
        empty: the model does nothing, and its call tells what every call of this candidate costs.
    """

    path: Path
    feeds: Mapping[str, Array]
    candidate: Candidate
    threads: int
    folder: Path
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is ready to be called.

    Attributes:
        call: computes it once; nothing else is in a timed region.
        outputs: runs `call` and gives its outputs, in the order of the graph, as arrays of the layout of the graph.
        operators: what the library executes, as far as it tells; empty where it folded everything away.
        settings: what is in effect, as read back from the library.
    """

    call: Call
    outputs: Callable[[], list[Array]]
    operators: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


class Library(Protocol):
    """A module that a worker loads."""

    def prepare(self, job: Job) -> Prepared:
        """Raises Unsupported where the candidate has nothing for the model, and what the library raises otherwise."""
        ...
