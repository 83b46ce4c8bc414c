"""Bounds over measured times, and predicted against achieved gains over the zoo, by back end, as tables.

    python benchmarks/advise_zoo.py [--models a,b] [--backends onnxruntime,pytorch,openvino] [--output F] [--docs F]

For each model: `stratoscope bench fill` for --fill seconds (coverage stands beside each ratio), then
`stratoscope advise` with one thread on each back end. Advice is tried on ONNX Runtime only. The results are written
after each model, so that a run that is cut off keeps what it has; after more layers were benchmarked, --recompute makes
the bounds of the stored runs anew. With --docs the tables replace what stands between `<!-- advise_zoo -->` and
`<!-- end -->` on that page. Exit code 1 where a bound is above the measured time by more than their intervals.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stratoscope.explain.bounds.calls import best_calls
from stratoscope.explain.bounds.model import model_bounds
from stratoscope.host.capture import capture_hardware
from stratoscope.improve.placing import placed_layers
from stratoscope.improve.roofs import machine_roofs
from stratoscope.improve.variants import Variant
from stratoscope.models.resolve import resolve
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.performance import Environment
from stratoscope.spec.record import RunRecord
from stratoscope.store.performance import PerformanceDatabase
from stratoscope.store.store import Store

MODELS = "squeezenet,shufflenet,alexnet,zfnet512,inception_v1,inception_v2,resnet50,densenet121,vgg19"
BACKENDS = "onnxruntime,pytorch,openvino"
BEGIN, END = "<!-- advise_zoo -->", "<!-- end -->"
#: Benanza, IPDPS 2020, section VI: MXNet, V100, batch 1, 30 models, geometric means.
PAPER = {"library": 0.88, "parallel": 0.76}
#: Seconds after which a command is given up.
LIMIT_S = 240.0
#: With less coverage a ratio says what is not known, not how good the runtime is: it is not in the mean.
LEAST_COVERAGE = 0.5

Row = dict[str, Any]


def stratoscope(*arguments: str) -> bool:
    """Runs a command; False, with what it said, where it failed or took too long."""
    try:
        done = subprocess.run(["stratoscope", *arguments], capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"stratoscope {' '.join(arguments)}: longer than {LIMIT_S:.0f} s", file=sys.stderr)
        return False
    if done.returncode:
        print(f"stratoscope {' '.join(arguments)}: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


def fill(model: str, seconds: float) -> None:
    """Benchmarks the model's layers, L2 flushed, one thread, with every library."""
    stratoscope("bench", "fill", model, "--cache", "flushed", "--threads", "1", "--budget", str(seconds))


def advise(model: str, backend: str, budget: float, predict: float) -> Row | None:
    """What the command found, or None where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        command = ["advise", model, "--backend", backend, "--threads", "1", "--json", str(file)]
        command += ["--precision", "float32"] if backend == "openvino" else []
        tries = backend == "onnxruntime"
        command += ["--budget", str(budget if tries else 0), "--predict", str(predict if tries else 0)]
        if not stratoscope(*command):
            return None
        return row(model, backend, RunRecord.model_validate(json.loads(file.read_text())))


def recomputed(models: list[str], backends: list[str]) -> list[Row]:
    """The newest run of each, its bounds made anew from all library calls known by now; nothing is measured."""
    environment = Environment.of(capture_hardware())
    with PerformanceDatabase() as database:
        calls = best_calls(database.find(environment=environment), 1)
    machine = machine_roofs(1, None)
    rows: list[Row] = []
    with Store.open() as store:
        for model in models:
            for backend in backends:
                runs = (store.get(one.id) for one in store.list(model=model, backend=backend))
                record = next((one for one in runs if one.advice is not None and one.profile is not None), None)
                if record is None or record.advice is None or record.profile is None:
                    print(f"{model} on {backend}: there is no run with advice", file=sys.stderr)
                    continue
                original = Variant(resolve(model), backend, BackendOptions.model_validate(record.advice.options))
                placed = placed_layers(original, record.profile)
                found = model_bounds(record.profile, placed, machine, calls, workers=1)
                section = record.advice.model_copy(update={"bounds": found.bounds, "layers": found.layers})
                one = row(model, backend, record.model_copy(update={"advice": section}))
                rows += [one] if one is not None else []
    return rows


def row(model: str, backend: str, record: RunRecord) -> Row | None:
    """The figures of one run; None, with the reason, where there is no advice."""
    section = record.advice
    if section is None:
        print(f"{model} on {backend}: {[one.why for one in record.unavailable]}", file=sys.stderr)
        return None
    return {
        "model": model,
        "backend": backend,
        "version": record.backend.version,
        "measured": section.measured.model_dump(mode="json"),
        "quiet": record.profile.noise.quiet if record.profile is not None else None,
        "roofs": section.roofs,
        "bounds": {
            one.key: {
                "time": one.time.model_dump(mode="json"),
                "ratio": one.ratio.model_dump(mode="json"),
                "coverage": one.coverage,
            }
            for one in section.bounds
        },
        "layers": len(section.layers),
        "faster_than_roofline": [
            {"op": one.op, "name": one.name, "s": one.measured.value, "roofline_s": one.roofline.value}
            for one in section.layers
            if (latest := one.measured.ci_high or one.measured.value) is not None
            and one.roofline.value is not None
            and latest < one.roofline.value
        ],
        "advice": [
            {
                "key": one.key,
                "status": one.trial.status,
                "predicted": one.predicted.model_dump(mode="json"),
                "achieved": one.trial.speedup.model_dump(mode="json"),
                "max_error": one.trial.max_error,
            }
            for one in section.advice
            if one.trial is not None
        ],
    }


def ratio(one: Row, key: str) -> float | None:
    """A bound over the measured time."""
    found = one["bounds"].get(key)
    return found["ratio"]["value"] if found is not None else None


def covered(one: Row) -> float:
    """The part of the layers' time whose best library call is known."""
    return float(one["bounds"]["library"]["coverage"]) if "library" in one["bounds"] else 0.0


