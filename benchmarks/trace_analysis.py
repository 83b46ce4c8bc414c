"""Analysing a large Kineto trace, beside HolisticTraceAnalysis (HTA) on the same file.

    python benchmarks/trace_analysis.py [TRACE] [--events 1e6 5e6] [--peer-python PYTHON] [--rounds 3 1] [--json FILE]

Repeats TRACE (Kineto JSON, plain or .gz; one with launches, copies and two streams is made up where none is given),
with shifted times and correlation ids, until it has as many events, and on that file takes in turns, each in a process
of its own: load + kernel breakdown + temporal breakdown + idle time of ours, and the same of HTA in the environment of
PYTHON (benchmarks/peers/hta-requirements.txt). Time is from the open file to the last answer, imports not counted;
memory is the process's peak. CPU time of the process is given beside, as on a machine that others use only that says
much.

Beside that, once more apart from the peer: the parents of all spans of the file (`trace.correlate.assign_parents`),
for which a million spans should take less than a second.

Answers are compared twice. HTA reads times into float64 microseconds and rounds starts up and ends down to whole ones;
given the same rounded times, our figures must be equal to the microsecond. With exact times, they must lie within what
that rounding can do: two microseconds a span.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stratoscope.explain.trace_device import (
    device_work,
    kernel_breakdown,
    temporal_breakdown,
    type_breakdown,
    whole_steps,
)
from stratoscope.explain.trace_idle import idle_breakdown
from stratoscope.host.capture import capture_hardware, capture_software
from stratoscope.trace.correlate import assign_parents
from stratoscope.trace.importers import ImportedTrace, import_trace

PEER_CHILD = Path(__file__).resolve().parent / "peers" / "hta_child.py"
NUMBERS = re.compile(rb'"(ts|correlation|External id|id)"(?:\s*:\s*)(\d+)|ProfilerStep#(\d+)')
STEPS = ("load", "kernels", "temporal", "idle")


def repeated(source: Path, target: Path, events: int) -> int:
    """Writes `source`, repeated one after the other, with at least `events` events; returns their number."""
    text = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    begin = text.index(b"[", text.index(b'"traceEvents"')) + 1
    spans = import_trace(source, attributes=False)
    # Where the array ends: after the last event that has a phase.
    end = text.index(b"]", text.rindex(b'"ph"'))
    body, count = text[begin:end].rstrip(), spans.report.records
    period = int(spans.spans["end_ns"].max() - spans.spans["start_ns"].min()) // 1000 + 1000
    pieces, kinds, values, at = [], [], [], 0
    for match in NUMBERS.finditer(body):
        group = 3 if match[3] else 2
        pieces.append(body[at : match.start(group)])
        kinds.append({b"ts": 0, None: 2}.get(match[1], 1))
        values.append(int(match[group]))
        at = match.end(group)
    numbers, kind = np.array(values), np.array(kinds)
    strides = [int(numbers[kind == one].max(initial=0)) + 1 for one in range(3)]
    stride = np.array([period, strides[1], strides[2]])[kind]
    copies = -(-events // count)
    with target.open("wb") as file:
        file.write(text[:begin])
        for copy in range(copies):
            shifted = (numbers + copy * stride).tolist()
            parts = [part for piece, number in zip(pieces, shifted, strict=True) for part in (piece, b"%d" % number)]
            file.write((b"," if copy else b"") + b"".join(parts) + body[at:])
        file.write(text[end:])
    return copies * count


def made_up(target: Path, steps: int = 12) -> None:
    """A Kineto trace of training steps: operators, launches, kernels on two streams, copies, all-reduces, arrows."""
    random.seed(0)
    events: list[dict[str, Any]] = []
    now, correlation, busy = 5_000_000_000.0, 1, {7: 0.0, 20: 0.0}

    def event(category: str, name: str, pid: int, tid: int, start: float, length: float, **args: Any) -> None:
        events.append(
            {
                **{"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid},
                **{"ts": round(start, 3), "dur": round(length, 3), "args": args},
            }
        )

    for step in range(steps):
        first = now
        for _ in range(400):
            stream, kind = random.choices([(7, "kernel"), (7, "gpu_memcpy"), (20, "nccl")], [12, 1, 1])[0]
            call = random.uniform(3, 9)
            name = {
                "kernel": f"void kernel_{random.randrange(60)}<float>(float*)",
                "gpu_memcpy": "Memcpy DtoD (Device -> Device)",
                "nccl": "ncclDevKernel_AllReduce_Sum_f32_RING_LL",
            }[kind]
            event("cpu_op", f"aten::op_{random.randrange(40)}", 100, 100, now, call + 6, **{"External id": correlation})
            event("cuda_runtime", "cudaLaunchKernel", 100, 100, now + 3, call, correlation=correlation)
            start = max(now + 3 + call + 4, busy[stream] + random.choice([0.8, 1.2, 45.0]))
            length = random.expovariate(1 / 12) + 1.5
            category = "gpu_memcpy" if kind == "gpu_memcpy" else "kernel"
            event(category, name, 0, stream, start, length, stream=stream, correlation=correlation, device=0)
            for phase, place, time_us in (("s", 100, now + 3), ("f", stream, start)):
                pid = 100 if phase == "s" else 0
                arrow = {"ph": phase, "id": correlation, "pid": pid, "tid": place, "ts": round(time_us, 3)}
                events.append({**arrow, "cat": "ac2g", "name": "ac2g", "bp": "e"})
            busy[stream] = start + length
            correlation += 1
            now += call + 6 + random.uniform(1, 10)
        event("user_annotation", f"ProfilerStep#{step}", 100, 100, first - 1, now - first)
        now += 50
    document = {"schemaVersion": 1, "deviceProperties": [], "baseTimeNanoseconds": 0, "traceEvents": events}
    target.write_text(json.dumps(document))


def analyse(path: Path) -> dict[str, Any]:
    """Our answers, the seconds of each step, and the peak of the memory."""
    times, cpu = [time.perf_counter()], time.process_time()
    trace = import_trace(path, attributes=False)
    times.append(time.perf_counter())
    spans = whole_steps(trace.spans)
    kernels, types = kernel_breakdown(spans), type_breakdown(spans)
    times.append(time.perf_counter())
    temporal = temporal_breakdown(spans)
    times.append(time.perf_counter())
    idle = idle_breakdown(spans)
    times.append(time.perf_counter())
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {step: after - before for step, before, after in zip(STEPS, times, times[1:], strict=False)}
    begun = time.perf_counter()
    placed = assign_parents(trace.spans)
    parents_s = time.perf_counter() - begun
    return {
        "parents_s": parents_s,
        "spans": placed.height,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_bytes": peak,
        "exact": answers(trace, kernels, types, temporal, idle),
        "rounded": rounded_answers(trace),
        "kernel_calls": device_work(spans).height,
        "events": trace.report.records,
    }


def answers(trace: ImportedTrace, kernels: pl.DataFrame, types: pl.DataFrame, temporal: Any, idle: Any) -> Any:
    """Figures under HTA's names, in microseconds."""
    streams = dict(trace.tracks.select("track", "stream").iter_rows())
    return {
        "kernels": dict(zip(kernels["name"], (kernels["sum_ns"] / 1000).to_list(), strict=True)),
        "types": dict(zip(types["types"], (types["time_ns"] / 1000).to_list(), strict=True)),
        "temporal": {
            "idle_time(us)": temporal.idle_ns / 1000,
            "compute_time(us)": temporal.compute_ns / 1000,
            "non_compute_time(us)": temporal.non_compute_ns / 1000,
            "kernel_time(us)": temporal.total_ns / 1000,
        },
        "idle": [
            [streams[track], cause.replace(" ", "_"), time_ns / 1000]
            for track, cause, time_ns in idle.select("track", "cause", "idle_ns").iter_rows()
        ],
    }


