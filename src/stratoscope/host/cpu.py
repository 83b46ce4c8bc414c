"""Reads the CPUs from /proc/cpuinfo and sysfs: model, instruction sets, topology, caches, clocks and their settings."""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any

from stratoscope.host.files import KernelFiles
from stratoscope.host.told import Told
from stratoscope.spec.hardware import Cache, CpuHardware

_CPU = "/sys/devices/system/cpu"
_NO_CPUFREQ = "the kernel offers no frequency control here (no cpufreq), as in most virtual machines"

#: Extensions that numerical kernels are chosen by: prefixes of the kernel's names for them.
_X86_ISA = ("sse4_", "avx", "fma", "f16c", "amx_", "gfni", "vaes", "vpclmulqdq", "bmi")
_ARM_ISA = ("asimd", "fphp", "fcma", "sve", "sme", "bf16", "i8mm")


def read_cpu(files: KernelFiles, told: Told) -> CpuHardware:
    """The CPUs of this machine; what is not told is absent and noted in `told`."""
    info = cpuinfo(files)
    fields: dict[str, Any] = {
        "architecture": told.value("cpu.architecture", platform.machine() or None, "the kernel does not name it"),
        **_identity(info, told),
        **_topology(files, told),
        **_frequency(files, told),
    }
    caches = read_caches(files)
    fields["caches"] = told.value("cpu.caches", caches or None, "the kernel describes no caches in sysfs")
    return CpuHardware(**fields)


def cpuinfo(files: KernelFiles) -> dict[str, str]:
    """Fields of the first CPU in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in (files.text("/proc/cpuinfo") or "").splitlines():
        name, separator, value = line.partition(":")
        if not separator and fields:
            break
        fields.setdefault(name.strip(), value.strip())
    return fields


def isa_of(info: dict[str, str]) -> tuple[str, ...] | None:
    """The extensions of interest among the CPU's flags, sorted; None where /proc/cpuinfo lists none."""
    prefixes, text = (_X86_ISA, info["flags"]) if "flags" in info else (_ARM_ISA, info.get("Features", ""))
    flags = set(text.split())
    return tuple(sorted(flag for flag in flags if flag.startswith(prefixes))) if flags else None


def parse_cpu_list(text: str) -> list[int]:
    """The CPUs in a kernel list such as "0-3,8,10-11"."""
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _identity(info: dict[str, str], told: Told) -> dict[str, Any]:
    """Vendor to microcode: x86's names, else Arm's registers (implementer and part)."""
    why = "/proc/cpuinfo does not say"
    arm_part = info.get("CPU part")
    model = info.get("model name") or (arm_part and f"implementer {info.get('CPU implementer')} part {arm_part}")

    def number(*names: str) -> int | None:
        text = next((info[name] for name in names if info.get(name)), None)
        try:
            return None if text is None else int(text, 0)
        except ValueError:
            return None

    return {
        "vendor": told.value("cpu.vendor", info.get("vendor_id") or info.get("CPU implementer"), why),
        "model": told.value("cpu.model", model or None, why),
        "family": told.value("cpu.family", number("cpu family", "CPU architecture"), why),
        "model_number": told.value("cpu.model_number", number("model", "CPU part"), why),
        "stepping": told.value("cpu.stepping", number("stepping", "CPU revision"), why),
        "microcode": told.value("cpu.microcode", info.get("microcode"), why),
        "isa": told.value("cpu.isa", isa_of(info), why),
    }


def online_cpus(files: KernelFiles) -> list[int]:
    """Numbers of the CPUs that are online; empty where the kernel does not say."""
    return parse_cpu_list(files.text(f"{_CPU}/online") or "")


