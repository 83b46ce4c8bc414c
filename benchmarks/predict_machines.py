"""How far predictions of layers and of machines are from measurements, each beside plain roofline scaling.

    python benchmarks/predict_machines.py layers [MODEL ...] [--json FILE]
    python benchmarks/predict_machines.py threads [MODEL ...] [--json FILE]

layers: every node that ONNX Runtime executes of the models is measured in sequence; then each model is left out: its
nodes are predicted from those of the other models (the same node in another model does not count as known), beside a
pure roofline on the same rows. threads: bricks at one thread predict the same models at two and the other way round,
with this machine's roofs at one and two threads; exponents are fitted without the model that is judged.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stratoscope.explain.predict.layers import LayerPredictor, Roof
from stratoscope.explain.predict.scaling import WHOLE, Load, Resources, fit_exponents, resources_of, scaled
from stratoscope.host.capture import capture_hardware
from stratoscope.host.roofs import Roofs
from stratoscope.measure.machine.characterize import Request, characterize
from stratoscope.measure.sequence import measure_groups
from stratoscope.measure.suite import Suite, build_suite
from stratoscope.models.resolve import resolve
from stratoscope.models.zoo import list_zoo
from stratoscope.spec.performance import Environment, PartMeasurement, Protocol

#: Parts below this are mostly dispatch, which no roofline speaks of; they are counted, and left out of the errors.
LEAST_S = 2e-6
#: Layers from this on are told apart: below, where a layer finds its input decides more than the layer does.
LONG_S = 20e-6


def measured(suite: Suite, threads: Sequence[int]) -> dict[int, dict[str, PartMeasurement]]:
    """The suite's bricks in sequence, by number of threads and key."""
    found: dict[int, dict[str, PartMeasurement]] = {number: {} for number in threads}

    def keep(one: PartMeasurement) -> None:
        found[one.protocol.threads][one.part.digest] = one

    measure_groups(
        suite.groups(),
        suite.index.candidate,
        [Protocol(cache="sequence", threads=number) for number in threads],
        environment=Environment.of(capture_hardware(), platform.release()),
        on_result=keep,
    )
    return found


def machine() -> Roofs:
    """This machine's roofs, measured now."""
    return Roofs(characterize(Request(("stream", "gemm", "peak"), 40.0), lambda text, share: None))


def owners(suite: Suite) -> dict[str, set[str]]:
    """Key -> models that have the brick."""
    found: dict[str, set[str]] = defaultdict(set)
    for model in suite.index.models:
        for place in model.places:
            found[place.key].add(model.name)
    return found


