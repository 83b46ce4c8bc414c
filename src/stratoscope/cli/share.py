"""`stratoscope share`: one copy of the weights for all processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stratoscope.cli.options import BatchOption, JsonOption, ModelArgument, ShapeOption, parse_shapes

share_app = typer.Typer(
    help="Weights shared by all processes of this machine: prepare, serve, watch.", no_args_is_help=True
)

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", envvar="STRATOSCOPE_SHARE", help="Folder of the prepared models.", show_default=False),
]


@share_app.command("prepare")
def prepare_command(
    model: ModelArgument,
    kind: Annotated[
        str, typer.Option("--kind", help="onnxruntime or pytorch: what it runs; weights: the tensors as they are.")
    ] = "onnxruntime",
    granularity: Annotated[
        str, typer.Option("--granularity", help="model, or layer: equal layers of models are shared too.")
    ] = "model",
    optimization: Annotated[
        str, typer.Option("--graph-optimization", help="How far ONNX Runtime may rewrite the graph.")
    ] = "all",
    to: Annotated[
        Path | None, typer.Option("--to", help="Also copy it to this folder, a remote tier.", show_default=False)
    ] = None,
    batch_size: BatchOption = 1,
    shape: ShapeOption = None,
    store: StoreOption = None,
    json_file: JsonOption = None,
) -> None:
    """Prepare MODEL, compare its answers with the original's, and test that a load copies nothing."""
    from stratoscope.cli.progress import progress
    from stratoscope.models.resolve import resolve
    from stratoscope.share.library import Library
    from stratoscope.share.prepare import prepare
    from stratoscope.share.remote import copy_to

    _choice("--kind", kind, ("onnxruntime", "pytorch", "weights"))
    _choice("--granularity", granularity, ("model", "layer"))
    _choice("--graph-optimization", optimization, ("off", "basic", "extended", "all"))
    library = Library.open(store)
    with progress(f"prepare {model}") as report:
        loadable = resolve(
            model, batch_size=batch_size, shapes=parse_shapes(shape), on_progress=lambda text: report(text, None)
        )
        artifact = prepare(
            loadable,
            kind=kind,  # type: ignore[arg-type]
            granularity=granularity,  # type: ignore[arg-type]
            optimization=optimization,
            library=library,
            on_progress=lambda text: report(text, None),
        )
    manifest = artifact.manifest
    if to is not None:
        copy_to(artifact.folder, to)
    if json_file is not None:
        _write(manifest.model_dump(mode="json", by_alias=True), json_file)
    if json_file is None or str(json_file) != "-":
        lines = [f"{manifest.model}: {_mega(manifest.weights_bytes())} of weights in {len(manifest.tensors)} tensors"]
        facts = manifest.facts
        if "private_bytes" in facts:
            lines.append(
                f"private memory of a load: {_mega(facts['private_bytes'])} instead of "
                f"{_mega(facts['default_private_bytes'])}; weights reach the kernels {_packing(manifest.packing)}"
            )
            lines.append(f"largest difference of an output: {facts['largest_error']:.1e} of its largest value")
        lines.append(f"key {artifact.key}")
        typer.echo("\n".join(lines))


