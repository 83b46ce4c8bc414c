"""One copy of the weights: memory, cold start and steady state of shared models against the frameworks' default path.

    python benchmarks/model_sharing.py [--quick] [--only mm,conv,gpt] [--json FILE]

Three models (24 MatMul layers, 384 MiB; 24 convolutions, 216 MiB; GPT-2 without its head, 475 MiB) on ONNX Runtime and
PyTorch, one thread each. Memory: the sum of PSS over 4 and 8 processes that live at once, each after its first
inference, against processes that run a model of the same structure with next to no weights (the baseline, less
those). Time: fresh processes, default and shared in turns, medians; load + first inference counts from the finished
imports. The default path is a session on the .onnx file with its weights inside (beside it for GPT-2), and for PyTorch
module(), torch.load, load_state_dict. "cold" rows have the weights' files dropped from the page cache. Then the server:
16 clients at once, `kill -9` of a client; and the eviction policies. Every acceptance line is printed with its figure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_sharing_models import MODELS, make_onnx, module_factory, torch_input

MIB = 1 << 20
FRAMEWORKS = ("onnxruntime", "pytorch")
STEADY_S = 0.5
COUNTS = (8, 4)


# ---- one process -------------------------------------------------------------------------------------------------


def child(request: dict[str, Any]) -> None:
    """Loads, runs, reports; then lives until standard input ends, so that all can be counted at once."""
    run, load_s, first_s, tier = (child_onnx if request["framework"] == "onnxruntime" else child_torch)(request)
    steady: list[float] = []
    while sum(steady) < request["steady_s"] or (request["steady_s"] and len(steady) < 5):
        start = time.perf_counter()
        run()
        steady.append(time.perf_counter() - start)
    answer = {"load_s": load_s, "first_s": first_s, "tier": tier}
    answer["steady_s"] = statistics.median(steady) if steady else None
    print(json.dumps(answer), flush=True)
    sys.stdin.read()


def child_onnx(request: dict[str, Any]) -> tuple[Callable[[], Any], float, float, str]:
    import onnxruntime  # noqa: F401 - imports are not part of the load
    import polars  # noqa: F401

    from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
    from stratoscope.spec.model import LoadableModel, ModelManifest
    from stratoscope.spec.options import BackendOptions

    model = LoadableModel(ModelManifest.model_validate(request["manifest"]), Path(request["path"]))
    feeds = {
        spec.name: np.ones([int(size) for size in spec.shape], spec.element_type) for spec in model.manifest.inputs
    }
    start = time.perf_counter()
    session = OnnxRuntimeBackend().load(model, BackendOptions(threads=1, shared=request["shared"]))
    loaded = time.perf_counter()
    session.run(feeds)
    done = time.perf_counter()
    tier = session.effective_options.get("shared", {}).get("tier", "private")
    return lambda: session.run(feeds), loaded - start, done - loaded, tier


def child_torch(request: dict[str, Any]) -> tuple[Callable[[], Any], float, float, str]:
    import torch

    from stratoscope.share.torch_model import load_torch

    torch.set_num_threads(1)
    factory = module_factory(request["model"], "tied" if request["tiny"] else "full")
    weights, name = Path(request["path"]), request["model"]
    x = torch_input(request["model"])
    with torch.inference_mode():
        torch.nn.Linear(2, 2)(torch.ones(1, 2))  # the framework's own first call
    start = time.perf_counter()
    if request["shared"]:
        shared = load_torch(factory, weights, name=name)
        module, tier = shared.module, shared.arrays.tier
    else:
        module, tier = factory(), "private"
        if not request["tiny"]:
            module.load_state_dict(torch.load(weights, weights_only=True))
    loaded = time.perf_counter()

    def run() -> None:
        with torch.inference_mode():
            module(x)

    run()
    return run, loaded - start, time.perf_counter() - loaded, tier


def spawn(request: dict[str, Any]) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = os.environ["STRATOSCOPE_SHARE"] + "-bytecode"  # as of an installed package
    return subprocess.Popen(
        [sys.executable, __file__, "--child", json.dumps(request)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a child failed: {process.args}")
    return dict(json.loads(line))


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


# ---- measurements ------------------------------------------------------------------------------------------------


def sums_of_pss(request: dict[str, Any], counts: Sequence[int]) -> dict[int, float]:
    """MiB over processes that live at once and have answered: the most first, then fewer of the same."""
    from stratoscope.share.memory import footprint

    processes = [spawn(request) for _ in range(max(counts))]
    for process in processes:
        answer_of(process)
    found = {}
    for count in sorted(counts, reverse=True):
        for process in processes[count:]:
            end(process)
        del processes[count:]
        found[count] = sum(footprint(process.pid).pss_bytes for process in processes) / MIB
    for process in processes:
        end(process)
    return found


def drop(paths: list[Path]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(request: dict[str, Any], rounds: int, dropped: list[Path] | None = None) -> dict[str, list[float]]:
    """Load + first inference and steady state of default and shared, in random turns of fresh processes."""
    found: dict[str, list[float]] = {
        f"{way} {what}": [] for way in ("default", "shared") for what in ("first", "steady")
    }
    for _ in range(rounds):
        for shared in random.sample([False, True], 2):
            if dropped is not None:
                drop(dropped)
            process = spawn(request | {"shared": shared, "steady_s": 0.0 if dropped is not None else STEADY_S})
            answer = answer_of(process)
            end(process)
            way = "shared" if shared else "default"
            found[f"{way} first"].append(answer["load_s"] + answer["first_s"])
            if answer["steady_s"] is not None:
                found[f"{way} steady"].append(answer["steady_s"])
    return found


def prepare_all(name: str, framework: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any], float, list[Path]]:
    """The requests for the model and its baseline, MiB of weights, and the files that hold the weights."""
    requests = {}
    for tiny in (False, True):
        stem = f"{name}-{'tiny' if tiny else 'full'}"
        common = {"framework": framework, "model": name, "tiny": tiny, "steady_s": 0.0, "shared": False}
        if framework == "onnxruntime":
            from stratoscope.models.resolve import resolve

            path = folder / f"{stem}.onnx"
            if not path.exists():
                make_onnx(name, path, tiny=tiny)
            manifest = resolve(path, batch_size=1).manifest.model_dump(mode="json", by_alias=True)
            requests[tiny] = common | {"path": str(path), "manifest": manifest}
        else:
            import torch

            path = folder / f"{stem}.pt"
            torch.save(module_factory(name, "tied" if tiny else "full")().state_dict(), path)
            requests[tiny] = common | {"path": str(path)}
    process = spawn(requests[False] | {"shared": True})  # prepares
    answer_of(process)
    end(process)
    from stratoscope.share.library import Library

    kind = "pytorch" if framework == "pytorch" else "onnxruntime"
    found = [one for one in Library.open().entries() if one.manifest.key.kind == kind and name in one.manifest.model]
    artifact = max(found, key=lambda one: one.manifest.weights_bytes())
    full = Path(requests[False]["path"])
    beside = full.with_name(full.name + ".data")
    originals = [full, beside] if beside.exists() else [full]
    weights = sum(path.stat().st_size for path in originals) / MIB
    files = [*originals, *(artifact.folder / file for file in artifact.manifest.data_files())]
    return requests[False], requests[True], weights, files


def measure(name: str, framework: str, folder: Path, rounds: int, counts: tuple[int, ...]) -> dict[str, Any]:
    """All figures of one model on one framework; the default path's memory with the fewest processes only."""
    request, tiny, weights, files = prepare_all(name, framework, folder)
    base, shared = sums_of_pss(tiny, counts), sums_of_pss(request | {"shared": True}, counts)
    own = Path(tiny["path"]).stat().st_size / MIB
    base = {count: total - count * own for count, total in base.items()}
    default = sums_of_pss(request, (min(counts),))
    memory = {}
    for count in sorted(counts):
        memory[str(count)] = {
            "baseline_mib": base[count],
            "default_mib": default.get(count),
            "shared_mib": shared[count],
            "shared_over_weights": (shared[count] - base[count]) / weights,
            "default_over_weights": (default[count] - base[count]) / weights if count in default else None,
        }
    result: dict[str, Any] = {"weights_mib": weights, "memory": memory}
    warm, cold = timed(request, rounds), timed(request, 2, files)
    middle = {f"warm {key}": statistics.median(values) for key, values in warm.items()}
    middle |= {f"cold {key}": statistics.median(values) for key, values in cold.items() if values}
    result["seconds"] = middle
    result["first_ratio"] = middle["warm default first"] / middle["warm shared first"]
    result["cold_ratio"] = middle["cold default first"] / middle["cold shared first"]
    result["steady_ratio"] = middle["warm shared steady"] / middle["warm default steady"]
    return result


