"""Facts about MLPerf's system description: all required fields, MLPerf's units of counting, and no invented values."""

from __future__ import annotations

import json

from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.mlperf import system_description
from stratoscope.spec.software import SoftwareManifest

#: Fields that the submission checker of mlcommons/inference requires, as listed in its constants.
REQUIRED = [
    "division",
    "submitter",
    "status",
    "system_name",
    "number_of_nodes",
    "host_processor_model_name",
    "host_processors_per_node",
    "host_processor_core_count",
    "host_memory_capacity",
    "host_storage_capacity",
    "host_storage_type",
    "accelerators_per_node",
    "accelerator_model_name",
    "accelerator_memory_capacity",
    "framework",
    "operating_system",
    "other_software_stack",
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "host_networking",
    "host_networking_topology",
    "host_network_card_count",
    "host_memory_configuration",
    "accelerator_host_interconnect",
    "accelerator_frequency",
    "accelerator_on-chip_memories",
    "accelerator_memory_configuration",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "cooling",
    "hw_notes",
    "sw_notes",
    "system_type",
    "system_type_detail",
]

SERVER = HardwareManifest.model_validate(
    {
        "cpu": {
            "model": "Xeon 8480+",
            "sockets": 2,
            "physical_cores": 112,
            "logical_cpus": 224,
            "smt": True,
            "boost": False,
            "governor": "performance",
            "max_clock_hz": 3.8e9,
            "caches": [
                {"level": 1, "type": "data", "size_bytes": 48 << 10, "shared_by": 2, "instances": 112},
                {"level": 3, "type": "unified", "size_bytes": 105 << 20, "shared_by": 112, "instances": 2},
            ],
        },
        "memory": {"total_bytes": 512 << 30},
        "virtualisation": {"guest": False},
        "allowance": {"cpu_quota": 2.5},
        "gpus": [
            {"index": i, "name": "H100", "memory_bytes": 80 << 30, "driver_version": "550", "max_sm_clock_hz": 1.98e9}
            | {"pcie_generation": 5, "pcie_width": 16}
            for i in range(8)
        ],
    }
)
SOFTWARE = SoftwareManifest.model_validate(
    {"os": {"name": "debian", "version": "12", "kernel": "6.1"}, "packages": {"numpy": "2.0"}}
)


def test_a_server_is_described_as_mlperf_counts_it():
    described = system_description(SERVER, SOFTWARE, framework="onnxruntime 1.31")
    assert set(described) == set(REQUIRED)
    expected = {
        "host_processors_per_node": 2,
        "host_processor_core_count": 56,  # of one processor
        "host_processor_frequency": "3.80 GHz",
        "host_processor_caches": "L1d: 48 KiB x 112; L3: 105 MiB x 2",
        "host_memory_capacity": "512.0 GiB",
        "accelerators_per_node": 8,
        "accelerator_model_name": "H100",
        "accelerator_memory_capacity": "80 GiB",
        "accelerator_frequency": "1980 MHz",
        "accelerator_host_interconnect": "PCIe Gen5 x16",
        "system_name": "Xeon 8480+ + H100",
        "system_type_detail": "bare metal",
        "hw_notes": "governor performance, boost off, SMT on, CPU quota 2.5",
        "framework": "onnxruntime 1.31",
        "operating_system": "debian 12",
        "other_software_stack": "Linux 6.1, numpy 2.0, NVIDIA driver 550",
    }
    assert {name: described[name] for name in expected} == expected
    json.dumps(described)


def test_what_is_not_known_is_left_empty():
    described = system_description(HardwareManifest(), SoftwareManifest())
    empty = {name for name, value in described.items() if value == ""}
    told = {"division", "status", "number_of_nodes", "system_type"}
    assert empty == set(REQUIRED) - told
    assert system_description(HardwareManifest(gpus=()), SoftwareManifest())["accelerators_per_node"] == 0
