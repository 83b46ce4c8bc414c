"""The summary of a machine record on a terminal: bandwidths, peaks with ridge points, costs, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stratoscope.host.roofs import Roof, Roofs
from stratoscope.report import format as fmt
from stratoscope.report import machine_words as words
from stratoscope.report import wording
from stratoscope.report.terminal import plain_table
from stratoscope.spec.machine import MachineRecord
from stratoscope.stats.quantity import Quantity

#: Columns of words, set left; the others are numbers.
_WORDS = frozenset({"", "from", "by"})


def render_machine(record: MachineRecord, console: Console) -> None:
    """Prints a machine record."""
    roofs = Roofs(record)
    head = Text(words.title(record), style="bold")
    head.append(f"\n{_clean(words.machine_line(record))}", style="not bold dim")
    head.append(f"\n{words.how_measured(record)}", style="not bold dim")
    console.print(head)
    verdict = wording.noise(record.noise)
    console.print(Text(f"machine {verdict.word}: {verdict.reason}", style="dim"))
    tables = [
        *(_bandwidths(roofs), _peaks(roofs), _rows("Costs", words.cost_rows(roofs))),
        *(_rows("Transfers", words.transfer_rows(roofs)), _rows("GPU", words.gpu_rows(record)), _state(record)),
    ]
    for table in tables:
        if table is not None:
            console.print()
            console.print(table)
    _lines(console, "Notes", record.notes)
    _lines(console, "Not available", (f"{item.what}: {item.why}" for item in record.unavailable))


def _bandwidths(roofs: Roofs) -> Table | None:
    if not roofs.levels:
        return None
    counts = roofs.thread_counts
    caption = "the largest of STREAM's kernels and reading; latency: one dependent load"
    head = ["", "latency", *(words.thread_word(count) for count in counts), "by"]
    rows = []
    for level, found in words.bandwidth_rows(roofs):
        rows.append([level, _shown(roofs.latency(level)), *map(_shown, found), _method(found[0])])
    return _table("Bandwidth", head, rows, caption)


def _peaks(roofs: Roofs) -> Table | None:
    if not roofs.dtypes:
        return None
    rows = [
        [f"{dtype} x{threads}", _shown(peak), fmt.show(gemm.figure).value, _bare(ridge), _method(gemm)]
        for dtype, threads, peak, gemm, ridge in words.peak_rows(roofs)
        if peak.value is not None
    ]
    caption = (
        "x: threads; roof: the larger of arithmetic in registers and the best product; ridge: FLOP a byte of memory"
    )
    return _table("Peak FLOP/s", ["", "roof", "best product", "ridge", "by"], rows, caption)


def _rows(title: str, rows: Sequence[words.Row]) -> Table | None:
    if not rows:
        return None
    return _table(title, ["", "median"], [[row.name, fmt.text(row.figure)] for row in rows])


def _state(record: MachineRecord) -> Table:
    rows = [[row.name, _short(row.figure, reason=True)] for row in words.state_rows(record)]
    return _table("State meanwhile", ["", "from"], rows)


def _shown(roof: Roof) -> str:
    return fmt.text(roof.figure)


def _bare(value: Quantity) -> str:
    """The number alone: its unit is in the caption."""
    return fmt.UNAVAILABLE if value.value is None else fmt.bare(value.value, "1")


def _short(value: Quantity, *, reason: bool = False) -> str:
    """A quantity; where it has no value also why, if there is room."""
    return fmt.text(value) + (f" ({value.reason})" if reason and value.value is None else "")


def _method(roof: Roof) -> str:
    """What gave a figure: the kernel with its method, or the library."""
    parts = dict(part.partition(":")[::2] for part in roof.source.split("/") if ":" in part)
    names = roof.source.split("/")
    if "library" in parts:
        packed = " packed" if parts.get("kind") == "packed" else ""
        return f"{parts['library']}{packed}, n = {parts.get('n', '?')}"
    return f"{names[1]} ({parts.get('method', parts.get('isa', ''))})" if len(names) > 1 else ""


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> Table:
    table = plain_table(title, caption)
    for name in head:
        table.add_column(name, justify="left" if name in _WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_clean(cell)) for cell in row))
    return table


def _lines(console: Console, title: str, lines: Iterable[str]) -> None:
    found = list(lines)
    if not found:
        return
    console.print()
    console.print(Text(title, style="bold"))
    for line in found:
        console.print(Text(f"  {_clean(line)}", style="dim"))


def _clean(text: str) -> str:
    """Text without control characters, which could rewrite the terminal: records may come from elsewhere."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