def violated(rows: Iterable[Row]) -> list[str]:
    """Bounds that lie above the measured time even at the near ends of both intervals."""
    return [
        f"{one['model']} on {one['backend']}: {key} bound is at least {bound['ratio']['ci_low']:.3f} of the time"
        for one in rows
        for key, bound in one["bounds"].items()
        if bound["ratio"]["ci_low"] is not None and bound["ratio"]["ci_low"] > 1
    ]


def beaten(rows: Iterable[Row]) -> list[str]:
    """Layers that ran faster than their roofline by more than their interval, by back end and operator."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in rows:
        for layer in one["faster_than_roofline"]:
            found.setdefault((one["backend"], layer["op"]), []).append(layer["roofline_s"] - layer["s"])
    return [
        f"{len(gains)} {op} on {backend} (by at most {max(gains) * 1e6:.0f} us)"
        for (backend, op), gains in found.items()
    ]


def mean(values: Iterable[float | None]) -> str:
    """The geometric mean, or a dash."""
    known = [value for value in values if value]
    return f"{math.exp(sum(map(math.log, known)) / len(known)):.2f}" if known else "-"


def tables(rows: list[Row]) -> str:
    """The ratios by model and back end, and predicted against achieved."""
    backends = list(dict.fromkeys(one["backend"] for one in rows))
    by_place = {(one["model"], one["backend"]): one for one in rows}
    models = list(dict.fromkeys(one["model"] for one in rows))
    lines = ["| model | " + " | ".join(backends) + " |", "|---|" + "---|" * len(backends)]
    for model in models:
        cells = []
        for backend in backends:
            one = by_place.get((model, backend))
            a, b = (ratio(one, "library"), ratio(one, "parallel")) if one is not None else (None, None)
            if one is None or a is None or b is None:
                cells.append("-")
                continue
            cells.append(f"{a:.2f}, {b:.2f} ({one['bounds']['library']['coverage']:.0%})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    means = []
    for backend in backends:
        mine = [one for one in rows if one["backend"] == backend and covered(one) >= LEAST_COVERAGE]
        a, b = (mean(ratio(one, key) for one in mine) for key in PAPER)
        means.append(f"**{a}, {b}** (of {len(mine)})")
    lines.append("| geometric mean | " + " | ".join(means) + " |")
    paper = f"{PAPER['library']} sequential, {PAPER['parallel']} parallel"
    bad, count = violated(rows), sum(one["layers"] for one in rows)
    lines += [
        "",
        "Each cell: sequential and longest-chain library bound over the measured time, and the coverage of layers "
        "with a measured library call; the others count as their roofline, which lowers the ratio, or, where their "
        "work is not known, as the time that they take, which raises it. "
        f"Means are over models with a coverage of {LEAST_COVERAGE:.0%} or more. "
        f"Benanza's paper (MXNet, V100, 30 models): {paper}.",
        "",
        f"Bounds above the measured time by more than the intervals: {'; '.join(bad) if bad else 'none'}. "
        f"Layers that ran faster than their roofline by more than their interval, of {count}: "
        f"{'; '.join(beaten(rows)) or 'none'}.",
        "",
        "| model | back end | advice | predicted | achieved | |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        for tried in one["advice"]:
            promised, gained = tried["predicted"]["value"], tried["achieved"]["value"]
            if promised is not None and gained is not None:
                where = f"| {one['model']} | {one['backend']} | {tried['key']} "
                lines.append(f"{where}| {promised:.2f}x | {gained:.2f}x | {tried['status']} |")
    return "\n".join(lines)


def write(output: Path, rows: list[Row]) -> None:
    """Writes the figures."""
    result = {"written_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "rows": rows}
    output.write_text(json.dumps(result, indent=1) + "\n")


def write_docs(page: Path, text: str) -> None:
    """Puts the tables between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        sys.exit(f"{page} has no {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measures each model, writes the results after each, prints the tables, and puts them into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--backends", default=BACKENDS)
    parser.add_argument("--fill", type=float, default=25.0, help="seconds of bench fill a model")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of trials a model, on ONNX Runtime")
    parser.add_argument("--predict", type=float, default=8.0, help="seconds of benchmarks for predictions a model")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/advise_zoo.json"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="measure nothing: bounds of the newest runs, from all layers that were benchmarked since",
    )
    arguments = parser.parse_args()
    models, backends = arguments.models.split(","), arguments.backends.split(",")
    rows: list[Row] = recomputed(models, backends) if arguments.recompute else []
    for model in () if arguments.recompute else models:
        start = time.monotonic()
        if arguments.fill > 0:
            fill(model, arguments.fill)
        for backend in backends:
            found = advise(model, backend, arguments.budget, arguments.predict)
            if found is not None:
                rows.append(found)
        print(f"{model}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        write(arguments.output, rows)
    write(arguments.output, rows)
    text = tables(rows)
    print(text)
    if arguments.docs is not None:
        write_docs(arguments.docs, text)
    sys.exit(1 if violated(rows) or not rows else 0)


if __name__ == "__main__":
    main()
