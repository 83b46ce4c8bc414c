"""`stratoscope compare A B`: whether one run is faster than another, and what else differs between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratoscope.cli.options import DatabaseOption, JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from stratoscope.store.comparison import RunComparison

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RUN_HELP = "A run's id or its beginning, 'last', 'last~1', or a model's name (its newest run)."


def compare(
    a: Annotated[str, typer.Argument(help=f"The baseline. {_RUN_HELP}", show_default=False)],
    b: Annotated[str, typer.Argument(help="The run to judge, named alike.", show_default=False)],
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """Compare the latencies of run B with those of run A."""
    import json

    from rich.console import Console

    from stratoscope.report.files import write_text
    from stratoscope.store.comparison import compare_runs
    from stratoscope.store.store import Store

    with Store.open(db, create=False) as store:
        comparison = compare_runs(store, a, b)
    text = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if json_file is not None and str(json_file) == "-":
        typer.echo(text, nl=False)
        return
    if json_file is not None:
        write_text(json_file, text)
    _print(comparison, Console())


def _print(comparison: RunComparison, console: Console) -> None:
    from stratoscope.report.format import text

    for name, record in (("A", comparison.a), ("B", comparison.b)):
        median = record.load.latency.get("median") if record.load is not None else None
        when = record.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        line = f"{name}  {record.id}  {when}  {record.model.id}  {record.scenario.kind}"
        _line(console, line + (f"  median {text(median)}" if median is not None else ""))
    latency = comparison.latency
    confidence = f" ({latency.ratio.confidence:.0%} interval)" if latency.ratio.confidence is not None else ""
    _line(console, "")
    _line(console, f"latency B / A  {text(latency.ratio)}{confidence}")
    verdict = latency.verdict if latency.verdict == "no difference seen" else f"B is {latency.verdict}"
    _line(console, f"verdict        {verdict}: {latency.note}")
    _print_differences(comparison, console)
    for caveat in comparison.caveats:
        _line(console, f"note: {caveat}")


def _print_differences(comparison: RunComparison, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from stratoscope.cli.results import printable

    if not comparison.aspects:
        _line(console, "model, dataset, software, hardware and scenario are the same")
        return
    _line(console, f"differs in: {', '.join(comparison.aspects)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("aspect", "field", "A", "B"):
        table.add_column(column, overflow="fold")
    for item in comparison.differences:
        table.add_row(*(Text(printable(cell)) for cell in (item.aspect, item.path, _shown(item.a), _shown(item.b))))
    if comparison.differences:
        console.print(table)
    silent = [name for name in comparison.aspects if name not in {item.aspect for item in comparison.differences}]
    if silent:
        _line(console, f"the records do not tell in which field of: {', '.join(silent)}")


def _shown(value: Any) -> str:
    """A value in words; of a digest its beginning, which tells it from another."""
    text = "absent" if value is None else str(value)
    return text[:19] + "..." if _DIGEST.fullmatch(text) else text


def _line(console: Console, text: str) -> None:
    from stratoscope.cli.results import printable

    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
