"""What the attributes of a span tell, under one set of names whatever tracer wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from stratoscope.explain.analyses.primitive_work import primitive_work
from stratoscope.explain.analyses.samples import typical
from stratoscope.explain.roofs import DEFAULT_TYPE

#: Names under which tracers give the same number; the first that is there counts. The TensorFlow and CUPTI names are
#: those of old MLModelScope traces.
_NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "allocated_bytes": ("allocated_bytes", "output_bytes"),
    "peak_bytes": ("peak_bytes",),
    "in_use_bytes": ("in_use_bytes", "allocator_bytes_in_use"),
    "temporary_bytes": ("temporary_bytes", "temp_memory_size"),
    "persistent_bytes": ("persistent_bytes", "persistent_memory_size"),
    "read_bytes": ("dram_read_bytes", "bytes_read"),
    "written_bytes": ("dram_write_bytes", "bytes_written"),
    "moved_bytes": ("bytes",),
    "occupancy": ("achieved_occupancy", "occupancy"),
}
#: Operation counters by the type of roof that they run under.
_COUNTERS: Final[Mapping[str, str]] = {
    "flop_count_sp": "float32",
    "flop_count_dp": "float64",
    "flop_count_hp": "float16",
    "flop_count_tensor": "tensor-float16",
    "int8_operations": "int8",
}
_REPLAY: Final = frozenset({*_COUNTERS, "dram_read_bytes", "dram_write_bytes", "achieved_occupancy"})
_COPIES: Final = ("memcpy", "memset")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of one span, or of a site over its runs; None where it is not told.

    Attributes:
        type: the operator or layer type.
        shape: of the first output; an empty one is a scalar's.
        operations: by type of arithmetic; the empty mapping is none, None is not known.
        read_bytes, written_bytes: at the memory; `moved_bytes` their sum, or told as one.
        occupancy: achieved, of 1.
        copy: it only moves or fills memory.
        computed: work and traffic are from the sizes of the call, not from counters.
    """

    type: str | None = None
    element_type: str | None = None
    shape: tuple[int, ...] | None = None
    allocator: str | None = None
    allocated_bytes: float | None = None
    peak_bytes: float | None = None
    in_use_bytes: float | None = None
    temporary_bytes: float | None = None
    persistent_bytes: float | None = None
    operations: Mapping[str, float] | None = None
    read_bytes: float | None = None
    written_bytes: float | None = None
    moved_bytes: float | None = None
    occupancy: float | None = None
    copy: bool = False
    computed: bool = False

    @property
    def flops(self) -> float | None:
        """All operations, whatever their type; None where they are not known."""
        return None if self.operations is None else sum(self.operations.values())


def parse(name: str, *texts: str | None) -> Facts:
    """The facts of a span called `name` with JSON attributes `texts`; of two that tell one thing the first counts.

    A text that is no JSON object tells nothing.
    """
    return _parse(name, tuple(text for text in texts if text))


def has_counters(text: str | None) -> bool:
    """Whether attributes hold hardware counters, which take a replay of the kernel and so distort its time."""
    return text is not None and not _REPLAY.isdisjoint(_object(text))


def rounding_ns(text: str) -> int:
    """The unit to which the clock of a run's layers rounds down, as its model span tells; 0 where it does not."""
    attributes = _object(text)
    unit = _number(attributes.get("resolution_ns"))
    return int(unit) if unit and attributes.get("rounding") == "down" else 0


