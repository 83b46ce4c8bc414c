"""`stratoscope compose`: cut models into bricks, benchmark each once, and put models together from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stratoscope.cli.errors import EXIT_INTERRUPTED
from stratoscope.cli.options import DatabaseOption, JsonOption, WaitOption
from stratoscope.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stratoscope.measure.sequence import SequenceSummary
    from stratoscope.measure.suite import Suite
    from stratoscope.spec.base import Document
    from stratoscope.spec.model import LoadableModel
    from stratoscope.spec.performance import CacheState, Environment, PartMeasurement
    from stratoscope.store.performance import PerformanceDatabase

compose_app = typer.Typer(help="Benchmark a few bricks, know all the models.", no_args_is_help=True)

#: Stands for all models of the zoo where models are named.
_ZOO = "zoo"
ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        help="Zoo names ('zoo': all of it), .onnx files, folders of them, or manifests.", show_default=False
    ),
]
SuiteArgument = Annotated[Path, typer.Argument(help="A file that `compose build` wrote.", show_default=False)]
GraphOption = Annotated[
    Literal["executed", "authored"],
    typer.Option(
        "--graph", help="Cut what this ONNX Runtime executes (fusion and layout survive), or what is written."
    ),
]
RuleOption = Annotated[
    Literal["tensor", "layers", "overlap", "node"],
    typer.Option("--by", help="Cut where one tensor is alive, every G layers, into overlapping sequences, or all."),
]
GranularityOption = Annotated[
    int, typer.Option("--granularity", "-G", min=1, help="Layers of a brick; of the tensor rules: segments.")
]
LeastOption = Annotated[
    float | None,
    typer.Option("--least-us", min=0, help="Merge segments to so many nominal us; default: 250.", show_default=False),
]
BatchesOption = Annotated[
    list[int] | None,
    typer.Option("--batch-size", min=1, help="Batch size; repeat for several.", show_default=False),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", min=0, help="Begin no model after so many seconds.", show_default=False)
]
LibraryOption = Annotated[
    Literal["onnxruntime", "pytorch"],
    typer.Option("--library", help="What runs the bricks; pytorch takes those of --graph authored."),
]
BracketOption = Annotated[
    bool, typer.Option("--bracket/--no-bracket", help="Also measure hot and evicted: the ends of the interval.")
]


@compose_app.command("build")
def build(
    models: ModelsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The suite's file.")] = Path("suite.bricks"),
    graph: GraphOption = "executed",
    by: RuleOption = "tensor",
    granularity: GranularityOption = 1,
    least_us: LeastOption = None,
    batch_size: BatchesOption = None,
    library: LibraryOption = "onnxruntime",
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Call the models model-1, model-2, ...")] = False,
    json_file: JsonOption = None,
) -> None:
    """Cut MODELS into bricks and write them as one file, without names and weights; equal bricks of all are one."""
    from rich.console import Console

    from stratoscope.measure.suite import write_suite
    from stratoscope.report.compose_terminal import render_suite
    from stratoscope.report.files import check_writable

    check_writable(output)
    suite = suite_of(models, graph, by, granularity, least_us, batch_size, anonymous, library)
    write_suite(suite, output)
    render_suite(suite, Console(stderr=to_stdout(json_file)))
    typer.echo(f"suite  {output}", err=to_stdout(json_file))
    _write(json_file, suite.index.model_dump_json(by_alias=True, indent=1))


@compose_app.command("run")
def run(
    suite_file: SuiteArgument,
    threads: ThreadsOption = 1,
    bracket: BracketOption = True,
    budget: BudgetOption = None,
    retry: Annotated[bool, typer.Option("--retry", help="Also measure again what failed.")] = False,
    db: DatabaseOption = None,
    wait: WaitOption = True,
) -> None:
    """Measure the bricks of a suite that have no measurement here; each is kept at once, so Ctrl-C is harmless."""
    from rich.console import Console

    from stratoscope.measure.suite import read_suite
    from stratoscope.report.compose_terminal import render_run
    from stratoscope.store.performance import PerformanceDatabase

    suite = read_suite(suite_file)
    with PerformanceDatabase(db) as database:
        done, known, interrupted = measure_missing(suite, database, threads, bracket, budget, retry, wait)
    render_run(done, known, Console())
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


@compose_app.command("estimate")
def estimate_command(
    models: ModelsArgument,
    graph: GraphOption = "executed",
    by: RuleOption = "tensor",
    granularity: GranularityOption = 1,
    least_us: LeastOption = None,
    batch_size: BatchesOption = None,
    library: LibraryOption = "onnxruntime",
    threads: ThreadsOption = 1,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the bricks that are missing first.")] = False,
    bracket: BracketOption = True,
    budget: BudgetOption = None,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
    wait: WaitOption = True,
) -> None:
    """Say what MODELS take here, from bricks measured here: of these models, or of others that have the same ones."""
    from rich.console import Console

    from stratoscope.explain.compose.assembly import estimates, on_lines, times_of
    from stratoscope.report.compose_terminal import line, render_estimates
    from stratoscope.store.performance import PerformanceDatabase

    suite = suite_of(models, graph, by, granularity, least_us, batch_size, False, library)
    with PerformanceDatabase(db) as database:
        if measure:
            measure_missing(suite, database, threads, bracket, budget, False, wait)
        rows = on_lines(estimates(suite, times_of(suite, database, environment_here(), threads), threads))
    console = Console(stderr=to_stdout(json_file))
    render_estimates(rows, console)
    if any(one.estimate.coverage < 1 for one in rows) and not measure:
        line(console, "")
        line(console, "--measure measures what is missing")
    write_json(json_file, "stratoscope/estimate/1", rows)


@compose_app.command("report")
def report(
    suite_file: SuiteArgument,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
    db: DatabaseOption = None,
) -> None:
    """Say what each model of a suite takes, how many bricks are unique, and what that saves."""
    import json

    from rich.console import Console

    from stratoscope.explain.compose.assembly import estimates, saving, times_of
    from stratoscope.measure.suite import read_suite
    from stratoscope.report.compose_terminal import render_estimates, render_saving
    from stratoscope.store.performance import PerformanceDatabase

    suite = read_suite(suite_file)
    with PerformanceDatabase(db) as database:
        times = times_of(suite, database, environment_here(), threads)
    rows = estimates(suite, times, threads)
    saved = saving(suite, rows, times)
    console = Console(stderr=to_stdout(json_file))
    render_estimates(rows, console)
    render_saving(saved, console)
    told = {"models": [row.model_dump(mode="json") for row in rows], "saving": saved.model_dump(mode="json")}
    _write(json_file, json.dumps(told, indent=1))


@compose_app.command("synthesize")
def synthesize_command(
    match: Annotated[
        list[str], typer.Option("--match", help="A model to stand for, NAME or NAME=WEIGHT; repeat for several.")
    ],
    size: Annotated[int, typer.Option("--size", min=1, help="Bricks at most.")] = 10,
    graph: GraphOption = "authored",
    json_file: JsonOption = None,
) -> None:
    """Choose the few bricks whose mix of operators, sizes and intensity is that of a weighted set of models."""
    import dataclasses
    import json

    from rich.console import Console

    from stratoscope.errors import SpecError
    from stratoscope.explain.compose.synthesis import synthesize
    from stratoscope.report.compose_terminal import render_synthesis

    weights: dict[str, float] = {}
    for text in match:
        name, _, weight = text.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise SpecError(f"--match {text!r} is not of the form NAME=WEIGHT") from None
    suite = suite_of(list(weights), graph, "tensor", 1, None, None, False)
    by_name = {model.name: weight for model, weight in zip(suite.index.models, weights.values(), strict=True)}
    found = synthesize(suite, size, by_name)
    render_synthesis(found, Console(stderr=to_stdout(json_file)))
    _write(json_file, json.dumps(dataclasses.asdict(found), indent=1))


@compose_app.command("export")
def export(
    suite_file: SuiteArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Measurements (.jsonl), or a folder for models.")],
    models: Annotated[
        bool, typer.Option("--models", help="Write the bricks as ONNX models with seeded weights into the folder.")
    ] = False,
    db: DatabaseOption = None,
) -> None:
    """Write a suite's measurements of all machines as a file for `compose merge`, or its bricks as ONNX models."""
    from stratoscope.graph.brick_model import with_weights
    from stratoscope.measure.suite import read_suite
    from stratoscope.report.files import check_writable
    from stratoscope.store.performance import PerformanceDatabase
    from stratoscope.store.performance_exchange import write_measurements

    suite = read_suite(suite_file)
    if models:
        output.mkdir(parents=True, exist_ok=True)
        for key, content in suite.skeletons.items():
            (output / f"{key.removeprefix('sha256:')}.onnx").write_bytes(with_weights(content))
        typer.echo(f"{len(suite.skeletons)} models in {output}")
        return
    check_writable(output)
    with PerformanceDatabase(db, create=False) as database:
        found = database.find(list(suite.index.bricks))
    write_measurements(sorted(found, key=lambda one: (one.started_at, one.key)), output)
    typer.echo(f"{len(found)} measurements in {output}")


