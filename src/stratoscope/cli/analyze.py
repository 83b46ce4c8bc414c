"""`stratoscope analyze RUN`: the analyses A1 to A15, and those beyond, of a stored run or a trace file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stratoscope.cli.options import DatabaseOption, HtmlOption, JsonOption

if TYPE_CHECKING:
    from stratoscope.explain.analyses.result import AnalysisResult
    from stratoscope.explain.analyses.stored import NamedTrace
    from stratoscope.explain.roofs import Roofs
    from stratoscope.spec.record import Unavailable
    from stratoscope.trace.importers import ImportReport

RoofOption = Annotated[
    list[str] | None,
    typer.Option(
        "--roof", help="Peak rate in FLOP/s by type, as float32=1.2e12; repeat for several.", show_default=False
    ),
]
BandwidthOption = Annotated[
    float | None, typer.Option("--bandwidth", help="Memory bandwidth in byte/s.", show_default=False)
]
MachineOption = Annotated[
    Path | None,
    typer.Option("--machine", help="Take the roofs of this record of `stratoscope machine`.", show_default=False),
]
_LIST = "list"


def analyze(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's id or its beginning, 'last', a model's name, or a trace file; 'list' lists the analyses."
        ),
    ] = "last",
    analysis: Annotated[
        list[str] | None,
        typer.Option(
            "--analysis", "-a", help="Id of an analysis; repeat for several. Default: all.", show_default=False
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", help="Write the table of one analysis as CSV ('-': standard output).", show_default=False
        ),
    ] = None,
    json_file: JsonOption = None,
    html: HtmlOption = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Look at this batch size.", show_default=False)
    ] = None,
    roof: RoofOption = None,
    bandwidth: BandwidthOption = None,
    machine: MachineOption = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that the roofs of --machine are for.")] = 1,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows of each table on the terminal.")] = 15,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Format of a trace file, where its content does not tell it.", show_default=False
        ),
    ] = None,
    db: DatabaseOption = None,
) -> None:
    """Analyse a stored run or a trace file: the analyses A1 to A15 of XSP, and more; `analyze list` lists them."""
    from stratoscope.errors import MeasurementError
    from stratoscope.explain.analyses.registry import analyse, find, registry
    from stratoscope.explain.analyses.result import AnalysisOptions, AnalysisResult
    from stratoscope.explain.analyses.stored import named_trace
    from stratoscope.report.files import check_writable

    if run == _LIST:
        _list(json_file)
        return
    wanted = [find(one).id for one in analysis or registry()]
    if csv is not None and len(wanted) != 1:
        raise MeasurementError("--csv writes one table", hint="name it with --analysis A7, or use --json")
    options = AnalysisOptions(batch_size, _roofs(roof, bandwidth, machine, threads))
    if html is not None:
        check_writable(html)
    named = named_trace(run, db, format=format)
    name, trace, stored = named.name, named.trace, named.run
    found = [analyse(one, trace, options) for one in wanted]
    results = [one for one in found if isinstance(one, AnalysisResult)]
    missing = [one for one in found if not isinstance(one, AnalysisResult)]
    if not results:
        why = dict.fromkeys(one.why for one in missing)
        what = name if stored is None else f"run {name}"
        raise MeasurementError(f"{what} does not have what {', '.join(wanted)} needs: {'; '.join(why)}")
    if csv is not None:
        write_out(csv, results[0].to_csv())
    if json_file is not None:
        write_out(json_file, _json(name, results, missing))
    if html is not None:
        _write_page(html, named, found)
    if "-" not in (str(csv), str(json_file)):
        _print(results, missing, rows, None if named.file is None else named.file.report)


def _write_page(html: Path, named: NamedTrace, found: list[AnalysisResult | Unavailable]) -> None:
    """The page of a stored run with these analyses, or that of a trace file."""
    if named.run is not None:
        from stratoscope.report.html import write_report

        write_report(named.run.record, html, samples=named.run.samples, spans=named.run.spans, found=found)
    elif named.file is not None:
        from stratoscope.explain.trace_summary import summarise
        from stratoscope.report.trace_page import TracePage, write_trace_page

        file = named.file
        summary = summarise(file.spans)
        write_trace_page(TracePage(named.name, file.report, summary, file.track_names(), found), html)


def _list(json_file: Path | None) -> None:
    """The analyses with what they need."""
    import json

    from rich.console import Console
    from rich.table import Table

    from stratoscope.explain.analyses.registry import registry

    every = registry().values()
    if json_file is not None:
        listed = [{"id": one.id, "title": one.title, "needs": list(one.needs)} for one in every]
        write_out(json_file, json.dumps({"schema": "stratoscope/analysis-list/1", "analyses": listed}, indent=2) + "\n")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("id", "analysis", "needs spans of"):
        table.add_column(column)
    for one in every:
        table.add_row(one.id, one.title, ", ".join(one.needs) or "(samples of a load)")
    Console().print(table)


def _roofs(roof: list[str] | None, bandwidth: float | None, machine: Path | None, threads: int) -> Roofs | None:
    from stratoscope.errors import MeasurementError
    from stratoscope.explain.roofs import Roofs, from_machine

    if machine is not None:
        from stratoscope.host.roofs import Roofs as MachineRoofs

        if roof or bandwidth is not None:
            raise MeasurementError("--machine gives the roofs: leave --roof and --bandwidth out")
        return from_machine(MachineRoofs.load(machine), threads)
    if not roof and bandwidth is None:
        return None
    if not roof or bandwidth is None:
        raise MeasurementError(
            "roofs are a peak rate and a bandwidth", hint="give both --roof float32=... and --bandwidth"
        )
    peaks = {}
    for text in roof:
        kind, _, number = text.partition("=")
        try:
            peaks[kind.strip()] = float(number)
        except ValueError:
            raise MeasurementError(f"--roof {text!r} is not of the form float32=1.2e12") from None
    return Roofs(peaks, bandwidth)


def _json(run: str, results: list[AnalysisResult], missing: list[Unavailable]) -> str:
    import json

    document: dict[str, Any] = {
        "schema": "stratoscope/analyses/1",
        "run": run,
        "results": [one.to_json() for one in results],
        "unavailable": [one.model_dump() for one in missing],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_out(file: Path, text: str) -> None:
    """Writes a text to a file, or to standard output for `-`."""
    from stratoscope.report.files import write_text

    if str(file) == "-":
        typer.echo(text, nl=False)
    else:
        write_text(file, text)


def _print(results: list[AnalysisResult], missing: list[Unavailable], rows: int, read: ImportReport | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from stratoscope.report.analysis import render_analysis
    from stratoscope.report.trace_terminal import render_import

    console = Console()
    if read is not None:
        render_import(read, console)
        console.print()
    for number, result in enumerate(results):
        if number:
            console.print()
        render_analysis(result, console, rows)
    for why in dict.fromkeys(one.why for one in missing):
        names = ", ".join(one.what.split()[0] for one in missing if one.why == why)
        console.print(Text(f"{names}: unavailable, {why}"), soft_wrap=True)
