"""Builds the C kernels where a compiler is at hand, once a machine, and calls them without copying anything."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stratoscope.host.cpu import cpuinfo
from stratoscope.host.files import KernelFiles
from stratoscope.measure.machine.probe import ProbeUnavailable, Repeat
from stratoscope.models.cache import cache_folder

#: -fno-tree-loop-distribute-patterns keeps a copy loop a loop: memcpy would choose its own stores by size.
FLAGS: Final = ("-O3", "-march=native", "-fno-tree-loop-distribute-patterns", "-fPIC", "-shared", "-pthread")
COMPILERS: Final = ("cc", "gcc", "clang")
TIMEOUT_S: Final = 60.0
#: Cache lines and the widest vectors are 64 bytes; a page keeps arrays from sharing one.
ALIGNMENT: Final = 4096

#: Numbers of the operations in kernels.c.
OPERATIONS: Final = {
    name: number
    for number, name in enumerate(
        ("copy", "scale", "add", "triad", "read", "copy_nt", "scale_nt", "add_nt", "triad_nt", "chase", "chain", "init")
    )
}

Doubles = NDArray[np.float64]


class _Result(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("wall_ns", "cpu_ns", "wait_ns", "involuntary")]


class Kernels:
    """The compiled kernels; each call releases the interpreter's lock and times itself in C."""

    def __init__(self, library: ctypes.CDLL, compiler: str) -> None:
        self.compiler = compiler
        pointer = ctypes.c_void_p
        library.so_run.argtypes = [
            *(ctypes.c_int, ctypes.c_int, pointer, pointer, pointer),
            *(ctypes.c_size_t, ctypes.c_int64, ctypes.c_int, pointer, ctypes.POINTER(_Result)),
        ]
        library.so_run.restype = ctypes.c_int
        library.so_chain_flops.argtypes, library.so_chain_flops.restype = [ctypes.c_int], ctypes.c_int64
        library.so_link.argtypes = [pointer, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint64, pointer]
        library.so_link.restype = None
        library.so_cycle.argtypes, library.so_cycle.restype = [pointer, ctypes.c_int64], ctypes.c_int64
        library.so_cursor.argtypes, library.so_cursor.restype = [], pointer
        library.so_fork_join.argtypes, library.so_fork_join.restype = [ctypes.c_int, ctypes.c_int64], ctypes.c_int64
        library.so_nothing.argtypes, library.so_nothing.restype = [], None
        self._library = library
        self.vector_bytes = int(library.so_vector_bytes())
        self.has_streaming_stores = bool(library.so_has_nt())

    def run(self, operation: str, arrays: Sequence[Doubles], n: int, repeats: int, cpus: Sequence[int]) -> Repeat:
        """Runs `operation` `repeats` times over the first `n` doubles of three arrays, one thread on each of `cpus`.

        Raises:
            ProbeUnavailable: a thread cannot be created.
        """
        return self._run(operation, 0, [array.ctypes.data for array in arrays], n, repeats, cpus)

    def chain(self, kind: int, rounds: int, cpus: Sequence[int]) -> Repeat:
        """Runs `rounds` rounds of the arithmetic chains of this kind, one thread on each of `cpus`."""
        return self._run("chain", kind, [None, None, None], 0, rounds, cpus)

    def chase(self, cursor: int, loads: int, cpus: Sequence[int]) -> tuple[Repeat, int]:
        """Follows a cycle from the address `cursor` for `loads` steps, rounded up to 8; also where it stopped."""
        took = self._run("chase", 0, [cursor, None, None], 0, loads, cpus)
        return took, int(self._library.so_cursor())

    def _run(
        self, operation: str, kind: int, addresses: list[int | None], n: int, repeats: int, cpus: Sequence[int]
    ) -> Repeat:
        result = _Result()
        numbers = (ctypes.c_int * len(cpus))(*cpus)
        failed = self._library.so_run(
            OPERATIONS[operation], kind, *addresses, n, repeats, len(cpus), numbers, ctypes.byref(result)
        )
        if failed:
            raise ProbeUnavailable(f"{len(cpus)} threads cannot be created: {os.strerror(failed)}")
        wait = None if result.wait_ns < 0 else int(result.wait_ns)
        return Repeat(max(1, int(result.wall_ns)), int(result.cpu_ns), wait, int(result.involuntary))

    def chain_flops(self, kind: int) -> int:
        """FLOPs of one round of the arithmetic chains of this kind; 0 where the CPU has no such instruction."""
        return int(self._library.so_chain_flops(kind))

    def link(self, memory: NDArray[np.uint8], lines: int, stride: int, seed: int) -> None:
        """Writes one random cycle through `lines` places, `stride` bytes apart, into `memory`."""
        order = np.empty(lines, np.uint32)
        self._library.so_link(memory.ctypes.data, lines, stride, seed, order.ctypes.data)

    def cycle(self, memory: NDArray[np.uint8], limit: int) -> int:
        """Steps until the cycle is back at its start, at most `limit`."""
        return int(self._library.so_cycle(memory.ctypes.data, limit))

    def fork_join(self, threads: int, repeats: int) -> int:
        """Nanoseconds of creating and joining `threads` threads `repeats` times; ProbeUnavailable where it fails."""
        took = int(self._library.so_fork_join(threads, repeats))
        if took < 0:
            raise ProbeUnavailable(f"{threads} threads cannot be created: {os.strerror(-took)}")
        return took

    def nothing(self) -> None:
        """A call that does nothing: what a call through ctypes costs."""
        self._library.so_nothing()


