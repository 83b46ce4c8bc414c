"""`stratoscope trace diff A B`: which layers, operators or kernels differ between two traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stratoscope.cli.analyze import write_out
from stratoscope.cli.options import DatabaseOption, JsonOption

_HELP = "A run's id or its beginning, 'last', a model's name, or a trace file."


def diff(
    a: Annotated[str, typer.Argument(help=f"The baseline. {_HELP}", show_default=False)],
    b: Annotated[str, typer.Argument(help="The trace to judge, named alike.", show_default=False)],
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the table as CSV ('-': standard output).", show_default=False)
    ] = None,
    json_file: JsonOption = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows on the terminal.")] = 20,
    db: DatabaseOption = None,
) -> None:
    """Compare two traces site by site, the greatest change of own time first."""
    import json

    from rich.console import Console

    from stratoscope.explain.analyses.stored import named_trace
    from stratoscope.explain.trace_diff import diff_traces
    from stratoscope.report.analysis import render_analysis

    result = diff_traces(named_trace(a, db).trace, named_trace(b, db).trace)
    document = {"schema": "stratoscope/trace-diff/1", "a": a, "b": b, **result.to_json()}
    if csv is not None:
        write_out(csv, result.to_csv())
    if json_file is not None:
        write_out(json_file, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if "-" not in (str(csv), str(json_file)):
        render_analysis(result, Console(), rows)
