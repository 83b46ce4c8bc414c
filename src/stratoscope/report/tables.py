"""Markdown tables of results, for the documentation."""

from __future__ import annotations

from collections.abc import Iterable

from stratoscope.report import format as fmt
from stratoscope.spec.record import RunRecord

_HEAD = ("model", "layers", "unique layers", "GFLOPs", "parameters", "median latency", "optimal batch")
_LEFT = frozenset({"model"})


def zoo_table(records: Iterable[RunRecord]) -> str:
    """One row a record: what the model is, its median latency with interval, and the optimal batch, as Markdown.

    Work that is not fully known, a latency or a sweep that was not measured says so; it is never a zero or a blank.
    """
    lines = [_line(_HEAD), _line(["---" if name in _LEFT else "---:" for name in _HEAD])]
    lines += [_line(_cells(record)) for record in records]
    return "\n".join(lines) + "\n"


def _cells(record: RunRecord) -> list[str]:
    graph = record.graph
    latency = None if record.load is None else record.load.latency.get("median")
    cells = [record.model.id]
    if graph is None:
        cells += [fmt.UNAVAILABLE] * 4
    else:
        work = fmt.UNAVAILABLE if graph.flops.value is None else fmt.bare(graph.flops.value / 1e9, "1")
        cells += [fmt.count(graph.layers), fmt.count(graph.unique_layers), work, fmt.magnitude(graph.parameters)]
    cells.append(fmt.text(latency) if latency is not None else "not measured")
    return [*cells, _batch(record)]


def _batch(record: RunRecord) -> str:
    if record.sweep is None:
        return "not measured"
    if record.sweep.optimal_batch is None:
        return "none found"
    known = fmt.count(record.sweep.optimal_batch)
    return known if record.sweep.saturated else f"{known} or more"


def _line(cells: Iterable[str]) -> str:
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
