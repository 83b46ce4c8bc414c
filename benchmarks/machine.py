"""The roofs of `stratoscope machine` beside C STREAM and the libraries' own timers; and whether two runs agree.

    python benchmarks/machine.py [--rounds 12] [--budget 60] [--json FILE]

STREAM: ours (`c`: plain stores, `c-nt`: streaming stores; NumPy's memory, which is in huge pages where the kernel gives
them) beside benchmarks/peers/stream.c, which is compiled here with OpenMP, once as STREAM is (static arrays) and once
in huge pages; same size (each array four times the last cache), in turns. GEMM: ours beside `timeit` for NumPy and
`torch.utils.benchmark` for PyTorch (MKL and oneDNN), in turns. Printed: medians and bests, the ratio of medians (ours
over the peer) with its 95 % interval, and which of both is the better roof. Then `stratoscope machine` runs twice, and
the medians' intervals are compared. With --budget 0 the last part is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stratoscope.host.capture import capture_hardware, capture_software
from stratoscope.host.lock import measurement_lock
from stratoscope.measure.machine.bandwidth import StreamProbe
from stratoscope.measure.machine.characterize import FRAMEWORKS, Request, characterize, make_setting
from stratoscope.measure.machine.gemm import GemmProbe
from stratoscope.measure.machine.probe import Case, Setting
from stratoscope.stats.bootstrap import ratio_interval
from stratoscope.store.machine_comparison import compare_machines

PEERS = Path(__file__).resolve().parent / "peers"
#: Ours is the same as the peer's within this.
TOLERANCE = 0.05
_PRODUCTS = (
    ("numpy", "mm", "fp32"),
    ("numpy", "mm", "fp64"),
    ("torch", "mm", "fp32"),
    ("torch", "packed", "fp32"),
    ("torch", "mm", "bf16"),
    ("torch", "mm", "int8"),
)
_SIZE = 1024


@dataclass
class Pair:
    """Seconds of one operation by both, by method, and the work that makes them rates."""

    name: str
    work: float
    unit: str
    ours: dict[str, list[float]] = field(default_factory=dict)
    peer: dict[str, list[float]] = field(default_factory=dict)

    def report(self, mine: str | None = None, theirs: str | None = None) -> dict[str, Any]:
        """Medians, bests, ratio and verdict, of one method each or of the best by its median."""
        mine = mine or min(self.ours, key=lambda name: float(np.median(self.ours[name])))
        theirs = theirs or min(self.peer, key=lambda name: float(np.median(self.peer[name])))
        ours, peer = np.array(self.ours[mine]), np.array(self.peer[theirs])
        low, high = ratio_interval(ours, peer, 0.95)  # of rates: the peer's time over ours
        ratio = float(np.median(peer) / np.median(ours))
        apart = "no" if ratio < 1 - TOLERANCE else f"above by {ratio - 1:.0%}"
        covered = low <= 1 + TOLERANCE and high >= 1 - TOLERANCE
        return {
            "name": self.name,
            "ours": mine,
            "peer": theirs,
            "unit": self.unit,
            "ours_median": self.work / float(np.median(ours)),
            "peer_median": self.work / float(np.median(peer)),
            "ours_best": self.work / float(ours.min()),
            "peer_best": self.work / float(peer.min()),
            "ratio": ratio,
            "ratio_low": low,
            "ratio_high": high,
            "best_ratio": float(peer.min() / ours.min()),
            "better_roof": "ours" if ratio >= 1 else "peer",
            "within": "yes" if abs(ratio - 1) <= TOLERANCE else "interval covers it" if covered else apart,
        }


@contextmanager
def peer_stream(
    setting: Setting, threads: int, count: int
) -> Iterator[dict[str, Callable[[], dict[str, list[float]]]]]:
    """Compiles the peer, as STREAM is and with huge pages; each function runs it and gives seconds by kernel."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("no C compiler: the peer cannot be built")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-O3", "-march=native", "-fopenmp", f"-DSTREAM_ARRAY_SIZE={count}", "-DNTIMES=4"]
        if platform.machine() == "x86_64":
            flags.append("-mcmodel=medium")  # static arrays beyond 2 GiB
        places = ",".join(f"{{{cpu}}}" for cpu in setting.cpus[:threads])
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_PLACES": places, "OMP_PROC_BIND": "true"}
        runs: dict[str, Callable[[], dict[str, list[float]]]] = {}
        for name, define in (("static", []), ("huge", ["-DHUGE_PAGES"])):
            program = Path(folder) / name
            command = [compiler, *flags, *define, str(PEERS / "stream.c"), "-o", str(program)]
            subprocess.run(command, check=True)
            runs[name] = partial(run_peer, program, environment)
        yield runs


