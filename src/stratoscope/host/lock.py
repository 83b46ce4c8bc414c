"""One measurement at a time on a machine: a lock between processes that the kernel releases when its owner dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stratoscope.errors import MeasurementError

LOCK_VARIABLE = "STRATOSCOPE_LOCK"
LOCK_NAME = "stratoscope.lock"
_POLL_S = 0.1
_MAX_OWNER_BYTES = 400


@dataclass
class _Held:
    """The one lock of this process: which thread holds it and how often. Guarded by `mutex`."""

    mutex: threading.Lock = field(default_factory=threading.Lock)
    thread: int | None = None
    depth: int = 0


_held = _Held()


def lock_path() -> Path:
    """Where the lock lies: $STRATOSCOPE_LOCK, else /run/lock where everyone may write there, else /tmp.

    The choice depends on the machine and not on who asks, so that all users meet at one file.
    """
    chosen = os.environ.get(LOCK_VARIABLE)
    if chosen:
        return Path(chosen)
    run_lock = Path("/run/lock")
    with contextlib.suppress(OSError):
        if run_lock.stat().st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH:
            return run_lock / LOCK_NAME
    return Path("/tmp") / LOCK_NAME


@contextlib.contextmanager
def measurement_lock(
    wait: bool = True, timeout_s: float | None = None, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds the machine's measurement lock for the block; the thread that holds it may enter again.

    Args:
        wait: wait for the present owner to finish; False: fail at once.
        timeout_s: longest wait in seconds; None: as long as it takes.
        on_wait: called once, with a line that names the owner, when waiting begins.

    Raises:
        MeasurementError: the machine is busy and waiting was not asked for or took too long, or the lock's file
            cannot be used.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    me = threading.get_ident()
    if _held.thread == me:
        _held.depth += 1
        try:
            yield
        finally:
            _held.depth -= 1
        return
    descriptor = _acquire(lock_path(), wait, deadline, on_wait)
    owner_pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner_pid:  # a forked child that unwinds this block must not release its parent's lock
            _release(descriptor)


def _acquire(path: Path, wait: bool, deadline: float | None, on_wait: Callable[[str], None] | None) -> int:
    """An open descriptor that holds the lock; this process's note is in the file."""
    descriptor = _open(path)
    told = False
    try:
        while not _try_lock(descriptor):
            owner = _owner(descriptor)
            busy = f"a measurement is running on this machine, by {owner} (lock {path})"
            if not wait or (deadline is not None and time.monotonic() >= deadline):
                raise MeasurementError(
                    busy if not wait else f"{busy}, and did not end in time",
                    hint="wait for it, end that process, or set STRATOSCOPE_LOCK to another file to measure anyway",
                )
            if not told and on_wait is not None:
                on_wait(f"waiting: {busy}")
                told = True
            time.sleep(_POLL_S if deadline is None else max(0.0, min(_POLL_S, deadline - time.monotonic())))
        _note_owner(descriptor, path)
    except BaseException:
        _unlock_if_ours(descriptor)
        raise
    return descriptor


def _try_lock(descriptor: int) -> bool:
    """Takes the lock for this thread, first within the process, then between processes; False where either is taken."""
    with _held.mutex:
        if _held.thread is not None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _held.thread, _held.depth = threading.get_ident(), 1
        return True


def _unlock_if_ours(descriptor: int) -> None:
    with _held.mutex:
        if _held.thread == threading.get_ident():
            _held.thread, _held.depth = None, 0
    os.close(descriptor)


def _release(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # explicitly: a forked child may keep a copy of the descriptor open
    _unlock_if_ours(descriptor)


def _open(path: Path) -> int:
    """The lock's file, open for writing; created for all users. Symbolic links and special files are refused.

    An existing file is opened without O_CREAT: kernels with fs.protected_regular refuse O_CREAT on another user's
    file in a sticky folder.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            try:
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # the umask narrowed it; other users must be able to take the lock
            except FileExistsError:  # another process was faster
                descriptor = os.open(path, flags)
    except OSError as error:
        what = "is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise MeasurementError(
            f"cannot use the measurement lock {path}: {what}",
            hint=f"set {LOCK_VARIABLE} to a file that every user of this machine may write",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise MeasurementError(
            f"cannot use the measurement lock {path}: it is not a regular file", hint=f"set {LOCK_VARIABLE} to one"
        )
    return descriptor


def _note_owner(descriptor: int, path: Path) -> None:
    """Writes who holds the lock, for the message that others get."""
    command = shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}: {command}"[:_MAX_OWNER_BYTES].encode(errors="replace"), 0)
    except OSError as error:
        raise MeasurementError(
            f"cannot write the measurement lock {path}: {error.strerror}",
            hint=f"free some space, or set {LOCK_VARIABLE} to another file",
        ) from error


def _owner(descriptor: int) -> str:
    """What the owner wrote, fit for a terminal: the file may have been written by another user."""
    text = os.pread(descriptor, _MAX_OWNER_BYTES, 0).decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text) or "a process that did not leave its name"