def _topology(files: KernelFiles, told: Told) -> dict[str, Any]:
    cpus = online_cpus(files)
    why = "the kernel describes no CPU topology in sysfs"
    cores: set[str] = set()
    packages: set[str] = set()
    for cpu in cpus:
        folder = f"{_CPU}/cpu{cpu}/topology"
        siblings = files.text(f"{folder}/thread_siblings_list") or files.text(f"{folder}/core_cpus_list")
        package = files.text(f"{folder}/physical_package_id")
        if siblings is not None:
            cores.add(siblings)
        if package is not None and package != "-1":  # -1: the firmware does not tell
            packages.add(package)
    nodes = parse_cpu_list(files.text("/sys/devices/system/node/online") or "")
    return {
        "sockets": told.value("cpu.sockets", len(packages) or None, why),
        "physical_cores": told.value("cpu.physical_cores", len(cores) or None, why),
        "logical_cpus": told.value("cpu.logical_cpus", len(cpus) or None, why),
        "smt": told.value("cpu.smt", len(cpus) > len(cores) if cores else None, why),
        "numa_nodes": told.value("cpu.numa_nodes", len(nodes) or None, "the kernel lists no NUMA nodes"),
    }


def read_caches(files: KernelFiles) -> tuple[Cache, ...]:
    """The kinds of caches of the online CPUs, ordered by level and type, each with the number of its instances."""
    instances: dict[tuple[int, str, int, int | None, int], set[str]] = {}
    for cpu in online_cpus(files):
        for folder in files.glob(f"{_CPU}/cpu{cpu}/cache/index[0-9]*"):
            index = KernelFiles(folder)
            level, size = index.integer("level"), _bytes(index.text("size"))
            kind, shared = index.text("type"), index.text("shared_cpu_list")
            if level is None or size is None or kind is None or shared is None:
                continue
            line = index.integer("coherency_line_size")
            key = (level, kind.lower(), size, line, len(parse_cpu_list(shared)))
            instances.setdefault(key, set()).add(shared)
    found = [
        Cache.model_validate(
            {
                "level": level,
                "type": kind,
                "size_bytes": size,
                "line_bytes": line,
                "shared_by": shared_by,
                "instances": len(groups),
            }
        )
        for (level, kind, size, line, shared_by), groups in instances.items()
    ]
    return tuple(sorted(found, key=lambda cache: (cache.level, cache.type, cache.size_bytes, cache.shared_by)))


def _bytes(text: str | None) -> int | None:
    """Bytes in the kernel's "32K" or "1024K" or "8M"."""
    if not text:
        return None
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1].upper(), 1)
    digits = text[:-1] if factor > 1 else text
    return int(digits) * factor if digits.isdigit() and int(digits) else None


def _frequency(files: KernelFiles, told: Told) -> dict[str, Any]:
    """Driver, governor, boost and the range of clocks; a setting that differs between CPUs is joined by commas."""

    def settings(name: str) -> list[str]:
        values = (files.text(f"{_CPU}/cpu{cpu}/cpufreq/{name}") for cpu in online_cpus(files))
        return [value for value in values if value is not None]

    def joined(name: str) -> str | None:
        return ",".join(sorted(Counter(settings(name)))) or None

    def clocks(name: str) -> list[float]:
        return [int(value) * 1e3 for value in settings(name) if value.isdigit() and int(value)]

    boost = files.integer(f"{_CPU}/cpufreq/boost")
    no_turbo = files.integer(f"{_CPU}/intel_pstate/no_turbo")
    allowed = boost == 1 if boost is not None else (no_turbo == 0 if no_turbo is not None else None)
    lowest, highest = clocks("cpuinfo_min_freq"), clocks("cpuinfo_max_freq")
    return {
        "frequency_driver": told.value("cpu.frequency_driver", joined("scaling_driver"), _NO_CPUFREQ),
        "governor": told.value("cpu.governor", joined("scaling_governor"), _NO_CPUFREQ),
        "boost": told.value("cpu.boost", allowed, "the frequency driver, if any, has no boost switch"),
        "min_clock_hz": told.value("cpu.min_clock_hz", min(lowest, default=None), _NO_CPUFREQ),
        "max_clock_hz": told.value("cpu.max_clock_hz", max(highest, default=None), _NO_CPUFREQ),
    }


def current_clocks_hz(files: KernelFiles) -> tuple[float, ...] | None:
    """The clock of each CPU now, from cpufreq, else from /proc/cpuinfo (in a guest: nominal); None where not told."""
    now = [files.integer(f"{_CPU}/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in online_cpus(files)]
    if now and all(now):
        return tuple(value * 1e3 for value in now if value)
    lines = (files.text("/proc/cpuinfo") or "").splitlines()
    return tuple(float(line.partition(":")[2]) * 1e6 for line in lines if line.startswith("cpu MHz")) or None
