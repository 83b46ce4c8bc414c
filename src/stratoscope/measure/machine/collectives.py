"""Probe of collectives between processes: time, algorithm and bus bandwidth over sizes, with gloo or NCCL.

Bus bandwidth is nccl-tests' (doc/PERFORMANCE.md): the algorithm bandwidth, size over time, times a factor that makes it
comparable with the speed of one link whatever the number of ranks.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from stratoscope.measure.machine.gpu import device_count
from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Repeat, Setting
from stratoscope.measure.machine.workers import ANSWER_S, LIBRARIES

OPERATIONS: Final = ("all_reduce", "all_gather", "all_to_all", "broadcast")
SIZES: Final = (4 << 10, 256 << 10, 4 << 20)
SIZES_FULL: Final = tuple(1 << power for power in range(10, 27, 2))
#: Ranks on one machine's CPUs: enough to be a collective, few enough to leave each a CPU.
MOST_RANKS: Final = 4


def bus_factor(operation: str, ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth (nccl-tests, doc/PERFORMANCE.md, "Summary").

    `size` is, as there, the buffer of each rank for all-reduce and broadcast, and the whole of all ranks' parts for
    all-gather and all-to-all.
    """
    if operation == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if operation in {"all_gather", "all_to_all", "reduce_scatter"}:
        return (ranks - 1) / ranks
    if operation == "broadcast":
        return 1.0
    raise ValueError(f"no bus bandwidth is defined for {operation!r}")


class CollectiveProbe:
    """Collectives over gloo between processes of this machine, and over NCCL between its GPUs."""

    name = "collective"
    title = "collectives over gloo (and NCCL where there are several GPUs): bus bandwidth over sizes"

    def check(self, setting: Setting) -> str | None:
        """Needs PyTorch, memory for its processes, and a second rank."""
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed"
        needed = 2 * LIBRARIES["torch"]
        if needed > setting.memory_bytes:
            return f"two processes with torch take {needed >> 20} MiB; probes may use {setting.memory_bytes >> 20}"
        return None

    def register(self, setting: Setting) -> Iterable[Case]:
        """Each collective at each size; two ranks where there is one CPU, which they then share."""
        ranks = max(2, min(MOST_RANKS, len(setting.cpus)))
        note = f"{ranks} ranks share {len(setting.cpus)} CPU" if len(setting.cpus) < ranks else ""
        devices, _ = device_count(setting)
        groups = [("gloo", ranks, note), *([("nccl", devices, "")] if devices > 1 else [])]
        for backend, members, remark in groups:
            for operation in OPERATIONS:
                for size in SIZES_FULL if setting.full else SIZES:
                    if 3 * size * members <= setting.memory_bytes // 4:
                        yield _case(backend, operation, members, size, remark)

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation is one collective; the figure is its bus bandwidth. The ranks stay for the next case."""
        backend, ranks = str(case.parameters["backend"]), int(case.parameters["ranks"])
        group = setting.groups.get(backend, ranks)
        question = {"operation": case.family.rpartition("/")[2], "bytes": case.parameters["bytes"]}
        group.ask({**question, "iterations": 1})
        yield Prepared(lambda iterations: group.ask({**question, "iterations": iterations}))


def _case(backend: str, operation: str, ranks: int, size: int, note: str) -> Case:
    return Case(
        family=f"collective/{operation}",
        parameters={"backend": backend, "ranks": ranks, "bytes": size},
        unit="byte/s",
        bytes=size * bus_factor(operation, ranks),
        memory_bytes=3 * size * ranks,
        priority=4,
        note=note,
    )


class Groups:
    """Process groups by back end and size, started when first needed and kept until `close`."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, int], Group] = {}

    def get(self, backend: str, ranks: int) -> Group:
        """The group; a new one where there is none or it has died."""
        known = self._groups.get((backend, ranks))
        if known is None or not known.alive:
            if known is not None:
                known.close()
            known = self._groups[backend, ranks] = Group(backend, ranks)
        return known

    def close(self) -> None:
        """Ends all groups."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()


class Group:
    """Processes that make one torch.distributed group; rank 0 answers."""

    def __init__(self, backend: str, ranks: int, timeout_s: float = ANSWER_S) -> None:
        self._timeout_s = timeout_s
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stratoscope-group-"))
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        module = "stratoscope.measure.machine.collective_worker"
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, backend, str(rank), str(ranks), str(Path(folder) / "meeting")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to handle: a rank ends when its input does
            )
            for rank in range(ranks)
        ]

    @property
    def alive(self) -> bool:
        """Whether all ranks still run."""
        return all(process.poll() is None for process in self._processes)

    def ask(self, question: dict[str, Any]) -> Repeat:
        """Has all ranks do the same, and returns rank 0's repeat; ProbeUnavailable where a rank fails or is silent."""
        line = json.dumps(question).encode() + b"\n"
        answers = []
        for process in self._processes:
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except OSError:
                raise ProbeUnavailable("a rank of the process group ended") from None
        for rank, process in enumerate(self._processes):
            assert process.stdout is not None
            if not select.select([process.stdout], [], [], self._timeout_s)[0]:
                self.close()
                raise ProbeUnavailable(f"rank {rank} did not answer in {self._timeout_s:.0f} s")
            text = process.stdout.readline()
            if not text:
                self.close()
                raise ProbeUnavailable(f"rank {rank} of the process group ended")
            answers.append(json.loads(text))
        failed = [answer["error"] for answer in answers if "error" in answer]
        if failed:
            raise ProbeUnavailable(str(failed[0]))
        return Repeat(*answers[0]["ok"])

    def close(self) -> None:
        """Ends the ranks; may be called twice."""
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        for process in self._processes:
            process.terminate()
            process.wait()
        self._stack.close()
