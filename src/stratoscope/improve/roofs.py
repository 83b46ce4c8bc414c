"""The roofs of this machine for bounds: from its latest characterisation, else from a quick one of seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from stratoscope.errors import MeasurementError, StoreError
from stratoscope.explain.bounds.roofline import Level, Machine
from stratoscope.host.capture import capture_hardware
from stratoscope.host.roofs import MEMORY, Roofs
from stratoscope.measure.machine.characterize import Request, characterize
from stratoscope.spec.machine import MachineRecord
from stratoscope.store.machines import get_machine, list_machines, save_machine

#: Peaks and bandwidths are all that bounds need.
_PROBES: Final = ("stream", "peak", "gemm")
QUICK_S: Final = 20.0


def machine_roofs(
    threads: int,
    database: str | os.PathLike[str] | None,
    *,
    keep: bool = True,
    budget_s: float = QUICK_S,
    on_progress: Callable[[str], None] | None = None,
) -> Machine:
    """The machine with `threads`: from the newest stored record of this hardware that has them, else measured now.

    What is measured now is kept in the database, so that it is measured once. The caller holds the measurement lock.

    Raises:
        MeasurementError: there are no peaks and bandwidths with so many threads.
    """
    digest = capture_hardware().digest()
    for summary in _known(database):
        if summary[1] == digest:
            record = get_machine(summary[0], database)
            found = _machine(record, threads, f"stratoscope machine of {record.created_at:%Y-%m-%d}")
            if found is not None:
                return found
    if on_progress is not None:
        on_progress("advice: measuring this machine's roofs")
    record = characterize(Request(probes=_PROBES, budget_s=budget_s))
    if keep:
        save_machine(database, record)
    found = _machine(
        record, threads, f"a quick characterisation of {budget_s:.0f} s (stratoscope machine measures more)"
    )
    if found is None:
        raise MeasurementError(
            f"the machine's roofs with {threads} threads could not be measured", hint="run stratoscope machine --full"
        )
    return found


def _known(database: str | os.PathLike[str] | None) -> list[tuple[str, str]]:
    """(id, digest of the hardware) of the stored records, the newest first; none where there is no database yet."""
    try:
        return [(one.id, one.digest_hardware) for one in list_machines(database)]
    except StoreError:
        return []


def _machine(record: MachineRecord, threads: int, source: str) -> Machine | None:
    roofs = Roofs(record)
    peaks = roofs.flops_per_s(threads)
    levels: list[Level] = []
    for name in roofs.levels:
        bandwidth = roofs.bandwidth(name, threads).value
        if bandwidth is not None:
            levels.append(Level(name, None if name == MEMORY else _capacity(record, name, threads), bandwidth))
    if not peaks or not levels or levels[-1].name != MEMORY:
        return None
    # A nearer level is never slower: where noise says so, the faster figure is the roof of both.
    for place in range(len(levels) - 2, -1, -1):
        fastest = max(levels[place].bandwidth_bytes_per_s, levels[place + 1].bandwidth_bytes_per_s)
        levels[place] = Level(levels[place].name, levels[place].capacity_bytes, fastest)
    return Machine(peaks, tuple(levels), source)


def _capacity(record: MachineRecord, level: str, threads: int) -> float:
    """Bytes that a cache level holds for so many threads."""
    sizes = [
        cache.size_bytes * min(cache.instances, -(-threads // cache.shared_by))
        for cache in record.hardware.cpu.caches or ()
        if f"L{cache.level}" == level and cache.type != "instruction"
    ]
    return float(sum(sizes))
