"""Maps a file or a memory descriptor read-only, for as long as an array over it lives."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from pathlib import Path
from typing import Final

from stratoscope.share.errors import IntegrityError, ShareError, clear_errors

#: Kernel constants that Python 3.11 does not name (linux/fcntl.h, mman.h).
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1, 2, 4, 8
ALL_SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
_MADV_POPULATE_READ: Final = 22
_COPY_BYTES: Final = 16 << 20


def open_inside(folder: Path, name: str) -> int:
    """A read-only descriptor of the plain file `name` in `folder`; links and other places are refused."""
    if name != os.path.basename(name) or name in ("", ".", ".."):
        raise IntegrityError(f"{name!r} is not a file in {folder}", hint="prepare the model again")
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise IntegrityError(
            f"cannot open {folder / name}: {error.strerror}", hint="evict the model and prepare it again"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{folder / name} is not a plain file", hint="evict the model and prepare it again")
    return descriptor


def map_descriptor(descriptor: int, nbytes: int, what: str, *, private: bool = False) -> memoryview:
    """The first `nbytes` behind `descriptor`, shared and read-only; unmapped when the last array over it goes.

    With `private` pages can be written, and a page that is becomes this process's own: for frameworks that know no
    read-only memory, where a write would end the process. The descriptor may be closed afterwards.

    Raises:
        IntegrityError: there are fewer bytes than that.
        ShareError: the system refuses.
    """
    size = os.fstat(descriptor).st_size
    if size < nbytes:
        raise IntegrityError(
            f"{what} has {size} bytes where {nbytes} are expected: it was cut off",
            hint="evict the model and prepare it again",
        )
    if nbytes == 0:
        return memoryview(b"")
    with clear_errors("map", what):
        flags, access = (mmap.MAP_PRIVATE, mmap.PROT_WRITE) if private else (mmap.MAP_SHARED, 0)
        mapped = mmap.mmap(descriptor, nbytes, flags=flags, prot=mmap.PROT_READ | access)
    return memoryview(mapped)


def populate(buffer: memoryview) -> None:
    """Enters all pages of a mapping in the page table at once, which costs a tenth of as many faults.

    Pages that are not in memory yet are read as huge ones where the kernel and the file system have them: 384 MiB that
    are mapped again afterwards take 0.3 ms instead of 20.
    """
    mapped = buffer.obj
    if isinstance(mapped, mmap.mmap):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
        try:
            mapped.madvise(_MADV_POPULATE_READ)
        except OSError:  # a kernel before 5.14: the pages come one by one, at first use
            mapped.madvise(mmap.MADV_WILLNEED)


def seal_copy(source: int, nbytes: int, name: str) -> int:
    """A memory file with the bytes of `source` that nobody, its maker included, can change again.

    Raises:
        ShareError: no memory, or `source` is shorter than `nbytes`.
    """
    with clear_errors("hold in memory", name):
        memory = os.memfd_create(f"stratoscope-{name}"[:200], os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        with clear_errors("hold in memory", name):
            os.ftruncate(memory, nbytes)
            done = 0
            while done < nbytes:
                count = _copy(source, memory, min(_COPY_BYTES, nbytes - done), done)
                if count == 0:
                    raise IntegrityError(f"{name} was cut off while it was read", hint="prepare the model again")
                done += count
            fcntl.fcntl(memory, F_ADD_SEALS, ALL_SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _copy(source: int, target: int, count: int, offset: int) -> int:
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)


def is_sealed(descriptor: int) -> bool:
    """Whether the bytes behind `descriptor` can no longer change."""
    try:
        return fcntl.fcntl(descriptor, F_GET_SEALS) & ALL_SEALS == ALL_SEALS
    except OSError:  # not a memory file
        return False


def require_sealed(descriptor: int, what: str) -> None:
    """Raises ShareError unless the bytes behind `descriptor` can no longer change."""
    if not is_sealed(descriptor):
        raise ShareError(f"{what} is not sealed: its sender could change it", hint="use another server")
