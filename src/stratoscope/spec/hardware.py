"""The hardware manifest: which processors, memory and accelerators, how they are set, and how much of them is ours."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from stratoscope.spec.base import Document, Manifest, SemVer

Unlimited = Literal["unlimited"]


class Cache(Document):
    """One kind of cache of the CPUs."""

    level: PositiveInt
    type: Literal["data", "instruction", "unified"]
    size_bytes: PositiveInt = Field(description="of one instance")
    line_bytes: PositiveInt | None = None
    shared_by: PositiveInt = Field(description="logical CPUs that share one instance")
    instances: PositiveInt


class CpuHardware(Document):
    """The CPUs and how they are set. A field that is absent was not told: see the manifest's `unavailable`."""

    architecture: str | None = Field(default=None, description="x86_64, aarch64, ...")
    vendor: str | None = None
    model: str | None = None
    family: int | None = None
    model_number: int | None = None
    stepping: int | None = None
    microcode: str | None = None
    isa: tuple[str, ...] | None = Field(
        default=None, description="instruction-set extensions that matter to numerical kernels, sorted"
    )
    sockets: PositiveInt | None = None
    physical_cores: PositiveInt | None = None
    logical_cpus: PositiveInt | None = Field(default=None, description="CPUs that are online")
    smt: bool | None = Field(default=None, description="several hardware threads of one core are online")
    numa_nodes: PositiveInt | None = None
    caches: tuple[Cache, ...] | None = None
    frequency_driver: str | None = None
    governor: str | None = Field(default=None, description="frequency governor; several are joined by a comma")
    boost: bool | None = Field(default=None, description="turbo frequencies are allowed")
    min_clock_hz: PositiveFloat | None = None
    max_clock_hz: PositiveFloat | None = None


class Memory(Document):
    """Main memory."""

    total_bytes: PositiveInt | None = Field(
        default=None,
        description="as the kernel has it, to 64 MiB: what the kernel keeps for itself moves with its version",
    )


class Virtualisation(Document):
    """Whether the machine is a guest, and whose."""

    guest: bool | None = None
    hypervisor: str | None = None


class Allowance(Document):
    """What this process may use of the machine."""

    cpus: tuple[NonNegativeInt, ...] | None = Field(default=None, description="CPUs of the process's affinity mask")
    cpu_quota: PositiveFloat | Unlimited | None = Field(default=None, description="CPUs' worth of time, by cgroup")
    memory_limit_bytes: PositiveInt | Unlimited | None = Field(default=None, description="by cgroup")


class GpuHardware(Document):
    """One GPU and how it is set."""

    index: NonNegativeInt
    name: str
    memory_bytes: PositiveInt | None = None
    driver_version: str | None = None
    compute_capability: str | None = None
    max_sm_clock_hz: PositiveFloat | None = None
    max_memory_clock_hz: PositiveFloat | None = None
    power_limit_w: PositiveFloat | None = None
    persistence_mode: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None
    pcie_generation: PositiveInt | None = None
    pcie_width: PositiveInt | None = None


class GpuState(Document):
    """What a GPU was doing at the moment of capture."""

    index: NonNegativeInt
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    utilisation: float | None = Field(default=None, description="0 to 1")


class MachineState(Document):
    """What varies from moment to moment, at the moment of capture; no part of the machine's identity."""

    cpu_clock_hz: tuple[float, ...] | None = Field(default=None, description="current clock of each CPU")
    load_average: float | None = Field(default=None, description="one minute")
    memory_available_bytes: int | None = None
    gpus: tuple[GpuState, ...] = ()


class HardwareManifest(Manifest):
    """The machine of a run (DLSpec's hardware manifest), captured or written by hand.

    A field that is absent is not known; in a captured manifest `unavailable` says why, by the field's path
    ("cpu.governor"). Equal digests mean the same hardware, set the same way, with the same share of it ours.
    """

    schema_: Literal["stratoscope/hardware/1"] = Field(default="stratoscope/hardware/1", alias="schema")
    not_content: ClassVar[frozenset[str]] = frozenset(
        {"id", "version", "description", "hostname", "state", "unavailable", "setup"}
    )

    id: str = "captured"
    version: SemVer = "1.0.0"
    description: str = ""
    hostname: str | None = None
    setup: str | None = Field(default=None, description="what was done to the machine before (text; never executed)")
    cpu: CpuHardware = CpuHardware()
    memory: Memory = Memory()
    virtualisation: Virtualisation = Virtualisation()
    allowance: Allowance = Allowance()
    gpus: tuple[GpuHardware, ...] | None = Field(default=None, description="empty: the machine has none")
    interconnect: str | None = Field(default=None, description="between devices or machines, where that matters")
    state: MachineState = MachineState()
    unavailable: dict[str, str] = Field(default={}, description="path of a field that is absent -> why")
