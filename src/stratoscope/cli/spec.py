"""`stratoscope spec`: manifests and reference logs: check, show, capture, and verify by running again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.options import DatabaseOption, JsonOption, SaveOption
from stratoscope.errors import SpecError

if TYPE_CHECKING:
    from stratoscope.spec.record import RunRecord

spec_app = typer.Typer(help="Manifests and reference logs.", no_args_is_help=True)

DocumentArgument = Annotated[
    Path, typer.Argument(help="A manifest or reference log, YAML or JSON.", show_default=False)
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; default: standard output.", show_default=False)
]


@spec_app.command("validate")
def validate(documents: Annotated[list[Path], typer.Argument(help="Manifests or reference logs.")]) -> None:
    """Check documents against their schema; print each one's kind and digest."""
    from stratoscope.spec.base import Manifest
    from stratoscope.spec.yamlio import load_document

    for path in documents:
        document = load_document(path)
        digest = document.digest() if isinstance(document, Manifest) else ""
        typer.echo(f"{path}: {type(document).__name__} {digest}".rstrip())


@spec_app.command("show")
def show(document: DocumentArgument) -> None:
    """Print a document with every default filled in, and its digest."""
    from stratoscope.spec.base import Manifest
    from stratoscope.spec.yamlio import dump_yaml, load_document

    loaded = load_document(document)
    if isinstance(loaded, Manifest):
        typer.echo(f"# {loaded.digest()}")
    typer.echo(dump_yaml(loaded), nl=False)


@spec_app.command("schema")
def schema(
    kind: Annotated[str, typer.Argument(help="model, dataset, software, hardware, scenario, reference, run.")],
    output: OutputOption = None,
) -> None:
    """Print the JSON Schema of a kind of document."""
    import json

    from stratoscope.spec.yamlio import json_schema

    _write(json.dumps(json_schema(kind), indent=2) + "\n", output)


@spec_app.command("import")
def import_manifest(
    document: Annotated[Path, typer.Argument(help="An MLModelScope, MLHarness (c3sr) or Go-agent model manifest.")],
    output: OutputOption = None,
) -> None:
    """Read a manifest of MLModelScope's three dialects; say which fields were dropped, and why."""
    from stratoscope.spec.dialects import read_dialect
    from stratoscope.spec.yamlio import dump_yaml

    manifest, dropped = read_dialect(document)
    _write(dump_yaml(manifest), output)
    for item in dropped:
        typer.echo(f"dropped {item.field}: {item.reason}", err=True)


@spec_app.command("capture")
def capture(
    kind: Annotated[str, typer.Argument(help="hardware or software.")],
    output: OutputOption = None,
) -> None:
    """Write this machine's hardware or software as a manifest."""
    from stratoscope.host.capture import capture_hardware, capture_software
    from stratoscope.spec.yamlio import dump_yaml

    if kind not in ("hardware", "software"):
        raise SpecError(f"cannot capture {kind!r}", hint="hardware or software")
    manifest = capture_hardware() if kind == "hardware" else capture_software(_frameworks())
    _write(dump_yaml(manifest), output)


def _frameworks() -> tuple[str, ...]:
    """Packages of every back end that is available here."""
    from stratoscope.backends.registry import available_backends

    return tuple(sorted({name for found in available_backends().values() for name in found.distributions}))


@spec_app.command("reference")
def reference(
    run: Annotated[str, typer.Argument(help="A run's id or its beginning, or 'last'.")] = "last",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="A figure to hold: latency.p90, throughput, accuracy.top1; repeat.", show_default=False
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0.0, help="Relative tolerance of each metric.")] = 0.05,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Also hold the digest of the outputs: equal to the bit.")
    ] = False,
    output: OutputOption = None,
    db: DatabaseOption = None,
) -> None:
    """Make a reference log of a stored run: its manifests, its figures, and how far a rerun may be off."""
    from stratoscope.spec.reference import Tolerance, failing_side, metrics_of, reference_from_record
    from stratoscope.spec.yamlio import dump_yaml
    from stratoscope.store.store import Store

    with Store.open(db, create=False) as store:
        record = store.get(run)
    names = metric or _default_metrics(record)
    if unknown := set(names) - set(metrics_of(record)):
        raise SpecError(f"run {record.id} has no metric {', '.join(sorted(unknown))}", hint="see results show --json -")
    tolerances = {name: Tolerance(relative=tolerance, direction=failing_side(name)) for name in names}
    log = reference_from_record(record, tolerances, outputs_sha256=record.outputs_sha256 if outputs else None)
    _write(dump_yaml(log), output)


def _default_metrics(record: RunRecord) -> list[str]:
    """The figures that a run is judged by: its median latency, throughput and accuracy, as far as it has them."""
    from stratoscope.spec.reference import metrics_of

    return [
        name
        for name, quantity in metrics_of(record).items()
        if quantity.status == "ok" and (name in ("latency.median", "throughput") or name.startswith("accuracy."))
    ]


@spec_app.command("verify")
def verify(
    reference_log: Annotated[Path, typer.Argument(help="A reference log.", show_default=False)],
    json_file: JsonOption = None,
    db: DatabaseOption = None,
    save: SaveOption = False,
) -> None:
    """Run a reference log again: reproduced or not, and which aspect differs. Exits with 1 where it was not."""
    from rich.console import Console

    from stratoscope.cli.errors import EXIT_CHECK_FAILED
    from stratoscope.cli.execute import Outputs, keep
    from stratoscope.cli.progress import progress
    from stratoscope.measure.verify import verify as run_again
    from stratoscope.report.files import write_text
    from stratoscope.report.verdict import render_verdict

    with progress(str(reference_log)) as report:
        verdict, outcome = run_again(reference_log, on_progress=report)
    outcome = keep(outcome, Outputs(json_file=None, html=None, database=db, save=save))
    render_verdict(verdict, outcome.record, Console())
    if json_file is not None:
        write_text(json_file, verdict.model_dump_json(indent=2) + "\n")
    if not verdict.reproduced:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _write(text: str, output: Path | None) -> None:
    from stratoscope.report.files import write_text

    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