@compose_app.command("merge")
def merge(
    files: Annotated[list[Path], typer.Argument(help="Files that `compose export` wrote.", show_default=False)],
    db: DatabaseOption = None,
) -> None:
    """Add measurements from other machines; what is here already stays, so merging twice changes nothing."""
    from stratoscope.store.performance import PerformanceDatabase

    with PerformanceDatabase(db) as database:
        for file in files:
            done = database.merge(file)
            typer.echo(f"{file}: {done.added} added, {done.present} here already, {done.differing} differ (ours stay)")


def suite_of(
    names: Sequence[str],
    graph: Literal["executed", "authored"],
    by: Literal["tensor", "layers", "overlap", "node"],
    granularity: int,
    least_us: float | None,
    batch_sizes: list[int] | None,
    anonymous: bool,
    library: Literal["onnxruntime", "pytorch"] = "onnxruntime",
) -> Suite:
    """The suite of the named models; see `measure.suite.build_suite`."""
    from stratoscope.errors import SpecError
    from stratoscope.measure.suite import build_suite

    if by == "overlap" and granularity < 2:
        granularity = 2
    if by == "node" and granularity != 1:
        raise SpecError("--by node has bricks of one layer: it takes no --granularity")
    with progress("compose build") as tell:
        return build_suite(
            _models(names, batch_sizes or []),
            graph=graph,
            rule=by,
            granularity=granularity,
            least_s=None if least_us is None else least_us * 1e-6,
            anonymous=anonymous,
            library=library,
            progress=tell,
        )


