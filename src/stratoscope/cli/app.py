"""The command tree: every verb, each loaded with nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from stratoscope._version import __version__
from stratoscope.cli.advise import advise
from stratoscope.cli.analyze import analyze
from stratoscope.cli.backends import backends
from stratoscope.cli.bench import bench_app
from stratoscope.cli.compare import compare
from stratoscope.cli.compose import compose_app
from stratoscope.cli.diagnose import diagnose
from stratoscope.cli.llm import llm_app
from stratoscope.cli.machine import machine_app
from stratoscope.cli.models import models_app
from stratoscope.cli.predict import predict
from stratoscope.cli.profile import profile
from stratoscope.cli.results import results_app
from stratoscope.cli.run import run
from stratoscope.cli.share import share_app
from stratoscope.cli.spec import spec_app
from stratoscope.cli.trace import trace_app

app = typer.Typer(
    name="stratoscope",
    help="Measures, explains and improves the performance of deep-learning models across the whole stack.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stratoscope {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measures, explains and improves the performance of deep-learning models across the whole stack."""


app.command()(diagnose)
app.command()(run)
app.command()(profile)
app.command()(advise)
app.add_typer(machine_app, name="machine")
app.add_typer(bench_app, name="bench")
app.add_typer(models_app, name="models")
app.add_typer(results_app, name="results")
app.command()(compare)
app.add_typer(compose_app, name="compose")
app.command()(predict)
app.command()(analyze)
app.add_typer(spec_app, name="spec")
app.add_typer(trace_app, name="trace")
app.add_typer(share_app, name="share")
app.add_typer(llm_app, name="llm")
app.command()(backends)
