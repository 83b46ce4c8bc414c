"""Counters of the whole machine that say what disturbed a measurement: busy and stolen CPU time, load, throttling."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field

from stratoscope.host.files import KernelFiles


@dataclass(frozen=True, slots=True)
class MachineCounters:
    """One reading. Each value is None where the machine does not tell it, and `reasons` says why.

    Attributes:
        busy_s: CPU time that the machine spent on anything but idling and waiting for I/O, all CPUs, since boot; in
            steps of one clock tick (10 ms on common kernels).
        steal_s: time that the hypervisor gave to others while this machine wanted to run, all CPUs, since boot.
        own_cpu_s: CPU time of this process with all its threads, and of its children that have ended.
        load_average: one-minute load average.
        throttled: events of the CPU quota of this process's cgroups, and thermal events of the CPUs.
        throttle_sources: which counters are in `throttled`.
    """

    busy_s: float | None
    steal_s: float | None
    own_cpu_s: float
    load_average: float | None
    throttled: int | None
    throttle_sources: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)


def read_counters(files: KernelFiles | None = None) -> MachineCounters:
    """The counters now; takes some 100 us, so read them around a measurement and not inside it."""
    files = files or KernelFiles()
    reasons: dict[str, str] = {}
    busy_s, steal_s = _cpu_times(files)
    if busy_s is None or steal_s is None:
        reasons["steal_s"] = reasons["busy_s"] = "/proc/stat has no line of CPU times with steal"
    load = files.text("/proc/loadavg")
    if load is None:
        reasons["load_average"] = "/proc/loadavg cannot be read"
    throttled, sources = _throttle_events(files)
    if throttled is None:
        reasons["throttled"] = "no cgroup with a CPU controller and no thermal throttle counters"
    return MachineCounters(
        busy_s=busy_s,
        steal_s=steal_s,
        own_cpu_s=_own_cpu_s(),
        load_average=None if load is None else float(load.split()[0]),
        throttled=throttled,
        throttle_sources=sources,
        reasons=reasons,
    )


def _own_cpu_s() -> float:
    """User and system time of this process and of its ended children, from getrusage(2)."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu_times(files: KernelFiles) -> tuple[float | None, float | None]:
    """Busy and stolen seconds from the first line of /proc/stat (proc(5)).

    The fields are user, nice, system, idle, iowait, irq, softirq, steal; guest time is contained in user.
    """
    first = (files.text("/proc/stat") or "").partition("\n")[0].split()
    if len(first) < 9 or first[0] != "cpu":
        return None, None
    ticks = [int(value) for value in first[1:9]]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq) * tick_s, steal * tick_s


def _throttle_events(files: KernelFiles) -> tuple[int | None, tuple[str, ...]]:
    """Sum of nr_throttled over this process's cgroups and of the CPUs' thermal events, with the sources that exist.

    A quota may sit on any ancestor and is counted there, hence the sum over the chain. A package's thermal counter
    is repeated by each of its CPUs, so the cores' own counters are taken.
    """
    total = 0
    sources: list[str] = []
    _, folders = files.cgroup_folders("cpu")
    for folder in folders:
        for line in (KernelFiles(folder).text("cpu.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled":
                total += int(value)
                sources.append("cgroup nr_throttled")
    seen_cores: set[str] = set()
    for counter in files.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"):
        cpu = KernelFiles(counter.parent.parent)
        siblings = cpu.text("topology/thread_siblings_list") or counter.parent.parent.name
        value_now = cpu.integer("thermal_throttle/core_throttle_count")
        if value_now is not None and siblings not in seen_cores:
            seen_cores.add(siblings)
            total += value_now
            sources.append("thermal core_throttle_count")
    return (total, tuple(dict.fromkeys(sources))) if sources else (None, ())
