"""Holds composed latencies against models run end to end, in turns in one process; and what composing costs and saves.

    python benchmarks/compose.py accuracy [MODEL ...] [--batch-size N] [--no-bracket | --whole-only] [--json FILE]
    python benchmarks/compose.py batches [MODEL ...] [--json FILE]
    python benchmarks/compose.py granularity [MODEL ...] [--json FILE]
    python benchmarks/compose.py wall [MODEL ...] [--batch-size N] [--json FILE]
    python benchmarks/compose.py repeat [MODEL ...] [--batch-size N] [--json FILE]
    python benchmarks/compose.py build [--json FILE]
    python benchmarks/compose.py show FILE

accuracy: ONNX Runtime, one thread; without MODEL the whole zoo. Rows are added to FILE by model and batch size, so
that the zoo can be measured in several goes, and each row is one interleaved run. batches: batch sizes 1, 2 and 4 of
one model after the other, so that drift of the machine does not come between them; at 4 models from 20 ms on are
measured end to end only (see `extrapolated`). granularity: the same for windows of G layers, as DLBricks has them,
and for overlapping sequences. wall: seconds to measure the suite of unique bricks, with building, loading and
stopping rule, beside measuring every model end to end under the same rule. repeat: the composed latency in six
processes one after the other, no model run beside it: how much it differs only for where memory happens to lie
(`RESTARTS` in explain/compose/estimate.py; taken at batch size 2, so not from the rows that brackets are judged on).
build: seconds and memory of cutting 25, 50 and 100 synthetic models of 1,000 nodes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from stratoscope.errors import StratoscopeError
from stratoscope.explain.compose.assembly import HIGH, LOW, POINT, STATES, placed
from stratoscope.explain.compose.estimate import Estimate, estimate
from stratoscope.graph.brick_model import skeleton
from stratoscope.graph.bricks import bricks_of
from stratoscope.graph.cuts import Rule
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.host.capture import capture_hardware
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.sequence import compare_with_whole, measure_groups, measure_whole, protocol_of
from stratoscope.measure.suite import GraphKind, Suite, build_suite
from stratoscope.models.resolve import resolve
from stratoscope.models.zoo import list_zoo
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.performance import CacheState, Environment, PartMeasurement

PROCESSES = 6
#: Models below this are composed at every batch size: a line triples their noise, and they cost nothing.
SHORT_S = 0.02
WAYS: tuple[tuple[str, GraphKind, Rule, int], ...] = (
    ("executed graph, single tensors", "executed", "tensor", 1),
    ("executed graph, every node", "executed", "node", 1),
    ("executed graph, overlapping pairs", "executed", "overlap", 2),
    ("authored graph, single tensors", "authored", "tensor", 1),
    ("authored graph, G=1", "authored", "layers", 1),
    ("authored graph, G=4", "authored", "layers", 4),
    ("authored graph, G=8", "authored", "layers", 8),
)


def environment() -> Environment:
    """This machine."""
    return Environment.of(capture_hardware(), platform.release())


def compared(
    model: LoadableModel, suite: Suite, states: Sequence[CacheState]
) -> tuple[dict[str, Any], Estimate, list[PartMeasurement]]:
    """One interleaved run: a row of the table, the estimate, and the bricks' measurements."""
    group = [brick for groups in suite.groups() for brick in groups]
    start = time.monotonic()
    whole, results = compare_with_whole(
        group,
        suite.index.candidate,
        [protocol_of(state) for state in states],
        environment=environment(),
        model=Path(str(model.path)),
        feeds=make_inputs(model, 1, 0)[0],
    )
    by = {state: {one.part.digest: one for one in results if one.protocol.cache == state} for state in STATES}
    found = estimate(placed(suite, suite.index.models[0]), by[POINT], by[LOW], by[HIGH])
    unique = sum(one.seconds().require() for one in by[POINT].values() if one.status == "ok")
    row = {
        "model": model.name,
        "batch": suite.index.models[0].batch_size,
        "places": found.bricks,
        "unique": found.unique,
        "end_to_end_s": whole.require(),
        "end_to_end_interval_s": [whole.ci_low, whole.ci_high],
        "samples": whole.n,
        "estimate_s": found.latency.require(),
        "error": found.latency.require() / whole.require() - 1,
        "low_s": found.low.value,
        "high_s": found.high.value,
        "ends_s": [found.low.ci_low, found.high.ci_high],
        "coverage": found.coverage,
        "missing": [(one.slug, one.share, one.reason) for one in found.missing],
        "unique_s": unique,
        "bricks": {key: one.seconds().value for key, one in by[POINT].items()},
        "seconds": time.monotonic() - start,
    }
    return row, found, results


