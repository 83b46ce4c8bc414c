"""The dialect of ONNX Runtime's profiler: `model_run` is an inference, `<node>_kernel_time` a node of the graph."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from stratoscope.trace.importers.build import SYNC, coded
from stratoscope.trace.importers.chrome_columns import ChromeColumns
from stratoscope.trace.importers.roles import Roles
from stratoscope.trace.levels import Level

_NODE: Final = "_kernel_time"
_RUN: Final = "model_run"
_EXECUTE: Final = "::Execute"
#: What the runtime appends to the names of nodes of its own; the number differs from session to session.
_GENERATED: Final = re.compile(r"_token_\d+$")


def speaks(columns: ChromeColumns) -> bool:
    """Whether ONNX Runtime wrote the trace."""
    if "Session" not in columns.categories and "Node" not in columns.categories:
        return False
    return any(name in (_RUN, "session_initialization") or name.endswith(_NODE) for name in columns.names)


def roles(columns: ChromeColumns) -> Roles:
    """Inferences (model level, numbered as runs), the executor's run of a graph inside, and nodes (layer level).

    A node's fences and other records of the runtime stand at library level. Events outside an inference (loading the
    model) have run 0, the application level, and are told by their name.
    """
    levels = [_level(name) for name in columns.names]
    level = np.array([*levels, 0], np.uint8)[columns.name]
    names = [_GENERATED.sub("", name.removesuffix(_NODE)) for name in columns.names]
    runs = np.flatnonzero(np.array([*(name == _RUN for name in columns.names), False])[columns.name])
    order = np.argsort(columns.start_ns[runs], kind="stable")
    starts = columns.start_ns[runs][order]
    run = np.maximum(np.searchsorted(starts, columns.start_ns, side="right") - 1, 0)
    size = columns.name.size
    device = np.zeros(len(columns.places), np.bool_)
    return Roles(level, np.full(size, SYNC), np.zeros(size, np.int64), device, run, coded(names, columns.name))


def clock(columns: ChromeColumns) -> dict[str, str | int]:
    """Times count from the start of the profile, in whole microseconds rounded down."""
    return {"origin": "start of the profile", "rounding": "down"}


def _level(name: str) -> int:
    if name.endswith(_NODE):
        return Level.LAYER
    if name == _RUN or name.endswith(_EXECUTE):
        return Level.MODEL
    return Level.LIBRARY if name.endswith(("_fence_before", "_fence_after")) else Level.APPLICATION
