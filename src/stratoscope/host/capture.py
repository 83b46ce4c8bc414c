"""Captures the hardware and software manifests of this machine; what it does not tell is absent, with the reason."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from typing import Any

from stratoscope.host.builds import build_information, package_versions
from stratoscope.host.cpu import cpuinfo, current_clocks_hz, read_cpu
from stratoscope.host.files import KernelFiles
from stratoscope.host.gpu import read_gpus
from stratoscope.host.told import Told
from stratoscope.spec.hardware import (
    Allowance,
    HardwareManifest,
    MachineState,
    Memory,
    Unlimited,
    Virtualisation,
)
from stratoscope.spec.software import OperatingSystem, PythonRuntime, SoftwareManifest

#: Memory is compared to this grain: the kernel's own reservation moves by some MiB with its version.
MEMORY_GRAIN_BYTES = 64 << 20

#: A version-1 cgroup without a limit holds the largest multiple of a page below 2**63.
_NO_LIMIT_BYTES = 1 << 60

_ENV = re.compile(
    r"^(OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|NUMEXPR|VECLIB|TBB|ONEDNN|DNNL|ATEN|ORT|XLA|TF_NUM|TF_ENABLE|TF_XLA|CUDA|NVIDIA"
    r"|CUBLAS|CUDNN|NCCL|PYTORCH|TORCH|TORCHINDUCTOR|JAX|OV|MALLOC)_[A-Z0-9_]+$|^LD_PRELOAD$|^GLIBC_TUNABLES$"
    r"|^PYTHONMALLOC$"
)
_DMI_MARKS = (
    *("KVM", "QEMU", "VMware", "VirtualBox", "Xen", "Microsoft Corporation Virtual Machine", "Amazon EC2"),
    *("Google Compute Engine", "Parallels", "BHYVE", "Firecracker", "OpenStack"),
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")


def capture_hardware(files: KernelFiles | None = None) -> HardwareManifest:
    """This machine, as its kernel and drivers tell it. Takes some milliseconds, and nvidia-smi's time where it is."""
    files = files or KernelFiles()
    told = Told()
    cpu = read_cpu(files, told)
    gpus, gpu_states = read_gpus(told)
    meminfo = _meminfo(files)
    total = meminfo.get("MemTotal")
    grains = None if total is None else max(1, round(total / MEMORY_GRAIN_BYTES)) * MEMORY_GRAIN_BYTES
    load = files.text("/proc/loadavg")
    return HardwareManifest(
        hostname=platform.node() or None,
        cpu=cpu,
        memory=Memory(total_bytes=told.value("memory.total_bytes", grains, "/proc/meminfo has no MemTotal")),
        virtualisation=_virtualisation(files, told),
        allowance=_allowance(files, told),
        gpus=gpus,
        interconnect=told.value("interconnect", None, "not probed"),
        state=MachineState(
            cpu_clock_hz=told.value("state.cpu_clock_hz", current_clocks_hz(files), "the kernel tells no clock"),
            load_average=told.value(
                "state.load_average", float(load.split()[0]) if load else None, "/proc/loadavg cannot be read"
            ),
            memory_available_bytes=told.value(
                "state.memory_available_bytes", meminfo.get("MemAvailable"), "/proc/meminfo has no MemAvailable"
            ),
            gpus=gpu_states,
        ),
        unavailable=told.reasons,
    )


def capture_software(frameworks: tuple[str, ...] = (), files: KernelFiles | None = None) -> SoftwareManifest:
    """The software of this process: system, interpreter, environment, and the packages that take part in the run.

    Args:
        frameworks: distribution names of what runs the model ("onnxruntime", "torch"); one that is not installed is
            noted in `unavailable`. Stratoscope, NumPy and LoadGen are always listed, since they drive the run.
    """
    files = files or KernelFiles()
    told = Told()
    return SoftwareManifest(
        os=_operating_system(files, told),
        python=PythonRuntime(
            implementation=platform.python_implementation(),
            version=platform.python_version(),
            compiler=platform.python_compiler(),
            free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        ),
        packages=package_versions(frameworks, told),
        builds=build_information(frameworks, told),
        env=relevant_environment(os.environ),
        unavailable=told.reasons,
    )


def relevant_environment(environment: Any) -> dict[str, str]:
    """Variables that steer threads, memory or numerical libraries, sorted; never one whose name smells of a secret."""
    return {name: environment[name] for name in sorted(environment) if _ENV.match(name) and not _SECRET.search(name)}