def rounded_answers(trace: ImportedTrace) -> Any:
    """Our answers on the times that HTA sees: float64 microseconds, starts rounded up and ends down."""
    start_ns = trace.spans["start_ns"].to_numpy()
    if not (start_ns % 1000).any():
        return answers(trace, *everything(whole_steps(trace.spans)))
    start = start_ns // 1000 + start_ns % 1000 / 1000
    length = (trace.spans["end_ns"] - trace.spans["start_ns"]).to_numpy() / 1000
    end = np.floor(start + length).astype(np.int64) * 1000
    rounded = trace.spans.with_columns(
        start_ns=pl.Series(np.ceil(start).astype(np.int64) * 1000), end_ns=pl.Series(end)
    )
    return answers(trace, *everything(whole_steps(rounded)))


def everything(spans: pl.DataFrame) -> tuple[Any, ...]:
    """The four analyses."""
    return kernel_breakdown(spans), type_breakdown(spans), temporal_breakdown(spans), idle_breakdown(spans)


def differences(ours: Any, theirs: Any, allowed_us: float) -> list[str]:
    """Where two sets of answers differ by more than `allowed_us`; empty where they agree."""
    found = []
    pairs = {f"kernel {name[:60]}": (ours["kernels"].get(name), us) for name, us in theirs["kernels"].items()}
    pairs |= {key: (value, theirs["temporal"][key]) for key, value in ours["temporal"].items()}
    names = {key: " + ".join(sorted(key.split(" + "))).lower() for key in ours["types"]}
    typed = {names[key]: value for key, value in ours["types"].items()}
    pairs |= {
        f"type {key}": (typed.get(" + ".join(sorted(key.lower().split(" overlapping "))), 0.0), us)
        for key, us in theirs["types"].items()
    }
    causes = {(stream, cause): us for stream, cause, us in ours["idle"]}
    pairs |= {f"idle {s} {cause}": (causes.get((s, cause), 0.0), us) for s, cause, us in theirs["idle"]}
    if len(ours["kernels"]) != len(theirs["kernels"]):
        found.append(f"{len(ours['kernels'])} kernels where HTA has {len(theirs['kernels'])}")
    for name, (mine, other) in pairs.items():
        if mine is None or abs(mine - other) > allowed_us:
            found.append(f"{name}: {mine} us where HTA has {other} us")
    return found