def run_peer(program: Path, environment: dict[str, str]) -> dict[str, list[float]]:
    """One run of the peer: seconds of each kernel's passes."""
    text = subprocess.run([str(program)], check=True, capture_output=True, text=True, env=environment).stdout
    return {row[0]: [float(value) for value in row[2:]] for row in map(str.split, text.splitlines())}


def stream(setting: Setting, rounds: int) -> list[Pair]:
    """All four kernels in memory on one thread and on all."""
    cases = [case for case in StreamProbe().register(setting) if case.parameters["level"] == "memory"]
    cases = [case for case in cases if case.parameters["method"] != "numpy" and kernel_of(case) != "read"]
    pairs: list[Pair] = []
    for threads in setting.thread_counts:
        chosen = [case for case in cases if case.parameters["threads"] == threads]
        by_kernel = {kernel_of(c): Pair(f"{kernel_of(c)} x{threads}", c.bytes or 0.0, "byte/s") for c in chosen}
        stream_rounds(setting, threads, chosen, by_kernel, rounds)
        pairs += by_kernel.values()
    return pairs


def kernel_of(case: Case) -> str:
    """copy, scale, add, triad or read."""
    return case.family.rpartition("/")[2]


def stream_rounds(setting: Setting, threads: int, cases: list[Case], by_kernel: dict[str, Pair], rounds: int) -> None:
    """Three passes of each of ours and of the peer's programs in each round, in random order."""
    count = int(cases[0].parameters["bytes"]) // 16
    probe = StreamProbe()
    with ExitStack() as stack:
        peers = stack.enter_context(peer_stream(setting, threads, count))
        ready = [(case, stack.enter_context(probe.run(case, setting)).operate) for case in cases]
        for _ in range(rounds):
            turn: list[Any] = [*ready, *peers]
            random.shuffle(turn)
            for item in turn:
                if isinstance(item, str):
                    for kernel, seconds in peers[item]().items():
                        by_kernel[kernel].peer.setdefault(item, []).extend(seconds)
                    continue
                case, operate = item
                samples = by_kernel[kernel_of(case)].ours.setdefault(str(case.parameters["method"]), [])
                operate(1)
                samples += [operate(1).wall_ns * 1e-9 for _ in range(3)]


class GemmPeer:
    """The peer's process for one library and thread count."""

    def __init__(self, library: str, threads: int) -> None:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self._process = subprocess.Popen(
            [sys.executable, str(PEERS / "gemm.py"), library, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict.fromkeys(names, str(threads))},
        )

    def seconds(self, kind: str, dtype: str, n: int, calls: int) -> float:
        """Seconds of one product."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind} {dtype} {n} {calls}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def gemm(setting: Setting, rounds: int) -> list[Pair]:
    """Each library's product of 1024 x 1024 matrices, on one thread and on all."""
    probe = GemmProbe()
    cases: dict[tuple[str, str, str, int], Case] = {
        (str(p["library"]), str(p["kind"]), str(p["dtype"]), int(p["threads"])): case
        for case in probe.register(setting)
        if (p := case.parameters)["n"] == _SIZE
    }
    pairs: list[Pair] = []
    with ExitStack() as stack:
        peers = {(lib, t): GemmPeer(lib, t) for lib in ("numpy", "torch") for t in setting.thread_counts}
        for peer in peers.values():
            stack.callback(peer.close)
        ready = []
        for library, kind, dtype in _PRODUCTS:
            for threads in setting.thread_counts:
                operate = stack.enter_context(probe.run(cases[library, kind, dtype, threads], setting)).operate
                pair = Pair(
                    f"{library} {kind} {dtype} x{threads}", 2.0 * _SIZE**3, "FLOP/s", {"worker": []}, {"timer": []}
                )
                pairs.append(pair)
                ready.append((pair, operate, peers[library, threads], kind, dtype))
        for _ in range(rounds):
            random.shuffle(ready)
            for pair, operate, peer, kind, dtype in ready:
                calls = 2
                both = [0, 1]
                random.shuffle(both)
                for which in both:
                    if which:
                        pair.peer["timer"].append(peer.seconds(kind, dtype, _SIZE, calls))
                    else:
                        operate(1)
                        pair.ours["worker"].append(operate(calls).wall_ns * 1e-9 / calls)
    return pairs


