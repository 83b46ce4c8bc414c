"""`stratoscope trace`: read traces of any software, analyse them, and write them for other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.options import DatabaseOption
from stratoscope.cli.trace_diff import diff

if TYPE_CHECKING:
    from stratoscope.trace.importers import ImportedTrace

trace_app = typer.Typer(help="Traces: import, analyze, export.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(help="A trace file of any format that is read.", show_default=False)]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="Its format, where its content does not tell it.", show_default=False),
]
_SUFFIX = re.compile(r"(\.otlp)?(\.json|\.sqlite|\.log|\.txt|\.parquet)?(\.gz)?$", re.IGNORECASE)


@trace_app.command("import")
def import_(
    file: FileArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default: FILE.parquet here.", show_default=False),
    ] = None,
    format: FormatOption = None,
) -> None:
    """Read a trace of other software and keep it as a span table (Parquet, or what the name of the output says).

    Read are Chrome trace JSON (PyTorch's, ONNX Runtime's, any), Nsight Systems SQLite exports, oneDNN verbose logs,
    Jaeger JSON and Parquet; .gz as well. Broken files give their good part, and what was dropped is counted.
    """
    from rich.console import Console

    from stratoscope.report.files import check_writable
    from stratoscope.report.trace_terminal import render_import
    from stratoscope.trace.correlate import assign_parents
    from stratoscope.trace.exporters import export_trace
    from stratoscope.trace.importers import import_nonempty

    target = output or Path(_SUFFIX.sub("", file.name) + ".parquet")
    check_writable(target)
    trace = import_nonempty(file, format=format)
    export_trace(assign_parents(trace.spans), target, tracks=trace.tracks)
    render_import(trace.report, Console())
    typer.echo(f"{target}")


@trace_app.command("analyze")
def analyze(
    file: FileArgument,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write all figures to this file ('-': standard output).", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many kernels and operators to show.")] = 10,
    all_steps: Annotated[
        bool, typer.Option("--all-steps", help="Keep the last profiler step, whose device work may be cut off.")
    ] = False,
    kernel_delay_us: Annotated[
        float, typer.Option("--kernel-delay-us", min=0, help="Gaps below this are launch overhead between kernels.")
    ] = 30.0,
    format: FormatOption = None,
) -> None:
    """Tell where the time of a trace went: kernels, computation, communication, idle time and its causes, operators."""
    import json

    from rich.console import Console

    from stratoscope.explain.trace_summary import summarise
    from stratoscope.report.files import check_writable, write_text
    from stratoscope.report.trace_terminal import render_analysis, render_import
    from stratoscope.trace.importers import import_nonempty

    to_terminal = json_file is None or str(json_file) != "-"
    if json_file is not None and to_terminal:
        check_writable(json_file)
    trace = import_nonempty(file, format=format, attributes=False)
    summary = summarise(trace.spans, all_steps=all_steps, kernel_delay_ns=round(kernel_delay_us * 1000))
    if json_file is not None:
        told = {"import": trace.report.as_dict(), **summary.as_dict(), "tracks": trace.tracks.to_dicts()}
        text = json.dumps(told, indent=1) + "\n"
        if to_terminal:
            write_text(json_file, text)
        else:
            typer.echo(text, nl=False)
    if to_terminal:
        render_import(trace.report, Console())
        render_analysis(summary, Console(), track_names=trace.track_names(), top=top)


@trace_app.command("export")
def export(
    source: Annotated[str, typer.Argument(help="A run's id or its beginning, 'last', or a trace file.")] = "last",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .json, .json.gz (Chrome), .pftrace (Perfetto), .otlp.json or .parquet.  "
            "[default: stratoscope-trace.json]",
            show_default=False,
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", help="Send to this OTLP/HTTP address instead (http://localhost:4318).", show_default=False
        ),
    ] = None,
    level: Annotated[
        int, typer.Option("--level", help="Deepest level that goes into OTLP: 10 application, 20 model, 30 layer, ...")
    ] = 30,
    db: DatabaseOption = None,
) -> None:
    """Write the spans of a run or of a trace file for other tools, or push them to an OpenTelemetry collector."""
    from stratoscope.errors import TraceError
    from stratoscope.report.files import check_writable
    from stratoscope.trace.exporters import export_trace, push_otlp
    from stratoscope.trace.exporters.otlp import write_otlp

    if push is not None and output is not None:
        raise TraceError("--push and --output exclude each other", hint="give one of them")
    target = output or Path("stratoscope-trace.json")
    if push is None:
        check_writable(target)
    trace, offset_ns = _source(source, db)
    if push is not None:
        taken = push_otlp(trace.spans, push, deepest=level, unix_offset_ns=offset_ns)
        typer.echo(f"{push}: took {taken} spans")
        return
    if target.name.endswith(".otlp.json"):
        written = write_otlp(trace.spans, target, deepest=level, unix_offset_ns=offset_ns)
        typer.echo(f"{target}: {written} of {trace.spans.height} spans, down to level {level}")
        return
    export_trace(trace.spans, target, tracks=trace.tracks)
    viewer = "; open it at ui.perfetto.dev" if target.name.endswith((".json", ".json.gz", ".pftrace")) else ""
    typer.echo(f"{target}: {trace.spans.height} spans{viewer}")


def _source(source: str, db: str | None) -> tuple[ImportedTrace, int]:
    """The spans of a trace file or a stored run, and what makes UNIX time of their times, roughly for a run."""
    from stratoscope.errors import StoreError
    from stratoscope.store.store import Store
    from stratoscope.trace.correlate import assign_parents
    from stratoscope.trace.importers import ImportedTrace, ImportReport, import_nonempty
    from stratoscope.trace.importers.build import track_frame

    if Path(source).is_file():
        trace = import_nonempty(Path(source))
        told = trace.report.clock.get("unix_offset_ns", 0)
        offset = told if isinstance(told, int) else 0
        return ImportedTrace(assign_parents(trace.spans), trace.tracks, trace.report), offset
    with Store.open(db) as store:
        record = store.get(source)
        spans = store.spans(record.id)
    if spans is None:
        raise StoreError(f"run {record.id} has no spans", hint="diagnose records them; run does not")
    first = int(spans["start_ns"].min() or 0)  # type: ignore[arg-type]
    return ImportedTrace(spans, track_frame([]), ImportReport("run")), int(record.created_at.timestamp() * 1e9) - first


trace_app.command("diff")(diff)