def layers(names: Sequence[str]) -> dict[str, Any]:
    """Leave-one-model-out errors of layers that were never measured."""
    suite = build_suite([resolve(name) for name in names], rule="node")
    times = {
        key: (one.part, one.seconds().require())
        for key, one in measured(suite, [1])[1].items()
        if one.status == "ok" and one.part.bytes
    }
    here = resources_of(machine(), 1)
    roof = Roof(here.flops_per_s, here.bandwidths[-1][1])
    having = owners(suite)
    rows = []
    for model in suite.index.models:
        others = [pair for key, pair in times.items() if having[key] != {model.name}]
        predictor = LayerPredictor(others, roof)
        for key in {place.key for place in model.places} & times.keys():
            part, seconds = times[key]
            if seconds < LEAST_S:
                continue
            known = [pair for other, pair in times.items() if other != key and model.name not in having[other]]
            alone = predictor if having[key] == {model.name} else LayerPredictor(known, roof)
            plain = max((part.flops_valid or 0) / here.flops_per_s, (part.bytes or 0) / here.bandwidth(part.bytes or 0))
            rows.append(
                {
                    "model": model.name,
                    "layer": part.slug,
                    "operator": part.operators[0],
                    "seconds": seconds,
                    "predicted": alone.predict(part).seconds,
                    "roofline": plain,
                }
            )
    small = sum(seconds < LEAST_S for _, seconds in times.values())
    return {"rows": rows, "layers": len(times), "below_least": small, **summary(rows)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median errors over all rows, over those by their time, and by operator."""

    def errors(name: str, chosen: list[dict[str, Any]]) -> np.ndarray:
        return np.array([abs(row[name] / row["seconds"] - 1) for row in chosen])

    weights = np.array([row["seconds"] for row in rows])
    order = np.argsort(errors("predicted", rows))
    half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    by_operator: dict[str, Any] = {}
    for operator in sorted({row["operator"] for row in rows}):
        chosen = [row for row in rows if row["operator"] == operator]
        by_operator[operator] = [len(chosen)] + [
            float(np.median(errors(name, chosen))) for name in ("predicted", "roofline")
        ]
    long = [row for row in rows if row["seconds"] >= LONG_S]
    return {
        "median_error_long": float(np.median(errors("predicted", long))),
        "median_error_long_roofline": float(np.median(errors("roofline", long))),
        "long": len(long),
        "median_error": float(np.median(errors("predicted", rows))),
        "median_error_by_time": float(errors("predicted", rows)[order][half]),
        "median_error_roofline": float(np.median(errors("roofline", rows))),
        "by_operator": by_operator,
    }


def threads(names: Sequence[str]) -> dict[str, Any]:
    """Errors of moving models between one and two threads, each model left out of the fit."""
    suite = build_suite([resolve(name) for name in names])
    times = measured(suite, [1, 2])
    roofs = machine()
    resources = {number: resources_of(roofs, number) for number in (1, 2)}
    both = [key for key in times[1] if times[1][key].status == times[2][key].status == "ok"]
    loads = {
        key: Load(float(times[1][key].part.flops_valid or 0), float(times[1][key].part.bytes or 1)) for key in both
    }
    seconds = {number: {key: max(times[number][key].seconds().require(), 1e-9) for key in both} for number in (1, 2)}
    rows = []
    for here, there in ((1, 2), (2, 1)):
        for model in suite.index.models:
            keys = [place.key for place in model.places]
            if not set(keys) <= set(both):
                continue
            pairs = [(seconds[here][key], seconds[there][key], loads[key]) for key in both if key not in set(keys)]
            fitted = fit_exponents(pairs, resources[here], resources[there])
            truth = sum(seconds[there][key] for key in keys)

            def moved(exponents: Any, keys: list[str] = keys, here: int = here, there: int = there) -> float:
                places = (resources[here], resources[there])
                return sum(scaled(seconds[here][key], loads[key], *places, exponents) for key in keys)

            rows.append(
                {
                    "model": model.name,
                    "from": here,
                    "to": there,
                    "plain": moved(WHOLE) / truth - 1,
                    "fitted": moved(fitted) / truth - 1,
                    "exponents": [fitted.compute, fitted.memory],
                }
            )
    told: dict[str, Any] = {"rows": rows, "resources": {str(key): _told(value) for key, value in resources.items()}}
    for name in ("plain", "fitted"):
        errors = np.abs([math.log1p(row[name]) for row in rows])
        told[f"median_{name}"] = float(math.expm1(np.median(errors)))
        told[f"p90_{name}"] = float(math.expm1(np.quantile(errors, 0.9)))
    return told


def _told(resources: Resources) -> dict[str, Any]:
    return {
        "flops_per_s": resources.flops_per_s,
        "bandwidths": [[size if math.isfinite(size) else None, rate] for size, rate in resources.bandwidths],
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["layers", "threads"])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.models or [entry.name for entry in list_zoo()]
    told = layers(names) if options.what == "layers" else threads(names)
    print(json.dumps({key: value for key, value in told.items() if key not in ("rows",)}, indent=1))
    if options.what == "threads":
        for row in told["rows"]:
            print(f"{row['model']:20} {row['from']} -> {row['to']}  {row['plain']:+.1%}  {row['fitted']:+.1%}")
    if options.json is not None:
        held = json.loads(options.json.read_text()) if options.json.is_file() else {}
        environment = Environment.of(capture_hardware()).model_dump(
            mode="json", exclude_none=True, exclude={"hostname"}
        )
        options.json.write_text(json.dumps({**held, "environment": environment, options.what: told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
