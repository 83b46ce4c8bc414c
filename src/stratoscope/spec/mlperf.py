"""Writes a captured machine as MLPerf Inference's system description, the JSON file of a submission's `systems/`.

Fields and their order are those of the submission checker of mlcommons/inference. All of it is free text; what the
manifests do not tell is left empty for the submitter to fill in.
"""

from __future__ import annotations

from collections import Counter

from stratoscope.spec.hardware import Cache, CpuHardware, GpuHardware, HardwareManifest
from stratoscope.spec.software import SoftwareManifest

_GIB = 1 << 30
_NAMES = {"data": "d", "instruction": "i", "unified": ""}


def system_description(
    hardware: HardwareManifest,
    software: SoftwareManifest,
    *,
    framework: str = "",
    submitter: str = "",
    system_name: str = "",
    division: str = "open",
    status: str = "available",
    system_type: str = "edge",
) -> dict[str, str | int]:
    """The system description of one node as JSON data.

    Args:
        framework: what ran the model, with its version; empty: to be filled in.
        system_name: empty: processor and GPUs.
    """
    cpu = hardware.cpu
    gpus = _gpus(hardware.gpus)
    name = system_name or " + ".join(filter(None, (cpu.model or "", str(gpus["accelerator_model_name"]))))
    return {
        "division": division,
        "submitter": submitter,
        "status": status,
        "system_name": name,
        "system_type": system_type,
        "system_type_detail": _virtual(hardware),
        "number_of_nodes": 1,
        "host_processors_per_node": "" if cpu.sockets is None else cpu.sockets,
        "host_processor_model_name": cpu.model or "",
        "host_processor_core_count": _cores_per_socket(cpu),
        "host_processor_frequency": "" if cpu.max_clock_hz is None else f"{cpu.max_clock_hz / 1e9:.2f} GHz",
        "host_processor_caches": "; ".join(_cache(cache) for cache in cpu.caches or ()),
        "host_processor_interconnect": "",
        "host_memory_capacity": "" if (size := hardware.memory.total_bytes) is None else f"{size / _GIB:.1f} GiB",
        "host_memory_configuration": "",
        "host_storage_type": "",
        "host_storage_capacity": "",
        "host_networking": "",
        "host_networking_topology": "",
        "host_network_card_count": "",
        **gpus,
        "accelerator_host_interconnect": _pcie(hardware.gpus or ()),
        "accelerator_interconnect": hardware.interconnect or "",
        "accelerator_interconnect_topology": "",
        "accelerator_memory_configuration": "",
        "accelerator_on-chip_memories": "",
        "cooling": "",
        "hw_notes": _settings(hardware),
        "framework": framework,
        "operating_system": " ".join(filter(None, (software.os.name, software.os.version))),
        "other_software_stack": _stack(hardware, software),
        "sw_notes": "",
    }


def _cores_per_socket(cpu: CpuHardware) -> str | int:
    """Physical cores of one processor, which is what MLPerf counts; empty where the sockets are not alike."""
    if cpu.physical_cores is None or cpu.sockets is None or cpu.physical_cores % cpu.sockets:
        return ""
    return cpu.physical_cores // cpu.sockets


def _cache(cache: Cache) -> str:
    """One kind of cache, with the size of an instance and their number."""
    size = cache.size_bytes / (1 << 20)
    text = f"{size:g} MiB" if size >= 1 else f"{cache.size_bytes / 1024:g} KiB"
    return f"L{cache.level}{_NAMES[cache.type]}: {text} x {cache.instances}"


def _gpus(told: tuple[GpuHardware, ...] | None) -> dict[str, str | int]:
    """Number, models, memory and clock of the accelerators; several models are listed with their numbers."""
    gpus = told or ()
    models = Counter(gpu.name for gpu in gpus)
    names = [name if len(models) == 1 else f"{count} x {name}" for name, count in models.items()]
    memory = {f"{gpu.memory_bytes / _GIB:.0f} GiB" for gpu in gpus if gpu.memory_bytes is not None}
    clocks = {f"{gpu.max_sm_clock_hz / 1e6:.0f} MHz" for gpu in gpus if gpu.max_sm_clock_hz is not None}
    return {
        "accelerators_per_node": "" if told is None else len(gpus),
        "accelerator_model_name": ", ".join(names),
        "accelerator_memory_capacity": ", ".join(sorted(memory)),
        "accelerator_frequency": ", ".join(sorted(clocks)),
    }


def _pcie(gpus: tuple[GpuHardware, ...]) -> str:
    links = {
        f"PCIe Gen{gpu.pcie_generation} x{gpu.pcie_width}"
        for gpu in gpus
        if gpu.pcie_generation is not None and gpu.pcie_width is not None
    }
    return ", ".join(sorted(links))


def _virtual(hardware: HardwareManifest) -> str:
    machine = hardware.virtualisation
    if not machine.guest:
        return "" if machine.guest is None else "bare metal"
    return f"virtual machine ({machine.hypervisor})" if machine.hypervisor else "virtual machine"


def _settings(hardware: HardwareManifest) -> str:
    """How the machine is set, as far as it tells."""
    cpu, allowed = hardware.cpu, hardware.allowance
    notes = [
        f"governor {cpu.governor}" if cpu.governor else "",
        "" if cpu.boost is None else f"boost {'on' if cpu.boost else 'off'}",
        "" if cpu.smt is None else f"SMT {'on' if cpu.smt else 'off'}",
        f"CPU quota {allowed.cpu_quota:g}" if isinstance(allowed.cpu_quota, float) else "",
    ]
    return ", ".join(filter(None, notes))


def _stack(hardware: HardwareManifest, software: SoftwareManifest) -> str:
    parts = [f"Linux {software.os.kernel}" if software.os.kernel else "", software.os.libc or ""]
    parts.append(f"Python {software.python.version}" if software.python.version else "")
    parts += [f"{name} {version}" for name, version in software.packages.items()]
    drivers = sorted({gpu.driver_version for gpu in hardware.gpus or () if gpu.driver_version is not None})
    parts += [f"NVIDIA driver {version}" for version in drivers]
    return ", ".join(filter(None, parts))