def _meminfo(files: KernelFiles) -> dict[str, int]:
    """Fields of /proc/meminfo in bytes."""
    sizes: dict[str, int] = {}
    for line in (files.text("/proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            sizes[name] = int(words[0]) << 10
    return sizes


def _virtualisation(files: KernelFiles, told: Told) -> Virtualisation:
    """Whether the CPU says that it is a guest's (x86), and the hypervisor's name by sysfs, DMI or lscpu's CPUID."""
    flags = cpuinfo(files).get("flags", "").split()
    guest = "hypervisor" in flags if flags else None
    if guest is False:
        return Virtualisation(guest=False)
    name = files.text("/sys/hypervisor/type") or _dmi_hypervisor(files) or (_lscpu_hypervisor() if guest else None)
    if name is not None:
        guest = True
    return Virtualisation(
        guest=told.value("virtualisation.guest", guest, "this CPU architecture has no hypervisor flag"),
        hypervisor=told.value("virtualisation.hypervisor", name, "neither the kernel nor the firmware names it"),
    )


def _dmi_hypervisor(files: KernelFiles) -> str | None:
    """The hypervisor as the firmware's tables name it (the marks that systemd-detect-virt looks for)."""
    text = " ".join(files.text(f"/sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name"))
    return next((mark for mark in _DMI_MARKS if mark in text and "metal" not in text), None)


def _lscpu_hypervisor() -> str | None:
    """CPUID leaf 0x40000000 as util-linux's lscpu decodes it."""
    program = shutil.which("lscpu")
    if program is None:
        return None
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        answer = subprocess.run([program], capture_output=True, text=True, timeout=5, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None  # the caller notes that nothing names the hypervisor
    match = re.search(r"^Hypervisor vendor:\s*(\S.*)$", answer.stdout, re.MULTILINE)
    return match.group(1).strip() if match else None


def _allowance(files: KernelFiles, told: Told) -> Allowance:
    affinity = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None
    return Allowance(
        cpus=told.value("allowance.cpus", affinity, "the system has no affinity masks"),
        cpu_quota=told.value("allowance.cpu_quota", cpu_quota(files), "no cgroup with a CPU controller is mounted"),
        memory_limit_bytes=told.value(
            "allowance.memory_limit_bytes", memory_limit(files), "no cgroup with a memory controller is mounted"
        ),
    )


def cpu_quota(files: KernelFiles) -> float | Unlimited | None:
    """CPUs' worth of time that the cgroups allow: the tightest of this process's chain; None where there are none."""
    version, folders = files.cgroup_folders("cpu")
    if not folders:
        return None
    quotas: list[float] = []
    for folder in folders:
        cgroup = KernelFiles(folder)
        if version == 1:
            quota, period = cgroup.integer("cpu.cfs_quota_us"), cgroup.integer("cpu.cfs_period_us")
        else:
            words = (cgroup.text("cpu.max") or "max 100000").split()
            quota, period = (None if words[0] == "max" else int(words[0])), int(words[1])
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas) if quotas else "unlimited"


def memory_limit(files: KernelFiles) -> int | Unlimited | None:
    """Bytes that the cgroups allow: the tightest of this process's chain; None where there are none."""
    version, folders = files.cgroup_folders("memory")
    if not folders:
        return None
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    limits = [KernelFiles(folder).integer(name) for folder in folders]  # "max" is no integer: None
    real = [limit for limit in limits if limit is not None and limit < _NO_LIMIT_BYTES]
    return min(real) if real else "unlimited"


def _operating_system(files: KernelFiles, told: Told) -> OperatingSystem:
    release = dict(line.split("=", 1) for line in (files.text("/etc/os-release") or "").splitlines() if "=" in line)
    why = "/etc/os-release does not say"
    name, version = (release.get(key, "").strip("\"'") or None for key in ("ID", "VERSION_ID"))
    hugepages = re.search(r"\[(\w+)\]", files.text("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    return OperatingSystem(
        name=told.value("os.name", name, why),
        version=told.value("os.version", version, why),
        kernel=told.value("os.kernel", platform.release() or None, "uname does not say"),
        libc=told.value(
            "os.libc", " ".join(filter(None, platform.libc_ver())) or None, "the C library does not say its version"
        ),
        transparent_hugepages=told.value(
            "os.transparent_hugepages", hugepages.group(1) if hugepages else None, "the kernel has no such setting"
        ),
    )
