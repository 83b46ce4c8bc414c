"""All probes by name, in the order in which they are listed; a new probe is one module and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from stratoscope.measure.machine.bandwidth import StreamProbe, SweepProbe
from stratoscope.measure.machine.chase import ChaseProbe
from stratoscope.measure.machine.collectives import CollectiveProbe
from stratoscope.measure.machine.faults import FaultProbe
from stratoscope.measure.machine.file_reads import FileProbe
from stratoscope.measure.machine.forkjoin import DispatchProbe, ForkJoinProbe
from stratoscope.measure.machine.gemm import GemmProbe
from stratoscope.measure.machine.gpu import GpuProbe
from stratoscope.measure.machine.peak import PeakProbe
from stratoscope.measure.machine.probe import Probe
from stratoscope.measure.machine.transports import TransportProbe

PROBES: Final[tuple[Probe, ...]] = (
    StreamProbe(),
    SweepProbe(),
    ChaseProbe(),
    PeakProbe(),
    GemmProbe(),
    FaultProbe(),
    ForkJoinProbe(),
    DispatchProbe(),
    TransportProbe(),
    FileProbe(),
    GpuProbe(),
    CollectiveProbe(),
)


def select_probes(
    names: Iterable[str] | None, probes: tuple[Probe, ...] = PROBES
) -> tuple[tuple[Probe, ...], dict[str, str]]:
    """The probes with these names (None or none: all), and of each name that no probe has a line that says so."""
    wanted = list(dict.fromkeys(names or ()))
    known = {probe.name: probe for probe in probes}
    if not wanted:
        return probes, {}
    lines: dict[str, str] = {}
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            lines[name] = f"no probe is called {name!r}: {meant}"
    return tuple(known[name] for name in wanted if name in known), lines