@lru_cache(maxsize=65536)
def _parse(name: str, texts: tuple[str, ...]) -> Facts:
    told: dict[str, Any] = {}
    for text in reversed(texts):
        told.update(_object(text))
    outputs, inputs = _tensors(told.get("outputs")), _tensors(told.get("inputs"))
    element_type = _text(told.get("element_type")) or _type_of(inputs, outputs)
    numbers = {field: _first(told, names) for field, names in _NUMBERS.items()}
    operations = _operations(told, element_type or DEFAULT_TYPE)
    computed = primitive_work(name, told) if operations is None and numbers["read_bytes"] is None else None
    if computed is not None:
        operations = computed.operations
        numbers |= {"read_bytes": computed.read_bytes, "written_bytes": computed.written_bytes}
    if numbers["moved_bytes"] is None and None not in (numbers["read_bytes"], numbers["written_bytes"]):
        numbers["moved_bytes"] = (numbers["read_bytes"] or 0.0) + (numbers["written_bytes"] or 0.0)
    activity = str(told.get("activity") or told.get("category") or "")
    copy = name.lower().startswith(_COPIES) or activity.removeprefix("gpu_") in _COPIES
    shape = told.get("shape", outputs[0].get("shape") if outputs else None)
    return Facts(
        type=_text(told.get("op")) or _text(told.get("type")),
        element_type=element_type,
        shape=_shape(shape),
        allocator=_text(told.get("allocator")) or _text(told.get("allocator_name")),
        operations={} if operations is None and copy else operations,
        copy=copy,
        computed=computed is not None,
        **numbers,
    )


def merged(found: Iterable[Facts]) -> Facts:
    """The facts of a site from those of its spans: the first text or shape told, and numbers as trimmed means."""
    every = list(found)
    if len(set(map(id, every))) == 1:
        return every[0]

    def first(pick: Callable[[Facts], Any]) -> Any:
        return next((pick(one) for one in every if pick(one) is not None), None)

    counted = [one.operations for one in every if one.operations is not None]
    kinds = sorted({kind for operations in counted for kind in operations})
    operations = {kind: typical(one.get(kind, 0.0) for one in counted) or 0.0 for kind in kinds}
    return Facts(
        type=first(lambda one: one.type),
        element_type=first(lambda one: one.element_type),
        shape=first(lambda one: one.shape),
        allocator=first(lambda one: one.allocator),
        operations=operations if counted else None,
        copy=all(one.copy for one in every),
        computed=any(one.computed for one in every),
        **{field: typical(getattr(one, field) for one in every) for field in _NUMBERS},
    )


def with_work(facts: Facts, flops: float | None, moved_bytes: float | None) -> Facts:
    """The facts with work that is known from the graph, where the span itself told none."""
    if facts.operations is None and flops is not None:
        facts = replace(facts, operations={facts.element_type or DEFAULT_TYPE: flops})
    return facts if facts.moved_bytes is not None else replace(facts, moved_bytes=moved_bytes)


def _operations(told: Mapping[str, Any], element_type: str) -> dict[str, float] | None:
    """Operations by type: as told by type, else from counters, else one number of the span's own type."""
    by_type = told.get("operations")
    if isinstance(by_type, Mapping):
        return {str(kind): float(count) for kind, count in by_type.items() if _number(count) is not None}
    counted: dict[str, float] = {}
    for name, kind in _COUNTERS.items():
        count = _number(told.get(name))
        if count is not None:
            counted[kind] = counted.get(kind, 0.0) + count
    if counted:
        return counted
    flops = _number(told.get("flops"))
    return None if flops is None else {element_type: flops}


def _type_of(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> str | None:
    """The type of arithmetic: that of quantised inputs, else of the output."""
    for tensor in inputs[:1]:
        if tensor.get("type") in ("int8", "uint8"):
            return "int8"
    return _text(outputs[0].get("type")) if outputs else None


@lru_cache(maxsize=65536)
def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # of a foreign trace: no JSON, or a nesting bomb
        return {}
    return value if isinstance(value, dict) else {}


def _first(told: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((number for name in names if (number := _number(told.get(name))) is not None), None)


def _number(value: object) -> float | None:
    """A count that is told; negative or not finite it tells nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < float("inf") else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _tensors(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _shape(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list | tuple) or not all(isinstance(size, int) for size in value):
        return None
    return tuple(value)