def child(command: list[str]) -> dict[str, Any]:
    """The result that a child process prints."""
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return dict(json.loads(line.removeprefix("RESULT ")))


def compare(path: Path, events: int, rounds: int, peer_python: str | None) -> dict[str, Any]:
    """Both tools in turns on one file."""
    arms = {"stratoscope": [sys.executable, __file__, str(path), "--child"]}
    if peer_python:
        arms["hta"] = [peer_python, str(PEER_CHILD), str(path)]
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    order = random.Random(0)
    for _ in range(rounds):
        for arm in order.sample(list(arms), k=len(arms)):
            runs[arm].append(child(arms[arm]))
    row: dict[str, Any] = {"events": events, "bytes": path.stat().st_size, "rounds": rounds}
    for arm, results in runs.items():
        totals = [sum(one["seconds"].values()) for one in results]
        steps = {step: statistics.median(one["seconds"][step] for one in results) for step in STEPS}
        peak = statistics.median(one["peak_bytes"] for one in results)
        cpu = [one["cpu_seconds"] for one in results]
        row[arm] = {"seconds": statistics.median(totals), "all_seconds": totals, "steps": steps, "peak_bytes": peak}
        row[arm] |= {"cpu_seconds": statistics.median(cpu), "all_cpu_seconds": cpu}
        told = "  ".join(f"{step} {seconds:.3f}" for step, seconds in steps.items())
        print(
            f"{arm:12} {row[arm]['seconds']:8.3f} s ({row[arm]['cpu_seconds']:.3f} s of CPU)   {told}   "
            f"peak {peak / 1e6:7.0f} MB"
        )
    ours = runs["stratoscope"]
    row["spans"] = ours[0]["spans"]
    row["parents_s"] = statistics.median(one["parents_s"] for one in ours)
    each = row["parents_s"] / row["spans"] * 1e6
    print(f"parents of {row['spans']} spans: {row['parents_s']:.3f} s, {each:.3f} s a million (asked: below 1)")
    if peer_python:
        judge(row, ours[0], runs["hta"][0])
    return row


def judge(row: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Adds ratios and the comparison of the answers."""
    row["times_faster"] = row["hta"]["seconds"] / row["stratoscope"]["seconds"]
    row["times_less_cpu"] = row["hta"]["cpu_seconds"] / row["stratoscope"]["cpu_seconds"]
    row["memory_ratio"] = row["stratoscope"]["peak_bytes"] / row["hta"]["peak_bytes"]
    # Sums of float64 microseconds of the epoch lose a quarter of one now and then.
    row["differences_at_equal_rounding"] = differences(ours["rounded"], theirs, 0.5)
    row["differences_of_exact_times"] = differences(ours["exact"], theirs, 2.0 * ours["kernel_calls"])
    exact, rounded = ours["exact"]["temporal"], theirs["temporal"]
    row["rounding_error_of_hta"] = {key: (rounded[key] - value) / max(value, 1e-9) for key, value in exact.items()}
    print(
        f"{row['times_faster']:.1f}x faster, {row['times_less_cpu']:.1f}x less CPU, "
        f"{row['memory_ratio']:.2f} of the memory"
    )
    for what in ("differences_at_equal_rounding", "differences_of_exact_times"):
        print(f"{what.replace('_', ' ')}: {len(row[what])}", *row[what][:5], sep="\n  ")
    print("what HTA's rounding does:", {key: f"{share:+.2%}" for key, share in row["rounding_error_of_hta"].items()})


def main() -> None:
    """Parses the arguments, makes the files, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--events", nargs="*", type=float, default=[1e6, 5e6])
    parser.add_argument("--rounds", nargs="+", type=int, default=[3, 1], help="for each of --events; the last repeats")
    parser.add_argument("--peer-python")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("RESULT " + json.dumps(analyse(options.trace)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = options.trace or Path(folder) / "made_up.json"
        if options.trace is None:
            made_up(source)
        rows = []
        for number, events in enumerate(options.events):
            target = Path(folder) / "repeated.json"
            count = repeated(source, target, int(events))
            print(f"{count} events, {target.stat().st_size / 1e6:.0f} MB, from {source.name}")
            rounds = options.rounds[min(number, len(options.rounds) - 1)]
            rows.append({"source": source.name, **compare(target, count, rounds, options.peer_python)})
    if options.json:
        environment = {
            "hardware": capture_hardware().model_dump(mode="json"),
            "software": capture_software().model_dump(mode="json"),
        }
        record = {"schema": 1, "peer": "HolisticTraceAnalysis 0.5.0", "environment": environment, "results": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
