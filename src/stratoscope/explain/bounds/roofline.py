"""The least time of a layer's work on a machine: arithmetic on real data, and traffic at the level that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work import work_of
from stratoscope.graph.work_functions.movement import VIEWS

#: Changes of data layout that a runtime puts in: they do nothing of what the model asks for.
LAYOUT_CHANGES: Final = frozenset({"ReorderInput", "ReorderOutput", "Reorder"})
#: Why a layer has no least time above zero, beside an explicit list of operators there is no such layer.
FREE: Final = "free"


@dataclass(frozen=True, slots=True)
class Level:
    """A level of the memory hierarchy: what it holds (None: anything), and byte/s."""

    name: str
    capacity_bytes: float | None
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Roofs: peak operations a second by NumPy's names of types, and levels from the nearest to memory."""

    flops_per_s: Mapping[str, float]
    levels: Sequence[Level]
    source: str = "given"

    def level_of(self, working_set_bytes: float) -> Level:
        """The nearest level that holds a working set; the last one where none does."""
        for level in self.levels:
            if level.capacity_bytes is None or working_set_bytes <= level.capacity_bytes:
                return level
        return self.levels[-1]

    def traffic_s(self, moved_bytes: float, working_set_bytes: float) -> float:
        """The least time of moving bytes within a working set, as much of which as fits may be in the nearer levels.

        What the layers before left in a nearer level is read from there, whatever the size of the whole: 6 MB beyond
        an L2 of 1 MiB move faster than at the bandwidth of L3.
        """
        if working_set_bytes <= 0:
            return 0.0
        held, seconds = 0.0, 0.0
        for level in self.levels:
            capacity = working_set_bytes if level.capacity_bytes is None else level.capacity_bytes
            here = max(0.0, min(working_set_bytes, capacity) - held)
            held += here
            seconds += here / working_set_bytes * moved_bytes / level.bandwidth_bytes_per_s
        return seconds + (1 - held / working_set_bytes) * moved_bytes / self.levels[-1].bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Roofline:
    """The least time in seconds, and what limits it: "compute", a level's name, or `FREE`."""

    seconds: float
    limited_by: str


def roofline(layer: Layer | None, authored: Sequence[Layer], own: Work | None, machine: Machine) -> Roofline | None:
    """The roofline of an executed layer that covers the `authored` ones; None where its work is not known.

    Where a runtime does not tell what it executes, `layer` and `own` are None, and the authored layers tell the work.

    Operations count valid taps only (`Work.flops_valid`): a kernel need not compute on padding. Traffic is the executed
    layer's own, so what fusion keeps inside counts nothing; where it is not known, the parameters of the authored
    layers alone. Outputs may take the place of inputs, so that the working set is the parameters and the larger of the
    two. Arithmetic and traffic are run at full speed at once: the larger of the two times is the bound. Views are free
    by an explicit list, changes of layout likewise: no model asks for them.
    """
    executed = authored if layer is None else (layer,)
    if executed and all(one.op in VIEWS or one.op in LAYOUT_CHANGES for one in executed):
        return Roofline(0.0, FREE)
    works = [work_of(one) for one in authored] if authored else [own]
    known = [work for work in works if work is not None]
    if len(known) != len(works):
        return None
    outputs = [tensor for one in executed for tensor in one.outputs]
    element = next((one.element_type for one in outputs if one.element_type), None) or "float32"
    peak = machine.flops_per_s.get(element)
    operations = sum(work.flops_valid for work in known)
    if operations and peak is None:
        return None
    compute_s = operations / peak if operations and peak is not None else 0.0
    if own is not None:
        moved = own.bytes_read + own.bytes_written + own.parameter_bytes
        working_set = own.parameter_bytes + max(own.bytes_read, own.bytes_written)
    else:
        moved = working_set = sum(work.parameter_bytes for work in known)
    level = machine.level_of(working_set)
    memory_s = machine.traffic_s(moved, working_set)
    return Roofline(compute_s, "compute") if compute_s >= memory_s else Roofline(memory_s, level.name)