def holds(row: dict[str, Any]) -> bool | None:
    """Whether the bracket holds the measured latency, both with their intervals; None where there is none."""
    if row["low_s"] is None or row["high_s"] is None:
        return None
    low, high = row["end_to_end_interval_s"]
    lowest, highest = row.get("ends_s") or [row["low_s"], row["high_s"]]
    return bool(lowest <= high and highest >= low)


def accuracy(
    names: Sequence[str], batch: int | None, bracket: bool, file: Path | None, library: str = "onnxruntime"
) -> None:
    """Measures and prints rows; adds them to the file as they come, those of PyTorch apart."""
    place = "rows" if library == "onnxruntime" else library
    graph: GraphKind = "executed" if library == "onnxruntime" else "authored"
    for name in names:
        try:
            model = resolve(name, batch_size=batch)
            suite = build_suite([model], graph=graph, library=library)
            row, _, _ = compared(model, suite, STATES if bracket else (POINT,))
        except StratoscopeError as error:
            row = {"model": name, "batch": batch, "failed": str(error)}
        _print(row)
        if file is not None:
            held = _read(file)
            same = (row["model"], row["batch"] or 1)
            kept = [one for one in held.get(place, []) if (one["model"], one["batch"] or 1) != same]
            _write(file, {**held, place: [*kept, row]})


def whole_only(names: Sequence[str], batch: int | None, file: Path | None) -> None:
    """Measures models end to end at a batch size whose composed latency is extrapolated from smaller ones."""
    machine = environment()
    for name in names:
        model = resolve(name, batch_size=batch)
        row: dict[str, Any] = {"model": name, "batch": batch}
        try:
            found = measure_whole(Path(str(model.path)), make_inputs(model, 1, 0)[0], protocol_of(POINT), machine)
            row |= {"end_to_end_s": found.require(), "end_to_end_interval_s": [found.ci_low, found.ci_high]}
        except StratoscopeError as error:
            row["failed"] = str(error)
        print(row, flush=True)
        if file is not None:
            held = _read(file)
            kept = [one for one in held.get("whole", []) if (one["model"], one["batch"]) != (name, batch)]
            _write(file, {**held, "whole": [*kept, row]})


def batches(names: Sequence[str], file: Path) -> None:
    """Each model at three batch sizes: the first with its bracket, the last composed where a line would add noise."""
    for name in names:
        accuracy([name], 1, True, file)
        accuracy([name], 2, False, file)
        (row,) = (one for one in _read(file)["rows"] if (one["model"], one["batch"] or 1) == (name, 1))
        if row.get("end_to_end_s", 0.0) < SHORT_S:
            accuracy([name], 4, False, file)
        else:
            whole_only([name], 4, file)


def extrapolated(held: dict[str, Any]) -> list[dict[str, Any]]:
    """Composed latencies at other batch sizes, on the line through those at the two that were composed."""
    rows = []
    for row in held.get("whole", []):
        known = {
            one["batch"]: one["estimate_s"]
            for one in held["rows"]
            if one["model"] == row["model"] and "failed" not in one
        }
        if "failed" in row or len(known) < 2 or row["batch"] in known:
            continue
        small, large = sorted(known)[:2]
        slope = (known[large] - known[small]) / (large - small)
        estimate_s = known[small] + slope * (row["batch"] - small)
        rows.append({**row, "estimate_s": estimate_s, "error": estimate_s / row["end_to_end_s"] - 1})
    return rows


def granularity(names: Sequence[str], file: Path | None) -> None:
    """Error and unique share of each way of cutting, model by model."""
    rows = []
    for name in names:
        model = resolve(name)
        for way, graph, rule, size in WAYS:
            suite = build_suite([model], graph=graph, rule=rule, granularity=size)
            try:
                row, _, _ = compared(model, suite, (POINT,))
            except StratoscopeError as error:
                print(f"{name:20} {way:34} {error}", flush=True)
                continue
            rows.append({"way": way, **{key: value for key, value in row.items() if key != "bricks"}})
            share = row["unique_s"] / row["end_to_end_s"]
            print(
                f"{name:20} {way:34} {row['error']:+7.1%}  unique {row['unique']}/{row['places']}, "
                f"{share:.2f} of the model's time, covered {row['coverage']:.0%}",
                flush=True,
            )
    if file is not None:
        _write(file, {**_read(file), "granularity": rows})


