"""Whether this machine lets a process count cycles and instructions: asked once, of the kernel itself."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from functools import cache
from typing import Final

#: Number of the system call perf_event_open, by machine (asm/unistd.h).
_SYSTEM_CALLS: Final = {"x86_64": 298, "aarch64": 241}
_HARDWARE: Final = 0  # PERF_TYPE_HARDWARE
_INSTRUCTIONS: Final = 1  # PERF_COUNT_HW_INSTRUCTIONS
_SIZE: Final = 112  # of struct perf_event_attr, version 5
#: disabled, exclude_kernel, exclude_hv: what an ordinary user may count of itself.
_FLAGS: Final = 1 | (1 << 5) | (1 << 6)

_REASONS: Final = {
    errno.ENOENT: "no performance-monitoring unit here, or the hypervisor hides it (perf_event_open: ENOENT)",
    errno.EOPNOTSUPP: "the processor does not count instructions here (perf_event_open: EOPNOTSUPP)",
    errno.EACCES: "the kernel forbids it (kernel.perf_event_paranoid)",
    errno.EPERM: "the kernel or the container forbids it (kernel.perf_event_paranoid, seccomp)",
    errno.ENOSYS: "this kernel has no perf_event_open",
}


@cache
def why_no_counters() -> str | None:
    """Why instructions of this process cannot be counted; None where they can. The kernel is asked once a process."""
    number = _SYSTEM_CALLS.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return f"counters are read on Linux for {' and '.join(_SYSTEM_CALLS)} only"
    attributes = struct.pack("<IIQQQQQ", _HARDWARE, _SIZE, _INSTRUCTIONS, 0, 0, 0, _FLAGS).ljust(_SIZE, b"\0")
    library = ctypes.CDLL(None, use_errno=True)
    found: int = library.syscall(number, ctypes.create_string_buffer(attributes, _SIZE), 0, -1, -1, 0)
    if found >= 0:
        os.close(found)
        return None
    code = ctypes.get_errno()
    return _REASONS.get(code, f"perf_event_open fails: {os.strerror(code)}")
