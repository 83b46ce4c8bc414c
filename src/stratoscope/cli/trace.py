"""`stratoscope trace`: take the spans of a stored run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratoscope.cli.options import DatabaseOption

trace_app = typer.Typer(help="Spans of stored runs.", no_args_is_help=True)


@trace_app.command("export")
def export(
    run: Annotated[str, typer.Argument(help="A run's id or its beginning, or 'last'.")] = "last",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; .json or .json.gz (Chrome trace format).")
    ] = Path("stratoscope-trace.json"),
    db: DatabaseOption = None,
) -> None:
    """Write a run's spans as Chrome trace JSON, which Perfetto and chrome://tracing open."""
    from stratoscope.errors import StoreError
    from stratoscope.report.files import check_writable
    from stratoscope.store.store import Store
    from stratoscope.trace.chrome import write_chrome

    check_writable(output)
    with Store.open(db) as store:
        record = store.get(run)
        spans = store.spans(record.id)
    if spans is None:
        raise StoreError(f"run {record.id} has no spans", hint="diagnose records them; run does not")
    write_chrome(spans, output)
    typer.echo(f"{output}: {spans.height} spans; open it at ui.perfetto.dev or chrome://tracing")
