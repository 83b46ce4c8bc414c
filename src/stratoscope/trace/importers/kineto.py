"""The dialect of PyTorch's profiler (Kineto): which category is which level, and what is a launch or an execution.

Sources: libkineto's ActivityType.h (names of categories) and output_json.cpp (fields), of 2026-08. Device events carry
the device as process and the stream as thread.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from stratoscope.trace.importers.build import EXEC, LAUNCH, PROFILER_LEVEL, SYNC
from stratoscope.trace.importers.chrome_columns import ChromeColumns, whole_number
from stratoscope.trace.importers.roles import Roles
from stratoscope.trace.levels import Level

#: Frames of Python code stand between a module and its operators.
PYTHON_LEVEL: Final = 35
_MODULE_PREFIX: Final = "nn.Module: "

#: Work of a device: what counts as its busy time.
_DEVICE_WORK: Final = ("kernel", "gpu_memcpy", "gpu_memset", "concurrent_kernel", "mtia_ccp_events")
_CALLS: Final = (
    *("cuda_runtime", "cuda_driver", "hip_runtime", "hip_driver", "xpu_runtime", "xpu_driver"),
    *("mtia_runtime", "glow_runtime", "privateuse1_runtime", "privateuse1_driver", "runtime"),
)
#: Category to (level, kind). Synchronisation records and annotations on a stream are no work of the device; what the
#: profiler says of itself has no part in anything.
_ROLES: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(_DEVICE_WORK, (Level.KERNEL, EXEC)),
    **dict.fromkeys(_CALLS, (Level.KERNEL, SYNC)),
    "cpu_op": (Level.OPERATOR, SYNC),
    "operator": (Level.OPERATOR, SYNC),
    "user_annotation": (Level.APPLICATION, SYNC),
    "gpu_user_annotation": (Level.APPLICATION, EXEC),
    "python_function": (PYTHON_LEVEL, SYNC),
    "cuda_sync": (Level.LIBRARY, EXEC),
    "cuda_event": (Level.LIBRARY, EXEC),
    "cuda_profiler_range": (Level.HARDWARE, EXEC),
    "hardware_counters": (Level.HARDWARE, EXEC),
    "cpu_instant_event": (Level.HARDWARE, SYNC),
    "overhead": (PROFILER_LEVEL, SYNC),
    "trace": (PROFILER_LEVEL, SYNC),
}
#: Categories that only this software writes.
_SIGNS: Final = frozenset({"cpu_op", "cuda_runtime", "cuda_driver", "gpu_memcpy", "gpu_memset", "python_function"})
_OLD_NAMES: Final = {"memcpy": "gpu_memcpy", "memset": "gpu_memset"}


def speaks(columns: ChromeColumns) -> bool:
    """Whether PyTorch's profiler wrote the trace."""
    kineto_fields = "deviceProperties" in columns.metadata and "schemaVersion" in columns.metadata
    return kineto_fields or not _SIGNS.isdisjoint(columns.categories)


def roles(columns: ChromeColumns) -> Roles:
    """Levels by category; a call whose correlation id device work has is its launch."""
    found = [_role(category) for category in columns.categories]
    level = np.array([*(one[0] for one in found), 0], np.uint8)[columns.category]
    kind = np.array([*(one[1] for one in found), 0], np.int8)[columns.category]
    modules = np.array([*(name.startswith(_MODULE_PREFIX) for name in columns.names), False])[columns.name]
    level[modules & (level == PYTHON_LEVEL)] = Level.LAYER
    correlation = np.where(level == PROFILER_LEVEL, 0, columns.correlation)
    executed = kind == EXEC
    calls = (level == Level.KERNEL) & ~executed & (correlation != 0)
    work = pl.Series(correlation[executed & (level == Level.KERNEL)])
    kind[np.flatnonzero(calls)[pl.Series(correlation[calls]).is_in(work.implode()).to_numpy()]] = LAUNCH
    device = np.zeros(len(columns.places), np.bool_)
    device[columns.place[executed]] = True
    return Roles(level, kind, correlation, device)


def clock(columns: ChromeColumns) -> dict[str, str | int]:
    """`unix_offset_ns` is what to add to a time for UNIX time: the file's base, 0 where its times are absolute."""
    return {"unix_offset_ns": whole_number(columns.metadata.get("baseTimeNanoseconds", 0))}


def _role(category: str) -> tuple[int, int]:
    name = category.lower()
    return _ROLES.get(_OLD_NAMES.get(name, name), (int(Level.OPERATOR), SYNC))
