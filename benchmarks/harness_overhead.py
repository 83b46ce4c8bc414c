"""What a query costs over a bare loop: LoadGen-driven single stream against `session.run` alone, interleaved.

    python benchmarks/harness_overhead.py [--rounds 30] [--seconds 0.5] [--peer-python PYTHON] [--json FILE]

Every round runs, in random order in one process on one loaded session, a bare loop and the single-stream scenario,
for about as many queries each, in one and the same thread: a session's buffers are a thread's own, and where they fall
in the caches changes a model's time by a percent. The time of a query is (end - start) / queries of the whole loop, so
that nothing between two queries is left out. Printed: the added cost per query as the median of the paired differences
with its 95 % interval, also as a share of the bare query; and, from rounds of their own, the part of it that lies
outside the calls (clock readings around every call, whose own cost is taken off), which the noise of the model does not
blur. With --peer-python, optimum-benchmark measures the same SqueezeNet in that
environment (benchmarks/peers/requirements.txt), in turns with ours, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from stratoscope.backends.base import BackendOptions, Session
from stratoscope.backends.registry import get_backend
from stratoscope.host.lock import measurement_lock
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.load import run_load
from stratoscope.measure.waiting import start_lasting
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.stats.bootstrap import estimate, interval, paired_difference

HERE = Path(__file__).resolve().parent


def bare_loop(calls: list[Callable[[], Any]], queries: int) -> float:
    """Seconds a query of a loop that does nothing but call."""
    start = time.perf_counter_ns()
    for number in range(queries):
        calls[number % len(calls)]()
    return (time.perf_counter_ns() - start) / queries * 1e-9


def in_lasting_thread(job: Callable[[], float]) -> float:
    """The result of a job in the thread that LoadGen's runs are called from, too."""
    results: list[float] = []
    start_lasting(lambda: results.append(job())).wait()
    return results[0]


def harness(session: Session, model: LoadableModel, seconds: float) -> tuple[float, int]:
    """Seconds a query of the single-stream scenario, from the first issue to the last completion, and its queries."""
    scenario = ScenarioManifest(min_duration_s=seconds, min_queries=64, warmup_s=0.0, warmup_queries=3)
    samples = run_load(session, model, scenario).samples
    first, last = samples["scheduled_ns"].min(), samples["completed_ns"].max()
    return (last - first) / samples.height * 1e-9, samples.height


def outside_calls(session: Session, model: LoadableModel, seconds: float) -> float:
    """Seconds a query of the single-stream scenario that are not spent in the session's calls."""
    clock, inside_ns = time.perf_counter_ns, array("q")
    readings = [clock() for _ in range(10_000)]
    reading_ns = (readings[-1] - readings[0]) / (len(readings) - 1)

    def bind(feeds: Any) -> Callable[[], object]:
        call = session.bind(feeds)

        def timed() -> object:
            start = clock()
            result = call()
            inside_ns.append(clock() - start)
            return result

        return timed

    scenario = ScenarioManifest(min_duration_s=seconds, min_queries=64, warmup_s=0.0, warmup_queries=3)
    samples = run_load(cast(Session, SimpleNamespace(bind=bind)), model, scenario).samples
    whole_ns = samples["completed_ns"].max() - samples["scheduled_ns"].min()
    inside = np.array(inside_ns[-samples.height :]).sum()  # the warm-up's calls come before
    return ((whole_ns - inside) / samples.height - reading_ns) * 1e-9