def aligned(size_bytes: int, offset: int = 0) -> NDArray[np.uint8]:
    """Untouched memory that begins `offset` bytes (below a page) into a page."""
    whole = np.empty(size_bytes + 2 * ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT + offset
    return whole[start : start + size_bytes]


def aligned_doubles(count: int, offset: int = 0) -> Doubles:
    """Untouched memory for `count` doubles that begins `offset` bytes into a page."""
    return aligned(8 * count, offset).view(np.float64)


def build_kernels(folder: Path | None = None) -> tuple[Kernels | None, str]:
    """The kernels, from the cache or compiled now; None with the reason where they cannot be had.

    The library's name is the digest of source, flags, compiler and CPU, so that an entry fits this machine. A file of
    another user is not loaded.
    """
    compiler = next((path for path in map(shutil.which, COMPILERS) if path is not None), None)
    if compiler is None:
        return None, "no C compiler on the PATH (cc, gcc or clang)"
    source = (files("stratoscope.measure.machine") / "kernels.c").read_bytes()
    try:
        version = _first_line([compiler, "--version"])
        kept = cache_folder(folder) / "kernels" / f"{_digest(source, version)}.so"
        if not _is_ours(kept):
            kept = _compile(compiler, source, kept)
        return Kernels(ctypes.CDLL(str(kept)), version), ""
    except subprocess.TimeoutExpired:
        return None, f"the C compiler {compiler} did not finish in {TIMEOUT_S:.0f} s"
    except (OSError, ProbeUnavailable) as error:
        return None, f"the C kernels cannot be built or loaded: {' '.join(str(error).split())[:200]}"


def _digest(source: bytes, version: str) -> str:
    info = cpuinfo(KernelFiles())
    cpu = "|".join(info.get(name, "") for name in ("model name", "flags", "CPU part", "Features"))
    return hashlib.sha256(b"\0".join((source, " ".join(FLAGS).encode(), version.encode(), cpu.encode()))).hexdigest()


def _is_ours(path: Path) -> bool:
    """Whether the file is there, is a regular one of this user, and nobody else can write it."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _compile(compiler: str, source: bytes, target: Path) -> Path:
    """Compiles beside `target` and moves the library into place; returns where it is."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as work:
        code, library = Path(work) / "kernels.c", Path(work) / "kernels.so"
        code.write_bytes(source)
        command = [compiler, *FLAGS, "-o", str(library), str(code)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if answer.returncode != 0:
            raise ProbeUnavailable(f"{Path(compiler).name} failed: {(answer.stderr or answer.stdout).strip()}")
        library.chmod(0o700)
        os.replace(library, target)
    return target


def _first_line(command: list[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return (answer.stdout or answer.stderr).partition("\n")[0].strip()