def wall(names: Sequence[str], batch: int | None, file: Path | None) -> None:
    """The honest ratio: all unique bricks of all models, and all models end to end, set-up included in both."""
    models = [resolve(name, batch_size=batch) for name in names]
    machine = environment()
    start = time.monotonic()
    suite = build_suite(models)
    built = time.monotonic() - start
    done: list[PartMeasurement] = []
    protocols = [protocol_of(POINT)]
    measure_groups(suite.groups(), suite.index.candidate, protocols, environment=machine, on_result=done.append)
    bricks = time.monotonic() - start
    start = time.monotonic()
    for model in models:
        path, feeds = Path(str(model.path)), make_inputs(model, 1, 0)[0]
        measure_whole(path, feeds, protocols[0], machine)
    whole = time.monotonic() - start
    places = sum(len(model.places) for model in suite.index.models)
    told = {
        "batch": batch or 1,
        "models": len(models),
        "places": places,
        "unique": len(suite.index.bricks),
        "build_s": built,
        "bricks_s": bricks,
        "end_to_end_s": whole,
        "ratio": whole / bricks,
    }
    print(json.dumps(told, indent=1))
    if file is not None:
        held = _read(file)
        kept = [one for one in held.get("wall", []) if one["batch"] != told["batch"]]
        _write(file, {**held, "wall": [*kept, told]})


def repeat(names: Sequence[str], batch: int | None, file: Path | None) -> None:
    """The standard deviation of composed latencies from process to process, relative, by model and their median."""
    machine, rows = environment(), []
    for name in names:
        suite = build_suite([resolve(name, batch_size=batch)])
        found: list[float] = []
        for _ in range(PROCESSES):
            done: list[PartMeasurement] = []
            protocols = [protocol_of(POINT)]
            measure_groups(suite.groups(), suite.index.candidate, protocols, environment=machine, on_result=done.append)
            times = {one.part.digest: one for one in done}
            found.append(estimate(placed(suite, suite.index.models[0]), times, {}, {}).latency.require())
        spread = statistics.stdev(found) / statistics.mean(found)
        rows.append({"model": name, "batch": batch, "estimates_s": found, "spread": spread})
        print(f"{name:20} x{batch} {spread:6.2%}  " + " ".join(f"{one * 1e3:.2f}" for one in found), flush=True)
    print(_spreads(rows))
    if file is not None:
        _write(file, {**_read(file), "repeat": rows})


def _spreads(rows: Sequence[dict[str, Any]]) -> str:
    spreads = sorted((row["spread"], row["model"]) for row in rows)
    return (
        f"composed in {PROCESSES} processes, {len(rows)} models: standard deviation "
        f"{statistics.median(spread for spread, _ in spreads):.1%} (median), "
        + " to ".join(f"{spread:.1%} ({model})" for spread, model in (spreads[0], spreads[-1]))
    )