def compare(
    name: str, backend: str, model_name: str, options: BackendOptions, rounds: int, seconds: float
) -> dict[str, Any]:
    """Interleaved rounds of both arms on one session."""
    model = resolve(model_name)
    session = get_backend(backend).load(model, options)
    inputs = make_inputs(model, 16, seed=0)
    calls = [session.bind(feeds) for feeds in inputs]
    plain = [lambda feeds=feeds: session.run(feeds) for feeds in inputs]
    queries = max(64, int(seconds / bare_loop(calls, 64)))
    order = random.Random(0)
    results: dict[str, list[float]] = {"bound": [], "run": [], "harness": [], "outside": []}
    arms: dict[str, Callable[[], float]] = {
        "bound": lambda: in_lasting_thread(lambda: bare_loop(calls, queries)),
        "run": lambda: in_lasting_thread(lambda: bare_loop(plain, queries)),
        "harness": lambda: harness(session, model, seconds)[0],
        "outside": lambda: outside_calls(session, model, seconds),
    }
    for _ in range(rounds):
        for arm in order.sample(list(arms), k=len(arms)):
            results[arm].append(arms[arm]())
    session.close()
    bare, ours = np.array(results["run"]), np.array(results["harness"])
    added = paired_difference(ours, bare, "s")
    outside = estimate(results["outside"], "s")
    query = float(np.median(bare))
    row = {
        "case": name,
        "bare_us": 1e6 * query,
        "bound_us": 1e6 * float(np.median(results["bound"])),
        "harness_us": 1e6 * float(np.median(ours)),
        "added_us": 1e6 * added.require(),
        "added_us_ci": [1e6 * end for end in (added.ci_low, added.ci_high) if end is not None],
        "outside_us": 1e6 * outside.require(),
        "outside_us_ci": [1e6 * end for end in (outside.ci_low, outside.ci_high) if end is not None],
        "share_percent": 100 * added.require() / query,
        "share_percent_ci": [100 * end / query for end in (added.ci_low, added.ci_high) if end is not None],
        "rounds": rounds,
        "queries": queries,
    }
    low, high = row["share_percent_ci"]
    print(
        f"{name:28} bare {row['bare_us']:9.2f} us  ours {row['harness_us']:9.2f} us  added {row['added_us']:6.2f} us "
        f"[{row['added_us_ci'][0]:.2f}, {row['added_us_ci'][1]:.2f}]  = {row['share_percent']:5.2f} % "
        f"[{low:.2f}, {high:.2f}]  outside the calls {row['outside_us']:5.2f} us "
        f"[{row['outside_us_ci'][0]:.2f}, {row['outside_us_ci'][1]:.2f}]"
    )
    return row


def peer_folder(folder: Path, model: LoadableModel) -> None:
    """The same graph under the names that optimum-benchmark's image classifier asks for."""
    import onnx

    graph_file = onnx.load(str(model.path))
    graph = graph_file.graph
    names = {graph.input[0].name: "pixel_values", graph.output[0].name: "logits"}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    onnx.save(graph_file, str(folder / "model.onnx"))
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "num_channels": 3}
    (folder / "config.json").write_text(json.dumps(config))


def peer(python: str, model: LoadableModel, seconds: float) -> list[float]:
    """optimum-benchmark's forward latencies of `model`, in seconds."""
    with tempfile.TemporaryDirectory() as name:
        peer_folder(Path(name), model)
        child = subprocess.run(
            [python, str(HERE / "peers" / "optimum_child.py"), name, str(seconds)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    line = next(line for line in child.stdout.splitlines() if line.startswith("RESULT "))
    return list(json.loads(line.removeprefix("RESULT ")))


def beside_peer(python: str, rounds: int, seconds: float) -> dict[str, Any]:
    """SqueezeNet, one thread, in turns: optimum-benchmark, our harness, bare `session.run`."""
    model = resolve("squeezenet")
    options = BackendOptions(threads=1)
    session = get_backend("onnxruntime").load(model, options)
    feeds = make_inputs(model, 1, seed=0)[0]
    samples: dict[str, list[float]] = {"optimum-benchmark": [], "stratoscope": [], "bare": []}
    for _ in range(rounds):
        samples["optimum-benchmark"].append(float(np.median(peer(python, model, seconds))))
        latencies = run_load(session, model, ScenarioManifest(min_duration_s=seconds)).samples
        samples["stratoscope"].append(float((latencies["completed_ns"] - latencies["scheduled_ns"]).median()) * 1e-9)
        samples["bare"].append(bare_loop([lambda: session.run(feeds)], max(64, int(seconds / 0.004))))
    session.close()
    bare = float(np.median(samples["bare"]))
    row: dict[str, Any] = {"case": "squeezenet beside optimum-benchmark", "rounds": rounds}
    for name, values in samples.items():
        low, high = interval(np.array(values), "median") if len(values) > 2 else (min(values), max(values))
        row[name] = {"latency_us": 1e6 * float(np.median(values)), "ci_us": [1e6 * low, 1e6 * high]}
        row[name]["ratio_to_bare"] = float(np.median(values)) / bare
        print(f"{name:28} {row[name]['latency_us']:9.1f} us   {row[name]['ratio_to_bare']:.4f} x bare")
    return row


def main() -> None:
    """Parses the options, measures under the machine's lock, prints, and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--peer-python", default=None)
    parser.add_argument("--peer-rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    cases = [
        ("null back end, 0", "null", "digits", BackendOptions(null_latency_s=0.0)),
        ("null back end, 1 ms", "null", "digits", BackendOptions(null_latency_s=0.001)),
        ("squeezenet, 1 thread", "onnxruntime", "squeezenet", BackendOptions(threads=1)),
    ]
    with measurement_lock():
        rows = [compare(*case, arguments.rounds, arguments.seconds) for case in cases]
        if arguments.peer_python:
            rows.append(beside_peer(arguments.peer_python, arguments.peer_rounds, 2.0))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
