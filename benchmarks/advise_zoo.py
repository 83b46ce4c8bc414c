"""Bounds over measured times, and predicted against achieved gains over the zoo, by back end, as tables.

    python benchmarks/advise_zoo.py [--backends onnxruntime,pytorch,openvino] [--models a,b] [--docs docs/advise.md]

Fill the performance database first (`stratoscope bench fill MODEL`): coverage stands beside each ratio. With --docs the
table replaces what stands between `<!-- advise_zoo -->` and `<!-- end -->` on that page.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from stratoscope.spec.record import RunRecord

MODELS = "alexnet,zfnet512,squeezenet,shufflenet,inception_v1,inception_v2,resnet50,densenet121,vgg19"
BEGIN, END = "<!-- advise_zoo -->", "<!-- end -->"
#: Benanza, IPDPS 2020, section VI: MXNet, V100, batch 1, 30 models, geometric means.
PAPER = {"library": 0.88, "parallel": 0.76}


def advise(model: str, backend: str, budget: float) -> RunRecord | None:
    """The record of one run of the command; None where it failed, which is printed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        command = ["stratoscope", "advise", model, "--backend", backend, "--threads", "1", "--json", str(file)]
        precision = ["--precision", "float32"] if backend == "openvino" else []
        done = subprocess.run([*command, *precision, "--budget", str(budget)], capture_output=True, text=True)
        if done.returncode:
            print(f"{model} on {backend}: {done.stderr.strip()}", file=sys.stderr)
            return None
        return RunRecord.model_validate(json.loads(file.read_text()))


def ratio(record: RunRecord, key: str) -> float | None:
    """A bound over the measured time."""
    bounds = record.advice.bounds if record.advice is not None else ()
    return next((one.ratio.value for one in bounds if one.key == key), None)


def mean(values: list[float]) -> str:
    """The geometric mean, or a dash."""
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.2f}" if values else "-"


def tables(found: dict[str, dict[str, RunRecord]]) -> list[str]:
    """The ratios by model and back end, and predicted against achieved."""
    lines = ["| model | " + " | ".join(f"{name}: sequential, chain (coverage)" for name in found) + " |"]
    lines.append("|---|" + "---|" * len(found))
    models = list(dict.fromkeys(model for records in found.values() for model in records))
    for model in models:
        cells = []
        for records in found.values():
            record = records.get(model)
            a, b = (ratio(record, "library"), ratio(record, "parallel")) if record is not None else (None, None)
            if record is None or record.advice is None or a is None or b is None:
                cells.append("-")
                continue
            covered = next(one.coverage for one in record.advice.bounds if one.key == "library")
            cells.append(f"{a:.2f}, {b:.2f} ({covered:.0%})")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    means = []
    for records in found.values():
        pairs = [[value for one in records.values() if (value := ratio(one, key))] for key in PAPER]
        means.append(f"**{mean(pairs[0])}, {mean(pairs[1])}**")
    lines.append("| geometric mean | " + " | ".join(means) + " |")
    lines += [
        "",
        f"Benanza's paper (MXNet, V100, 30 models): {PAPER['library']} sequential, {PAPER['parallel']} parallel.",
    ]
    lines += ["", "| model | back end | advice | predicted | achieved |", "|---|---|---|---|---|"]
    for name, records in found.items():
        for model, record in records.items():
            for one in record.advice.advice if record.advice is not None else ():
                gained = one.trial.speedup if one.trial is not None else None
                if one.predicted.value is None or gained is None or gained.value is None:
                    continue
                lines.append(f"| {model} | {name} | {one.key} | {one.predicted.value:.2f}x | {gained.value:.2f}x |")
    return lines


def main() -> None:
    """Runs the command for each model and back end, prints the tables, and puts them into a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--backends", default="onnxruntime,pytorch,openvino")
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--docs", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[str, RunRecord]] = {}
    for backend in arguments.backends.split(","):
        for model in arguments.models.split(","):
            record = advise(model, backend, arguments.budget)
            if record is not None:
                found.setdefault(backend, {})[model] = record
    text = "\n".join(tables(found))
    print(text)
    if arguments.docs is not None:
        page = arguments.docs.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, marker, after = rest.partition(END)
        if not marker:
            sys.exit(f"{arguments.docs} has no {BEGIN} ... {END}")
        arguments.docs.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