def synthetic(number: int, *, distinct: bool = False, layers: int = 1000) -> Any:
    """A model of 1,000 nodes: residual blocks of products, additions and activations; `number` sets its width.

    Blocks are all the same, or with `distinct` all different: each has a slope of its own.
    """
    width = 16 + number
    nodes, weights, name = [], [], "x"
    for block in range(layers // 5):
        weights.append(numpy_helper.from_array(np.zeros((width, width), np.float32), f"w{block}"))
        slope = (block + 1) / layers if distinct else 0.1
        nodes += [
            helper.make_node("MatMul", [name, f"w{block}"], [f"a{block}"]),
            helper.make_node("LeakyRelu", [f"a{block}"], [f"b{block}"], alpha=slope),
            helper.make_node("Softmax", [f"b{block}"], [f"c{block}"]),
            helper.make_node("Mul", [f"b{block}", f"c{block}"], [f"d{block}"]),
            helper.make_node("Add", [f"d{block}", name], [f"e{block}"]),
        ]
        name = f"e{block}"
    info = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [8, width]) for one in ("x", name)]
    graph = helper.make_graph(nodes, "synthetic", info[:1], info[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def build(file: Path | None) -> None:
    """Seconds and peak memory of reading, cutting, keying and writing bricks of 25, 50 and 100 models."""
    rows: list[dict[str, Any]] = []
    for count, distinct in ((25, False), (50, False), (100, False), (25, True), (50, True), (100, True)):
        models = [synthetic(number, distinct=distinct) for number in range(count)]
        for traced in (False, True):
            if traced:
                tracemalloc.start()
            start = time.monotonic()
            kept: dict[str, bytes] = {}
            for model in models:
                for key, brick in bricks_of(read_graph(model), least_s=0.0).unique().items():
                    if key not in kept:
                        kept[key] = skeleton(brick)
            took = time.monotonic() - start
            if traced:
                rows[-1]["peak_mb"] = tracemalloc.get_traced_memory()[1] / 1e6
                tracemalloc.stop()
            else:
                rows.append({"models": count, "nodes": sum(len(m.graph.node) for m in models), "seconds": took})
                rows[-1] |= {"bricks": len(kept), "distinct": distinct}
        print(rows[-1], flush=True)
    if file is not None:
        _write(file, {**_read(file), "build": rows})


def _print(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(f"{row['model']:20} x{row['batch'] or 1} {row['failed'].split(';')[0]}", flush=True)
        return
    bracket = "" if holds(row) is None else f"  [{row['low_s'] * 1e3:.2f}, {row['high_s'] * 1e3:.2f}]"
    print(
        f"{row['model']:20} x{row['batch']} {row['unique']:3}/{row['places']:<3} "
        f"measured {row['end_to_end_s'] * 1e3:8.2f} ms"
        f"  composed {row['estimate_s'] * 1e3:8.2f} ms  {row['error']:+6.1%}{bracket}"
        f"  unique bricks {row['unique_s'] / row['end_to_end_s']:.2f}",
        flush=True,
    )


def show(file: Path) -> None:
    """The table of a result file, and the criteria."""
    held = _read(file)
    rows = [row for row in held["rows"] if "failed" not in row]
    for row in held["rows"]:
        _print(row)
    ones = [row for row in rows if row["batch"] in (1, None)]
    within = [sum(abs(row["error"]) <= limit for row in ones) for limit in (0.05, 0.08)]
    print(f"\nbatch 1: {within[0]} of {len(ones)} models within 5 %, {within[1]} within 8 %")
    brackets = [holds(row) for row in rows if holds(row) is not None]
    print(f"the bracket holds the measured latency in {sum(map(bool, brackets))} of {len(brackets)}")
    if held.get("pytorch"):
        print("\nPyTorch, eager, one thread:")
    for row in held.get("pytorch", []):
        _print(row)
    further = extrapolated(held)
    for row in further:
        print(f"{row['model']:20} x{row['batch']} measured {row['end_to_end_s'] * 1e3:8.2f} ms", end="  ")
        print(f"extrapolated {row['estimate_s'] * 1e3:8.2f} ms  {row['error']:+6.1%}")
    both = [*rows, *further]
    within = [sum(abs(row["error"]) <= limit for row in both) for limit in (0.05, 0.08)]
    print(
        f"all batch sizes: {within[0]} of {len(both)} within 5 %, {within[1]} within 8 % "
        f"({len(further)} of them extrapolated)"
    )
    saved("batch 1, measured", ones, [])
    if len(rows) > len(ones):
        largest = max(row["batch"] or 1 for row in both)
        below = [row for row in rows if (row["batch"] or 1) < largest]
        saved("batch sizes of which all models were composed, measured", below, [])
        saved("all batch sizes, the largest on the line through the others where it was not composed", rows, further)
    for told in held.get("wall", []):
        print(f"wall clock, batch {told['batch']}: {told['ratio']:.2f} times less, set-up included")
    if held.get("repeat"):
        print(_spreads(held["repeat"]))
    for told in held.get("build", []):
        print(
            f"building {told['models']} models of 1,000 nodes, {told['bricks']} unique bricks: "
            f"{told['seconds']:.1f} s, {told['peak_mb']:.0f} MB at most"
        )


def saved(what: str, composed: list[dict[str, Any]], further: list[dict[str, Any]]) -> None:
    """Prints the paper's ratio: the sum of end-to-end latencies over that of the unique bricks, one call of each."""
    times = {key: value for row in composed for key, value in row["bricks"].items() if value is not None}
    whole, unique = sum(row["end_to_end_s"] for row in [*composed, *further]), sum(times.values())
    print(f"{what}: models {whole:.2f} s, their {len(times)} unique bricks {unique:.2f} s:", end=" ")
    print(f"{whole / unique:.2f} times less, as the paper counts")


def _read(file: Path) -> dict[str, Any]:
    if file.is_file():
        held: dict[str, Any] = json.loads(file.read_text())
        return held
    machine = environment()
    return {"environment": machine.model_dump(mode="json", exclude={"hostname"}, exclude_none=True), "rows": []}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "batches", "granularity", "wall", "repeat", "build", "show"])
    parser.add_argument("names", nargs="*", help="models, or the file to show")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--no-bracket", action="store_true")
    parser.add_argument("--library", choices=["onnxruntime", "pytorch"], default="onnxruntime")
    parser.add_argument("--whole-only", action="store_true", help="end to end only, for extrapolation")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.names or [entry.name for entry in list_zoo()]
    if options.what == "accuracy" and options.whole_only:
        whole_only(names, options.batch_size, options.json)
    elif options.what == "accuracy":
        accuracy(names, options.batch_size, not options.no_bracket, options.json, options.library)
    elif options.what == "batches":
        if options.json is None:
            parser.error("batches needs --json FILE")
        batches(names, options.json)
    elif options.what == "granularity":
        granularity(names, options.json)
    elif options.what == "wall":
        wall(names, options.batch_size, options.json)
    elif options.what == "repeat":
        repeat(names, options.batch_size, options.json)
    elif options.what == "build":
        build(options.json)
    else:
        show(Path(options.names[0]))


if __name__ == "__main__":
    main()
