"""Measures the zoo and writes its table: layers, work, parameters, latency with interval, optimal batch.

    python benchmarks/zoo_table.py [MODEL ...] [--seconds 3] [--budget 12] [--output docs/zoo.md] [--json FILE]

One model after the other: single-stream latency, then a batch sweep. The page names the machine, the versions and this
command; a model that cannot be measured is listed with the reason.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from stratoscope.errors import StratoscopeError
from stratoscope.measure.execute import execute
from stratoscope.measure.plan import Plan, Section
from stratoscope.models.zoo import list_zoo
from stratoscope.report.tables import zoo_table
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import RunRecord
from stratoscope.spec.scenario import ScenarioManifest

PAGE = """# The zoo, measured

{count} models on ONNX Runtime {version}, {threads} threads, single stream, batch 1, on {machine}; {date}.

```console
$ {command}
```

{table}
Layers are those of the graph as written, constants folded out; unique layers differ in operator, attributes or shapes.
GFLOPs are nominal, a multiply-add counted as two ([work model](work-model.md)). Latency is the median with its 95 %
interval; the optimal batch is the smallest after which doubling gains at most 5 % throughput, and "or more" says that
the sweep ended before that.
{remarks}"""


def measure(model: str, seconds: float, budget: float) -> RunRecord:
    """One model: single-stream load, then the batch sweep."""
    plan = Plan(
        model=model,
        options=BackendOptions(),
        scenario=ScenarioManifest(min_duration_s=seconds),
        sections=frozenset({Section.LOAD, Section.SWEEP}),
        sweep_budget_s=budget,
        command="python benchmarks/zoo_table.py",
    )
    return execute(plan).record


def remarks(records: list[RunRecord], failed: dict[str, str]) -> str:
    """What a reader must know of single rows: models that failed, runs that were not quiet."""
    lines = [f"- {name}: not measured: {why}" for name, why in failed.items()]
    noisy = [record.model.id for record in records if record.load is not None and record.load.noise.quiet is False]
    if noisy:
        lines.append(f"- The machine was not quiet during: {', '.join(noisy)}.")
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def page(records: list[RunRecord], failed: dict[str, str], command: str) -> str:
    """The Markdown page of the table, with the command that made it."""
    first = records[0]
    cpu, hypervisor = first.hardware["cpu"], first.hardware["virtualisation"]["hypervisor"]
    return PAGE.format(
        command=command,
        count=len(records),
        version=first.backend.version,
        threads=first.backend.options.get("threads"),
        machine=f"{cpu['model']}, {cpu['physical_cores']} cores" + (f" ({hypervisor} guest)" if hypervisor else ""),
        date=datetime.now(UTC).date().isoformat(),
        table=zoo_table(records),
        remarks=remarks(records, failed),
    )


def main() -> None:
    """Measures the models that were named, or all, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[entry.name for entry in list_zoo()])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--budget", type=float, default=12.0)
    parser.add_argument("--output", type=Path, default=Path("docs/zoo.md"))
    parser.add_argument("--json", type=Path, default=None, help="also append the records here, one a line")
    arguments = parser.parse_args()
    records: list[RunRecord] = []
    failed: dict[str, str] = {}
    for model in arguments.models:
        print(model, end=" ", flush=True, file=sys.stderr)
        try:
            records.append(measure(model, arguments.seconds, arguments.budget))
        except StratoscopeError as error:
            failed[model] = str(error)
    print(file=sys.stderr)
    if not records:
        sys.exit("nothing was measured: " + "; ".join(failed.values()))
    written = page(records, failed, " ".join(["python", "benchmarks/zoo_table.py", *sys.argv[1:]]))
    arguments.output.write_text(written)
    if arguments.json is not None:
        with arguments.json.open("a") as file:
            file.writelines(record.model_dump_json(by_alias=True) + "\n" for record in records)
    print(written)


if __name__ == "__main__":
    main()