def _models(names: Sequence[str], batch_sizes: Sequence[int]) -> list[LoadableModel]:
    """The named models at each batch size; folders and 'zoo' stand for all models in them."""
    from stratoscope.errors import ModelError
    from stratoscope.models.resolve import resolve
    from stratoscope.models.zoo import list_zoo

    sizes: list[int | None] = [*batch_sizes] or [None]
    found: list[str] = []
    for name in names:
        if name == _ZOO:
            found += [entry.name for entry in list_zoo()]
        elif Path(name).is_dir():
            files = sorted(str(path) for path in Path(name).rglob("*.onnx"))
            if not files:
                raise ModelError(f"no .onnx file in the folder {name}")
            found += files
        else:
            found.append(name)
    return [
        resolve(name, batch_size=size, on_progress=lambda text: typer.echo(text, err=True))
        for name in found
        for size in sizes
    ]


def measure_missing(
    suite: Suite,
    database: PerformanceDatabase,
    threads: int,
    bracket: bool,
    budget: float | None,
    retry: bool,
    wait: bool,
) -> tuple[SequenceSummary, int, bool]:
    """Measures what is missing; returns what was done, how many were known, and whether Ctrl-C ended it."""
    from stratoscope.explain.compose.assembly import POINT, STATES
    from stratoscope.host.lock import measurement_lock
    from stratoscope.measure.sequence import SequenceSummary, measure_groups, protocol_of

    environment = environment_here()
    states: tuple[CacheState, ...] = STATES if bracket else (POINT,)
    protocols = [protocol_of(state, threads) for state in states]
    parts = [brick.part for brick in suite.index.bricks.values()]
    again = ("failed", "wrong", "unsupported") if retry else ()
    missing = database.missing(parts, [suite.index.candidate], environment, protocols, retry=again)
    known = len(parts) * len(protocols) - len(missing)
    done = SequenceSummary()
    wanted = {part.digest for part, _, _ in missing}
    if not wanted:
        return done, known, False

    def keep(one: PartMeasurement) -> None:
        database.record(one, replace=retry)

    try:
        with measurement_lock(wait, on_wait=lambda text: typer.echo(text, err=True)), progress("compose run") as tell:
            measure_groups(
                suite.groups(wanted.__contains__),
                suite.index.candidate,
                protocols,
                environment=environment,
                on_result=keep,
                budget_s=budget,
                progress=tell,
                summary=done,
            )
    except KeyboardInterrupt:
        typer.echo("interrupted: what was measured is kept; run it again to go on", err=True)
        return done, known, True
    return done, known, False


def environment_here() -> Environment:
    """This machine, as measurements are keyed by it."""
    import platform

    from stratoscope.host.capture import capture_hardware
    from stratoscope.spec.performance import Environment

    return Environment.of(capture_hardware(), platform.release())


def to_stdout(json_file: Path | None) -> bool:
    """Whether JSON goes to standard output, and everything else to standard error."""
    return json_file is not None and str(json_file) == "-"


def write_json(json_file: Path | None, schema: str, rows: Sequence[Document]) -> None:
    """Writes rows as JSON with their schema; nothing where no file is asked for."""
    import json

    _write(json_file, json.dumps({"schema": schema, "models": [row.model_dump(mode="json") for row in rows]}, indent=1))


def _write(json_file: Path | None, text: str) -> None:
    if json_file is None:
        return
    from stratoscope.report.files import write_text

    if to_stdout(json_file):
        typer.echo(text)
    else:
        write_text(json_file, text + "\n")