@share_app.command("status")
def status(store: StoreOption = None, json_file: JsonOption = None) -> None:
    """Show what is prepared, and what the server holds."""
    from rich.console import Console
    from rich.table import Table

    from stratoscope.cli.results import printable
    from stratoscope.share.client import ask_server
    from stratoscope.share.library import Library

    library = Library.open(store)
    entries = library.entries()
    server = ask_server(library, {"op": "status"})
    if json_file is not None:
        models = [entry.manifest.model_dump(mode="json", by_alias=True, exclude={"tensors"}) for entry in entries]
        keyed = [model | {"digest": entry.key} for model, entry in zip(models, entries, strict=True)]
        _write({"schema": "stratoscope/share-status/1", "prepared": keyed, "server": server}, json_file)
    if json_file is not None and str(json_file) == "-":
        return
    console = Console()
    held = {model["key"]: model for model in (server or {}).get("models", [])}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("key", "model", "kind"):
        table.add_column(name, overflow="fold")
    for name in ("weights", "in", "leases"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        model, manifest = held.get(entry.key), entry.manifest
        cells = (entry.key[:12], printable(manifest.model), manifest.key.kind, _mega(manifest.weights_bytes()))
        table.add_row(
            *cells, "disk" if model is None else model["tier"], "-" if model is None else str(model["leases"])
        )
    if entries:
        console.print(table)
    else:
        console.print(f"nothing is prepared in {library.root}", markup=False, highlight=False)
    if server is None:
        console.print("no server: models are mapped from their files", highlight=False)
        return
    console.print(f"server {server['pid']}: {server['loads']} loads", highlight=False)
    for tier in server["tiers"]:
        used, budget, leased, mapped = (
            _mega(tier[f"{name}_bytes"]) for name in ("used", "budget", "leased", "evicted")
        )
        console.print(
            f"{tier['name']} tier, {tier['policy']}: {used} of {budget} used, {leased} leased, "
            f"{mapped} evicted and still mapped",
            f"  {tier['hits']} hits, {tier['misses']} misses, {tier['evictions']} evictions; "
            f"loads took {tier['load_s']:.2f} s",
            sep="\n",
            highlight=False,
            markup=False,
        )


@share_app.command("evict")
def evict(
    names: Annotated[list[str], typer.Argument(help="Keys or their beginnings, or names of models.")],
    keep_file: Annotated[bool, typer.Option("--keep-file", help="Leave the prepared files on disk.")] = False,
    store: StoreOption = None,
) -> None:
    """Take models out of the server's memory, and from disk; who has them mapped keeps them."""
    from stratoscope.share.client import ask_server
    from stratoscope.share.errors import ShareError
    from stratoscope.share.library import Library

    library = Library.open(store)
    entries = library.entries()
    chosen = {}
    for name in names:
        found = [entry for entry in entries if entry.manifest.model == name or (name and entry.key.startswith(name))]
        if not found:
            raise ShareError(f"{name!r} is not prepared in {library.root}", hint="see: stratoscope share status")
        chosen.update({entry.key: entry for entry in found})
    for key, entry in chosen.items():
        answer = ask_server(library, {"op": "evict", "key": key})
        if not keep_file:
            library.evict(key)
        in_use = answer is not None and not answer["gone"]
        typer.echo(f"evicted {entry.manifest.model} {key[:12]}{', still mapped by its users' if in_use else ''}")


@share_app.command("serve")
def serve(
    memory: Annotated[
        str | None,
        typer.Option("--memory-budget", help="For sealed copies (8G); half of what is free.", show_default=False),
    ] = None,
    file: Annotated[str, typer.Option("--file-budget", help="Bytes of models served from the page cache.")] = "1T",
    policy: Annotated[str, typer.Option("--policy", help="Who leaves a full tier (see simulate).")] = "gdsf",
    tier: Annotated[
        str, typer.Option("--tier", help="memory: sealed copies; file: the page cache, which the kernel may drop.")
    ] = "memory",
    remote: Annotated[
        str | None,
        typer.Option("--remote", help="Folder or http://127.0.0.1 address to fetch prepared models from."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Serve the store's models to all processes of this user, until Ctrl-C."""
    import signal
    import threading

    import psutil

    from stratoscope.share.library import Library
    from stratoscope.share.manager import MEMORY_SHARE, ManagerSettings
    from stratoscope.share.policies import make_policy
    from stratoscope.share.server import Server

    _choice("--tier", tier, ("memory", "file"))
    make_policy(policy)
    free = int(psutil.virtual_memory().available * MEMORY_SHARE)
    settings = ManagerSettings(
        memory_bytes=free if memory is None else parse_bytes("--memory-budget", memory),
        file_bytes=parse_bytes("--file-budget", file),
        policy=policy,
        serve_from=tier,  # type: ignore[arg-type]
        remote=remote,
    )
    library = Library.open(store)
    stop = threading.Event()
    with Server(library, settings) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        server.start()
        typer.echo(f"serving {library.root}: {_mega(settings.memory_bytes)} of memory, policy {policy}")
        stop.wait()
    typer.echo("stopped; clients keep what they have mapped")


@share_app.command("simulate")
def simulate_command(
    trace: Annotated[
        Path | None,
        typer.Argument(help="Log in CSV or JSON lines: model, bytes, load_s. Else drawn.", show_default=False),
    ] = None,
    capacity: Annotated[float, typer.Option("--capacity", min=0.01, max=1, help="Share of all bytes that fits.")] = 0.4,
    popularity: Annotated[str, typer.Option("--popularity", help="zipf, pareto or uniform, where drawn.")] = "zipf",
    exponent: Annotated[float, typer.Option("--exponent", min=0.1, help="Of the popularity.")] = 1.0,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests to draw.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Compare eviction policies on a request log, or on requests for TrIMS's 41 models, and say which to use."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from stratoscope.share.simulate import compare_policies
    from stratoscope.share.workload import draw_requests, read_trace, trims_catalogue

    _choice("--popularity", popularity, ("zipf", "pareto", "uniform"))
    load = (
        read_trace(trace)
        if trace is not None
        else draw_requests(trims_catalogue(), popularity, requests, exponent=exponent, seed=seed)  # type: ignore[arg-type]
    )
    room = int(capacity * load.total_bytes())
    outcomes = compare_policies(load, room)
    base = next(outcome.load_s for outcome in outcomes if outcome.policy == "lru")
    if json_file is not None:
        rows = [asdict(outcome) | {"miss_ratio": outcome.miss_ratio} for outcome in outcomes]
        _write({"schema": "stratoscope/share-simulation/1", "capacity_bytes": room, "policies": rows}, json_file)
    if json_file is not None and str(json_file) == "-":
        return
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for name in ("load cost", "of LRU's", "misses", "loaded", "evictions"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        relative = f"{outcome.load_s / base:.2f}" if base else "-"
        cells = (outcome.policy, f"{outcome.load_s:.1f} s", relative, f"{outcome.miss_ratio:.1%}")
        table.add_row(*cells, _mega(outcome.loaded_bytes), str(outcome.evictions))
    console.print(table)
    best = outcomes[0]
    console.print(
        f"use {best.policy}: it loads for {best.load_s:.1f} s where lru loads for {base:.1f} s "
        f"({len(load.requests)} requests, {len(load.names)} models of {_mega(load.total_bytes())}, "
        f"room for {_mega(room)})",
        highlight=False,
    )


def parse_bytes(option: str, text: str) -> int:
    """`8G`, `500M`, `4096` as bytes (powers of 1024); raises ShareError for another form."""
    import re

    from stratoscope.share.errors import ShareError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ShareError(f"{option} {text!r} is not a number of bytes", hint="write it as 8G or 500M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    from stratoscope.share.errors import ShareError

    if value not in allowed:
        raise ShareError(f"{option} {value!r} is unknown", hint=f"one of: {', '.join(allowed)}")


def _packing(packing: str) -> str:
    return "as they lie in the file" if packing == "direct" else "through the runtime's saved packed blobs"


def _mega(count: float) -> str:
    """Bytes in MB, or GB from ten of them on."""
    return f"{count / 1e9:.1f} GB" if count >= 1e10 else f"{count / 1e6:.1f} MB"


def _write(value: dict[str, Any], file: Path) -> None:
    import json

    from stratoscope.report.files import write_text

    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if str(file) == "-":
        typer.echo(text, nl=False)
    else:
        write_text(file, text)