def measure_server(folder: Path) -> dict[str, Any]:
    """Loads that 16 clients at once cause, memory of 4 clients, and the time until a dead one's lease is free."""
    from stratoscope.models.resolve import resolve
    from stratoscope.share.client import request_lease
    from stratoscope.share.library import Library
    from stratoscope.share.manager import ManagerSettings
    from stratoscope.share.prepare import prepare
    from stratoscope.share.server import Server

    library, model = Library.open(), resolve(folder / "mm-full.onnx", batch_size=1)
    key = prepare(model, library=library).key
    manifest = model.manifest.model_dump(mode="json", by_alias=True)
    request = {"framework": "onnxruntime", "model": "mm", "tiny": False, "steady_s": 0.0, "shared": True}
    request |= {"path": str(folder / "mm-full.onnx"), "manifest": manifest}
    with Server(library, ManagerSettings(4 << 30, 4 << 30)) as server:
        server.start()
        barrier, leases = threading.Barrier(16), []

        def client() -> None:
            barrier.wait()
            leases.append(request_lease(library, key))

        threads = [threading.Thread(target=client) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loads = server.manager.loads
        for lease in leases:
            lease.close()
        pss = sums_of_pss(request, (4,))[4]
        process = spawn(request)
        tier = answer_of(process)["tier"]
        while sum(one["leases"] for one in server.manager.status()["models"]) != 1:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        start = time.perf_counter()
        while sum(one["leases"] for one in server.manager.status()["models"]):
            time.sleep(0.001)
        freed = time.perf_counter() - start
        end(process)
    return {"clients": 16, "loads": loads, "tier": tier, "freed_s": freed, "shared_mib_4": pss}


def measure_policies(quick: bool) -> dict[str, Any]:
    """Load cost relative to LRU on TrIMS's models, and GD-Wheel against exact GreedyDual on its paper's cost mixes."""
    from stratoscope.share.policies import POLICIES
    from stratoscope.share.simulate import relative_cost, simulate
    from stratoscope.share.wheel import GdWheel
    from stratoscope.share.workload import Workload, draw_requests, trims_catalogue

    seeds, count = (2, 5000) if quick else (3, 20_000)
    table = {}
    for init in ("none", "spread"):
        loads = [draw_requests(trims_catalogue(init=init, seed=s), "zipf", count, seed=s) for s in range(seeds)]
        for share in (0.2, 0.4, 0.8):
            table[f"{init} {share:.0%}"] = {name: relative_cost(loads, share, name) for name in POLICIES}
    keys, requests = (5000, 50_000) if quick else (20_000, 200_000)
    wheels = {}
    for mix in ((0.8, 0.15, 0.05), (0.2, 0.75, 0.05), (0.5, 0.25, 0.25)):
        stream = np.random.default_rng(1)
        group = stream.choice(3, keys, p=mix)
        low, high = np.array([10, 120, 350])[group], np.array([30, 180, 450])[group]
        costs = tuple((stream.integers(low, high + 1) / 1000).tolist())
        weights = stream.permutation(np.arange(1, keys + 1) ** -0.99)
        picks = tuple(stream.choice(keys, requests, p=weights / weights.sum()).tolist())
        load = Workload(tuple(map(str, range(keys))), (1,) * keys, costs, picks)
        for part in (10, 4):
            exact = simulate(load, "greedydual", keys // part).load_s
            for label, wheel in (("published", GdWheel()), ("aligned", GdWheel(aligned=True))):
                found = simulate(load, wheel, keys // part).load_s
                work = (wheel.hand_steps + wheel.migrations) / requests
                wheels[f"{mix} {100 // part}% {label}"] = {"ratio": found / exact, "steps_a_request": work}
    return {"relative_to_lru": table, "gd_wheel": wheels}


# ---- the acceptance lines ----------------------------------------------------------------------------------------


def judge(results: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Each line: what is asked, the figure, whether it holds."""
    lines = []
    for name, frameworks in results["models"].items():
        for framework, result in frameworks.items():
            for count, memory in result["memory"].items():
                figure = f"{memory['shared_over_weights']:.3f} x weights"
                if memory["default_over_weights"] is not None:
                    own = memory["default_over_weights"] - int(count)
                    figure += f" (default {memory['default_over_weights']:.2f} x, {own:+.2f} beside its copies)"
                what = f"{name} {framework}: PSS of {count} processes over baseline at most 1.05 x weights"
                lines.append((what, figure, memory["shared_over_weights"] <= 1.05))
            if name == "mm":
                wanted = 14 if framework == "onnxruntime" else 24
                what = f"{name} {framework}: load + first inference at least {wanted} x faster, warm"
                figure = f"{result['first_ratio']:.1f} x (cold page cache {result['cold_ratio']:.1f} x)"
                lines.append((what, figure, result["first_ratio"] >= wanted))
            else:
                figure = f"{result['first_ratio']:.1f} x (cold page cache {result['cold_ratio']:.1f} x)"
                lines.append((f"{name} {framework}: load + first inference, shown", figure, True))
            what = f"{name} {framework}: steady state at most 1.05 x the default"
            lines.append((what, f"{result['steady_ratio']:.3f} x", result["steady_ratio"] <= 1.05))
    server = results.get("server")
    if server:
        lines.append(("16 clients at once load a cold model once", f"{server['loads']} load(s)", server["loads"] == 1))
        figure = f"{server['freed_s'] * 1e3:.1f} ms"
        lines.append(("kill -9 of a client frees its lease within a second", figure, server["freed_s"] < 1))
    policies = results["policies"]
    worst = max(row["gdsf"] for row in policies["relative_to_lru"].values())
    lines.append(("GDSF at most 0.85 of LRU's load cost, TrIMS's models under Zipf", f"{worst:.3f}", worst <= 0.85))
    for label in ("published", "aligned"):
        rows = [row for key, row in policies["gd_wheel"].items() if key.endswith(label)]
        ratio = max(abs(row["ratio"] - 1) for row in rows)
        steps = max(row["steps_a_request"] for row in rows)
        figure = f"{ratio:.1%} apart at most, {steps:.2f} steps a request"
        lines.append((f"GD-Wheel, {label}: within 5 % of exact GreedyDual", figure, ratio <= 0.05))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, 4 processes only")
    parser.add_argument("--only", default=",".join(MODELS), help="models, comma-separated")
    parser.add_argument("--frameworks", default=",".join(FRAMEWORKS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    rounds, counts = (3, COUNTS[1:]) if options.quick else (4, COUNTS)
    results: dict[str, Any] = {"schema": 1, "environment": environment(), "models": {}}
    with tempfile.TemporaryDirectory(prefix="share-bench-") as scratch:
        folder = Path(scratch)
        os.environ["STRATOSCOPE_SHARE"] = str(folder / "store")
        for name in options.only.split(","):
            results["models"][name] = {}
            for framework in options.frameworks.split(","):
                found = measure(name, framework, folder, rounds, counts)
                results["models"][name][framework] = found
                show(name, framework, found)
        if (folder / "mm-full.onnx").exists():
            results["server"] = measure_server(folder)
    results["policies"] = measure_policies(options.quick)
    print("\nload cost relative to LRU (TrIMS's models, Zipf 1)")
    for row, values in results["policies"]["relative_to_lru"].items():
        print(f"  {row:<12}" + "  ".join(f"{policy} {value:.2f}" for policy, value in values.items()))
    print()
    lines = judge(results)
    for what, figure, holds in lines:
        print(f"{'ok  ' if holds else 'MISS'}  {what}: {figure}")
    results["lines"] = [{"what": what, "figure": figure, "holds": holds} for what, figure, holds in lines]
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def show(name: str, framework: str, result: dict[str, Any]) -> None:
    """The figures of one model on one framework."""
    print(f"\n{name} on {framework}, {result['weights_mib']:.0f} MiB of weights")
    for count, memory in result["memory"].items():
        default = "" if memory["default_mib"] is None else f"default {memory['default_mib']:.0f}, "
        baseline, shared = memory["baseline_mib"], memory["shared_mib"]
        print(f"  {count} processes, sum of PSS in MiB: baseline {baseline:.0f}, {default}shared {shared:.0f}")
    for key, value in result["seconds"].items():
        print(f"  {key:<22}{value * 1e3:>9.1f} ms", flush=True)


def environment() -> dict[str, Any]:
    """What ran on what."""
    from stratoscope.host.capture import capture_hardware, capture_software

    software = capture_software(("onnxruntime", "torch", "transformers", "numpy", "stratoscope"))
    return {"hardware": capture_hardware().model_dump(mode="json"), "software": software.model_dump(mode="json")}


if __name__ == "__main__":
    main()
