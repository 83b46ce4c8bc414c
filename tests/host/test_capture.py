"""Facts about captured manifests: they agree with the kernel, identify the machine, and never invent a value."""

from __future__ import annotations

import os
import platform
import stat
from pathlib import Path

import psutil
import pytest

from stratoscope.host.builds import build_information
from stratoscope.host.capture import (
    capture_hardware,
    capture_software,
    cpu_quota,
    memory_limit,
    relevant_environment,
)
from stratoscope.host.cpu import isa_of, parse_cpu_list, read_caches
from stratoscope.host.files import KernelFiles
from stratoscope.host.told import Told
from stratoscope.spec.hardware import HardwareManifest

XEON_INFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
stepping\t: 8
microcode\t: 0x2b000461
cpu MHz\t\t: 2000.000
flags\t\t: fpu sse2 sse4_1 sse4_2 avx avx2 fma avx512f avx512_vnni amx_bf16 amx_int8 amx_tile smep smap

processor\t: 1
cpu MHz\t\t: 3800.000
"""


def write(root: Path, name: str, text: str | int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.fixture
def xeon(tmp_path: Path) -> KernelFiles:
    """Two sockets of two cores with two threads each, as sysfs describes them; turbo off, quota of 2.5 CPUs."""
    write(tmp_path, "proc/cpuinfo", XEON_INFO)
    write(tmp_path, "proc/meminfo", "MemTotal:       263852432 kB\nMemAvailable:   200000000 kB\nHugePages_Total: 0")
    write(tmp_path, "proc/loadavg", "1.50 1.00 0.50 1/100 99")
    cpus = tmp_path / "sys/devices/system/cpu"
    write(cpus, "online", "0-7")
    write(cpus, "intel_pstate/no_turbo", 1)
    write(tmp_path, "sys/devices/system/node/online", "0-1")
    for cpu in range(8):
        core, socket = cpu % 4, cpu % 4 // 2
        write(cpus, f"cpu{cpu}/topology/thread_siblings_list", f"{core},{core + 4}")
        write(cpus, f"cpu{cpu}/topology/physical_package_id", socket)
        write(cpus, f"cpu{cpu}/cpufreq/scaling_governor", "performance" if cpu else "powersave")
        write(cpus, f"cpu{cpu}/cpufreq/scaling_driver", "intel_pstate")
        write(cpus, f"cpu{cpu}/cpufreq/cpuinfo_min_freq", 800000)
        write(cpus, f"cpu{cpu}/cpufreq/cpuinfo_max_freq", 3800000)
        write(cpus, f"cpu{cpu}/cpufreq/scaling_cur_freq", 2000000 + cpu)
        for index, (level, kind, size, shared) in enumerate(
            [
                (1, "Data", "48K", f"{core},{core + 4}"),
                (2, "Unified", "2048K", f"{core},{core + 4}"),
                (3, "Unified", "105M", f"{2 * socket}-{2 * socket + 1},{2 * socket + 4}-{2 * socket + 5}"),
            ]
        ):
            folder = f"cpu{cpu}/cache/index{index}"
            for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                write(cpus, f"{folder}/{name}", value)
            write(cpus, f"{folder}/coherency_line_size", 64)
    write(tmp_path, "proc/self/cgroup", "0::/jobs/mine")
    write(tmp_path, "proc/self/mountinfo", "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw")
    write(tmp_path, "cg/jobs/cpu.max", "400000 100000")
    write(tmp_path, "cg/jobs/mine/cpu.max", "250000 100000")
    write(tmp_path, "cg/jobs/mine/memory.max", "max")
    write(tmp_path, "cg/jobs/memory.max", 8 << 30)
    return KernelFiles(tmp_path)


@pytest.fixture(autouse=True)
def no_gpu_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty PATH: whether the machine of the tests has a GPU does not matter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_two_socket_machine_is_read_as_sysfs_describes_it(xeon: KernelFiles):
    manifest = capture_hardware(xeon)
    cpu = manifest.cpu
    assert (cpu.vendor, cpu.model, cpu.family) == ("GenuineIntel", "Intel(R) Xeon(R) Platinum 8480+", 6)
    assert (cpu.model_number, cpu.stepping, cpu.microcode) == (143, 8, "0x2b000461")
    assert (cpu.sockets, cpu.physical_cores, cpu.logical_cpus, cpu.smt, cpu.numa_nodes) == (2, 4, 8, True, 2)
    assert (cpu.governor, cpu.boost) == ("performance,powersave", False)
    assert (cpu.min_clock_hz, cpu.max_clock_hz) == (0.8e9, 3.8e9)
    assert manifest.virtualisation.guest is False
    assert manifest.allowance.cpu_quota == 2.5
    assert manifest.allowance.memory_limit_bytes == 8 << 30
    assert manifest.state.cpu_clock_hz is not None
    assert manifest.state.cpu_clock_hz[:2] == (2.0e9, 2.000001e9)


def test_caches_are_counted_once_for_all_cpus_that_share_them(xeon: KernelFiles):
    found = [
        (cache.level, cache.type, cache.size_bytes, cache.shared_by, cache.instances) for cache in read_caches(xeon)
    ]
    assert found == [
        (1, "data", 48 << 10, 2, 4),
        (2, "unified", 2 << 20, 2, 4),
        (3, "unified", 105 << 20, 4, 2),
    ]


def test_matrix_extensions_are_listed_and_security_flags_are_not(xeon: KernelFiles):
    isa = capture_hardware(xeon).cpu.isa
    assert isa is not None
    assert {"amx_tile", "amx_bf16", "avx512_vnni", "avx2"} <= set(isa)
    assert not {"smep", "smap", "fpu"} & set(isa)


def test_arm_features_are_read_from_their_own_field():
    info = {"Features": "fp asimd atomics sve sve2 i8mm bf16 crc32"}
    assert isa_of(info) == ("asimd", "bf16", "i8mm", "sve", "sve2")


def test_what_changes_from_moment_to_moment_does_not_change_the_digest(xeon: KernelFiles):
    before = capture_hardware(xeon)
    write(xeon.root, "proc/loadavg", "9.00 1.00 0.50 1/100 99")
    write(xeon.root, "sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq", 3700000)
    write(xeon.root, "proc/meminfo", "MemTotal:       263852000 kB\nMemAvailable:   1000 kB")
    after = capture_hardware(xeon)
    assert before.state != after.state
    assert before.digest() == after.digest()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sys/devices/system/cpu/intel_pstate/no_turbo", 0),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "schedutil"),
        ("cg/jobs/mine/cpu.max", "max 100000"),
        ("sys/devices/system/cpu/online", "0-6"),
    ],
)
def test_a_setting_that_decides_speed_changes_the_digest(xeon: KernelFiles, name: str, value: str | int):
    before = capture_hardware(xeon).digest()
    write(xeon.root, name, value)
    assert capture_hardware(xeon).digest() != before


def absent_fields(values: dict[str, object], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        if isinstance(value, dict):
            found |= absent_fields(value, f"{prefix}{name}.")
        elif value is None:
            found.add(prefix + name)
    return found


def test_a_machine_that_tells_nothing_has_a_reason_for_every_absent_field_and_no_zero(tmp_path: Path):
    manifest = capture_hardware(KernelFiles(tmp_path / "nothing"))
    values = manifest.model_dump(include={"cpu", "memory", "virtualisation", "allowance", "gpus", "interconnect"})
    assert absent_fields(values) == {path for path in manifest.unavailable if not path.startswith("state.")}
    assert manifest.cpu.logical_cpus is None
    assert manifest.memory.total_bytes is None
    assert manifest.allowance.cpu_quota is None


def test_this_machine_agrees_with_psutil():
    manifest = capture_hardware()
    assert manifest.cpu.logical_cpus == psutil.cpu_count(logical=True)
    assert manifest.cpu.architecture == platform.machine()
    assert manifest.memory.total_bytes == pytest.approx(psutil.virtual_memory().total, abs=64 << 20)
    assert manifest.allowance.cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert HardwareManifest.model_validate_json(manifest.model_dump_json(by_alias=True)) == manifest


def test_two_captures_of_this_machine_are_the_same_machine():
    assert capture_hardware().digest() == capture_hardware().digest()
    assert capture_software(("onnxruntime",)).digest() == capture_software(("onnxruntime",)).digest()


GPU_ANSWER = (
    "0, NVIDIA H100 80GB HBM3, 81559, 550.54.15, 9.0, 1980, 2619, 700.00, Enabled, Enabled, Disabled, 5, 16, "
    "345, 2619, 33, 68.12, 4\n"
    "1, NVIDIA T4, 15360, 550.54.15, 7.5, 1590, 5001, [N/A], Disabled, Disabled, [N/A], 3, 16, "
    "300, 405, 40, [N/A], 0\n"
)


def install_nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_gpus_are_read_in_si_units_and_what_nvidia_smi_does_not_know_is_absent(xeon: KernelFiles, no_gpu_tool: Path):
    install_nvidia_smi(no_gpu_tool, f"printf '{GPU_ANSWER}'")
    manifest = capture_hardware(xeon)
    assert manifest.gpus is not None
    first, second = manifest.gpus
    assert (first.name, first.memory_bytes, first.driver_version) == ("NVIDIA H100 80GB HBM3", 81559 << 20, "550.54.15")
    assert (first.max_sm_clock_hz, first.power_limit_w, first.pcie_generation) == (1.98e9, 700.0, 5)
    assert (first.persistence_mode, first.ecc, first.mig) == (True, True, False)
    assert (second.power_limit_w, second.mig) == (None, None)
    assert "[N/A]" in manifest.unavailable["gpus.1.power_limit_w"]
    assert manifest.state.gpus[0].utilisation == pytest.approx(0.04)
    assert manifest.state.gpus[1].power_w is None


def test_a_failing_nvidia_smi_is_a_reason_and_not_an_error(xeon: KernelFiles, no_gpu_tool: Path):
    install_nvidia_smi(no_gpu_tool, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    manifest = capture_hardware(xeon)
    assert manifest.gpus is None
    assert "version mismatch" in manifest.unavailable["gpus"]


def test_limits_of_version_1_cgroups(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "2:cpu:/a\n1:memory:/a")
    mounts = "32 31 0:29 / /cpu rw - cgroup cgroup rw,cpu\n33 31 0:30 / /mem rw - cgroup cgroup rw,memory"
    write(tmp_path, "proc/self/mountinfo", mounts)
    write(tmp_path, "cpu/a/cpu.cfs_quota_us", -1)
    write(tmp_path, "cpu/a/cpu.cfs_period_us", 100000)
    write(tmp_path, "mem/a/memory.limit_in_bytes", 9223372036854771712)
    files = KernelFiles(tmp_path)
    assert (cpu_quota(files), memory_limit(files)) == ("unlimited", "unlimited")
    write(tmp_path, "cpu/a/cpu.cfs_quota_us", 50000)
    write(tmp_path, "mem/a/memory.limit_in_bytes", 1 << 30)
    assert (cpu_quota(files), memory_limit(files)) == (0.5, 1 << 30)


def test_kernel_cpu_lists():
    assert parse_cpu_list("0-3,8,10-11") == [0, 1, 2, 3, 8, 10, 11]
    assert parse_cpu_list("") == []


def test_the_environment_keeps_thread_settings_and_leaves_out_secrets_and_the_rest():
    environment = {
        "OMP_NUM_THREADS": "4",
        "MKL_VERBOSE": "1",
        "LD_PRELOAD": "libjemalloc.so",
        "TORCH_API_TOKEN": "hush",
        "HOME": "/home/me",
        "TF_CLI_CONFIG_FILE": "x",
    }
    assert list(relevant_environment(environment)) == ["LD_PRELOAD", "MKL_VERBOSE", "OMP_NUM_THREADS"]


def test_a_thread_setting_changes_the_software_digest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = capture_software()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert capture_software().digest() != one.digest()


def test_software_lists_what_takes_part_and_says_what_is_not_installed():
    import numpy as np
    import onnxruntime

    manifest = capture_software(("onnxruntime", "no-such-framework"))
    assert manifest.packages["numpy"] == np.__version__
    assert onnxruntime.__version__ in manifest.packages.values()
    assert manifest.python.version == platform.python_version()
    assert manifest.os.kernel == platform.release()
    assert "not installed" in manifest.unavailable["packages.no-such-framework"]
    assert manifest.builds["onnxruntime"]["build type"] in onnxruntime.get_build_info()


@pytest.mark.torch
def test_torchs_build_is_read_without_importing_it():
    import torch.version

    build = build_information(("torch",), Told())["torch"]
    assert (build["version"], build["git_version"]) == (torch.version.__version__, torch.version.git_version)