def repeatability(budget_s: float) -> dict[str, Any]:
    """Two runs of the whole quick set, and how many medians' intervals overlap."""
    first, second = (characterize(Request(budget_s=budget_s)) for _ in range(2))
    comparison = compare_machines(first, second)
    apart = [row for row in comparison.rows if row.overlap == "no"]
    apart.sort(key=lambda row: -abs(np.log(row.comparison.ratio.value or 1.0)))
    return {
        "budget_s": budget_s,
        "benchmarks": len(comparison.rows),
        "judged": comparison.judged,
        "overlapping": comparison.overlapping,
        "quiet": [first.noise.quiet, second.noise.quiet],
        "noise": [first.noise.reason, second.noise.reason],
        "apart": {row.name: row.comparison.ratio.value for row in apart},
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints a table in GB/s or GFLOP/s."""
    print(f"\n{title}: median (best), 1e9 {rows[0]['unit']}")
    for row in rows:
        ours = f"ours {row['ours_median'] / 1e9:7.1f} ({row['ours_best'] / 1e9:7.1f}) {row['ours']:6s}"
        peer = f"peer {row['peer_median'] / 1e9:7.1f} ({row['peer_best'] / 1e9:7.1f}) {row['peer']:6s}"
        ratio = f"ours / peer {row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"
        verdict = f"within 5 %: {row['within']}; better roof: {row['better_roof']}"
        print(f"{row['name']:22s} {ours}  {peer}  {ratio} best {row['best_ratio']:.3f}  {verdict}")


def main() -> None:
    """Runs all and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each of the two runs; 0: none")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    hardware, software = capture_hardware(), capture_software(FRAMEWORKS)
    with measurement_lock(), make_setting(hardware, Request(), lambda text, share: None) as setting:
        if setting.kernels is None:
            raise SystemExit(setting.no_kernels)
        pairs = stream(setting, arguments.rounds)
        same = [pair.report("c", "huge") for pair in pairs]
        roofs = [pair.report() for pair in pairs]
        products = [pair.report() for pair in gemm(setting, arguments.rounds)]
    show("STREAM in memory, the same loop (plain stores, huge pages)", same)
    show("STREAM in memory, the roof: the best method of each", roofs)
    show(f"GEMM, n = {_SIZE}", products)
    agreement = repeatability(arguments.budget) if arguments.budget else None
    if agreement is not None:
        share = agreement["overlapping"] / max(1, agreement["judged"])
        print(
            f"\ntwo runs of {arguments.budget:g} s: intervals overlap in {agreement['overlapping']} of "
            f"{agreement['judged']} benchmarks ({share:.0%}); quiet: {agreement['quiet']}"
        )
        for name, ratio in agreement["apart"].items():
            print(f"  apart: {name}  time ratio {ratio:.3f}")
    if arguments.json:
        document = {
            "stream_same_loop": same,
            "stream_roof": roofs,
            "gemm": products,
            "repeatability": agreement,
            "hardware": hardware.model_dump(mode="json", by_alias=True),
            "software": software.model_dump(mode="json", by_alias=True),
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
