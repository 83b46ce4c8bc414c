"""How far predictions of layers and of machines are from measurements, each beside plain roofline scaling.

    python benchmarks/predict_machines.py times [MODEL ...] --times FILE
    python benchmarks/predict_machines.py layers [MODEL ...] --times FILE --machine FILE [--json FILE]
    python benchmarks/predict_machines.py threads [MODEL ...] [--json FILE]

times: every node that ONNX Runtime executes of the models and of the calibration networks is measured in sequence; each
run adds one time to FILE. layers: each model is left out in turn, with every layer that occurs in it, wherever else it
occurs too; its layers are predicted from those of the other models and the calibration networks, beside the nearest
layers and a pure roofline on the same rows. --machine: a record of `stratoscope machine` with this machine's roofs.
threads: bricks at one thread predict the same models at two and the other way round,
with this machine's roofs at one and two threads; exponents are fitted without the model that is judged.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from stratoscope.explain.predict.calibration import SIZES, calibration_model
from stratoscope.explain.predict.layers import LayerPredictor, Roof
from stratoscope.explain.predict.learned import LearnedLayers
from stratoscope.explain.predict.placement import LayerFacts, facts_of
from stratoscope.explain.predict.scaling import WHOLE, Load, Resources, fit_exponents, resources_of, scaled
from stratoscope.explain.predict.unmeasured import LEAST_S, roofline
from stratoscope.host.capture import capture_hardware
from stratoscope.host.roofs import Roofs
from stratoscope.measure.machine.characterize import Request, characterize
from stratoscope.measure.sequence import measure_groups, protocol_of
from stratoscope.measure.suite import Suite, build_suite
from stratoscope.models.resolve import resolve
from stratoscope.models.zoo import list_zoo
from stratoscope.spec.performance import Environment, PartMeasurement

#: Layers from this on are told apart: below, where a layer finds its input decides more than the layer does.
LONG_S = 20e-6
#: Learned from other models and the calibration networks, from other models alone, nearest layers, plain roofline.
METHODS = ("predicted", "models_only", "nearest", "roofline")


def measured(suite: Suite, threads: Sequence[int]) -> dict[int, dict[str, PartMeasurement]]:
    """The suite's bricks in sequence, by number of threads and key."""
    found: dict[int, dict[str, PartMeasurement]] = {number: {} for number in threads}

    def keep(one: PartMeasurement) -> None:
        found[one.protocol.threads][one.part.digest] = one

    measure_groups(
        suite.groups(),
        suite.index.candidate,
        [protocol_of("sequence", number) for number in threads],
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


def calibration(folder: Path) -> Suite:
    """The nodes that ONNX Runtime executes of the calibration networks, as a suite; their files go into the folder."""
    models = []
    for channels, edge in SIZES:
        path = folder / f"calibration_{channels}_{edge}.onnx"
        onnx.save(calibration_model(channels, edge), str(path))
        models.append(resolve(str(path)))
    return build_suite(models, rule="node")


def suites(names: Sequence[str]) -> list[Suite]:
    """The nodes of the models, and those of the calibration networks."""
    with tempfile.TemporaryDirectory() as folder:
        return [build_suite([resolve(name) for name in names], rule="node"), calibration(Path(folder))]


def times(names: Sequence[str], file: Path) -> None:
    """Measures all layers once more, in processes of their own, and adds the seconds to the file by key."""
    held: dict[str, list[float]] = json.loads(file.read_text()) if file.is_file() else {}
    seen: set[str] = set()
    for suite in suites(names):  # a layer that a model and a calibration network have is that of the model
        for key, one in measured(suite, [1])[1].items():
            if one.status == "ok" and one.part.bytes and key not in seen:
                held.setdefault(key, []).append(one.seconds().require())
        seen |= set(suite.index.bricks)
    file.write_text(json.dumps(held))
    print(f"{len(held)} layers, {max(map(len, held.values()))} times each")


def layers(names: Sequence[str], file: Path, machine_file: Path) -> dict[str, Any]:
    """Leave-one-model-out errors: no layer that occurs in a model is known when the model is predicted."""
    held = {key: float(np.median(values)) for key, values in json.loads(file.read_text()).items()}
    here = resources_of(Roofs.load(machine_file), 1)
    zoo, others = suites(names)
    facts: dict[str, LayerFacts] = {}
    for suite in (zoo, others):
        for group in suite.groups():
            for one, brick in zip(facts_of(group), group, strict=True):
                if one is not None and brick.wanted and held.get(brick.part.digest, 0.0) > 0:
                    facts[brick.part.digest] = one
    having = owners(zoo)
    extra = [key for key in others.index.bricks if key in facts and key not in having]
    rows = []
    for model in zoo.index.models:
        own = [key for key in dict.fromkeys(place.key for place in model.places) if held.get(key, 0.0) >= LEAST_S]
        own = [key for key in own if key in facts]
        known = [key for key in facts if key in having and model.name not in having[key]]
        if not own:
            continue
        told = {
            "predicted": LearnedLayers([(facts[key], held[key]) for key in [*known, *extra]], here),
            "models_only": LearnedLayers([(facts[key], held[key]) for key in known], here),
        }
        found = {name: learned.predict([facts[key] for key in own]) for name, learned in told.items()}
        nearest = LayerPredictor(
            [(facts[key].part, held[key]) for key in known], Roof(here.flops_per_s, here.bandwidths[-1][1])
        )
        for number, key in enumerate(own):
            part = facts[key].part
            rows.append(
                {
                    "model": model.name,
                    "layer": part.slug,
                    "operator": part.operators[0],
                    "seconds": held[key],
                    **{name: float(values[number]) for name, values in found.items()},
                    "nearest": nearest.predict(part).seconds,
                    "roofline": roofline(facts[key], here),
                }
            )
    small = sum(0 < held.get(key, 0.0) < LEAST_S for key in having)
    counts = {"layers": len(having), "calibration_layers": len(extra), "below_least": small}
    return {"rows": rows, **counts, "noise": noise(file), **summary(rows)}


def noise(file: Path) -> float | None:
    """Median relative distance of one run's time of a layer to the next's, from LEAST_S on; None for a single run."""
    gaps = [
        abs(one / other - 1)
        for values in json.loads(file.read_text()).values()
        if np.median(values) >= LEAST_S
        for one, other in pairwise(values)
        if other > 0
    ]
    return float(np.median(gaps)) if gaps else None


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median errors over all rows, over long ones, by operator and by model, of each of METHODS."""

    def errors(name: str, chosen: list[dict[str, Any]]) -> np.ndarray:
        return np.array([abs(row[name] / row["seconds"] - 1) for row in chosen])

    long = [row for row in rows if row["seconds"] >= LONG_S]
    told: dict[str, Any] = {"judged": len(rows), "long": len(long)}
    for name in METHODS:
        told[name] = {
            "median_error": float(np.median(errors(name, rows))),
            "median_error_long": float(np.median(errors(name, long))),
            "p90": float(np.quantile(errors(name, rows), 0.9)),
        }
    told["by_operator"] = {
        operator: [
            sum(row["operator"] == operator for row in rows),
            *(float(np.median(errors(name, [row for row in rows if row["operator"] == operator]))) for name in METHODS),
        ]
        for operator in sorted({row["operator"] for row in rows})
    }
    told["by_model"] = {
        model: [
            sum(row["model"] == model for row in rows),
            *(float(np.median(errors(name, [row for row in rows if row["model"] == model]))) for name in METHODS),
        ]
        for model in dict.fromkeys(row["model"] for row in rows)
    }
    return told


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
    parser.add_argument("what", choices=["times", "layers", "threads"])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--times", type=Path, help="where the layers' times are kept")
    parser.add_argument("--machine", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.models or [entry.name for entry in list_zoo()]
    if options.what == "times":
        times(names, options.times)
        return
    told = layers(names, options.times, options.machine) if options.what == "layers" else threads(names)
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
