"""Probe of NVIDIA GPUs through PyTorch: copies, device memory, matrix products, launches, graphs, peer copies."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Setting
from stratoscope.measure.machine.workers import worker_case

#: Host to device and back, from pageable and pinned memory; duplex counts both directions' bytes together.
COPIES: Final = ("h2d-pageable", "h2d-pinned", "d2h-pageable", "d2h-pinned", "duplex-pinned")
COPY_SIZES: Final = (64 << 10, 1 << 20, 64 << 20)
COPY_SIZES_FULL: Final = tuple(1 << power for power in range(12, 31, 2))
#: Kernels on device memory and how many arrays each reads or writes.
DEVICE: Final = {"copy": 2, "scale": 2, "add": 3, "read": 1}
DEVICE_BYTES: Final = 512 << 20
PRODUCTS: Final = ("fp64", "fp32", "tf32", "fp16", "bf16", "int8", "fp8")
PRODUCT_SIZES: Final = (4096,)
PRODUCT_SIZES_FULL: Final = (1024, 2048, 4096, 8192, 16384)


class GpuProbe:
    """What each GPU can do; timed with the device's own events, in a process of its own."""

    name = "gpu"
    title = "GPU: copies both ways and duplex, device bandwidth, GEMM peaks, launch and graph launch, peer copies"

    def check(self, setting: Setting) -> str | None:
        """Needs the driver and a PyTorch built for CUDA; neither is loaded to find out."""
        return device_count(setting)[1]

    def register(self, setting: Setting) -> Iterable[Case]:
        """All of it for each device; peer copies from device 0 to each other one."""
        devices, _ = device_count(setting)
        sizes = COPY_SIZES_FULL if setting.full else COPY_SIZES
        for device in range(devices):
            for what in COPIES:
                for size in (size for size in sizes if size <= setting.memory_bytes // 4):
                    moved = size * (2 if what.startswith("duplex") else 1)
                    yield _case(f"gpu/{what}", device, "byte/s", bytes=moved, size=size)
            for kernel, arrays in DEVICE.items():
                yield _case(f"gpu/device-{kernel}", device, "byte/s", bytes=DEVICE_BYTES * arrays, size=DEVICE_BYTES)
            for dtype in PRODUCTS:
                for n in PRODUCT_SIZES_FULL if setting.full else PRODUCT_SIZES:
                    yield _case("gpu/gemm", device, "FLOP/s", flops=2.0 * n**3, dtype=dtype, n=n)
            for what in ("launch", "graph-launch", "synchronize"):
                yield _case(f"gpu/{what}", device, "s")
        for other in range(1, devices):
            for size in sizes:
                yield _case("gpu/peer", 0, "byte/s", bytes=size, size=size, to=other)

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation is one copy, kernel, product or launch."""
        asked = {"kind": case.family.rpartition("/")[2], **case.parameters}
        with worker_case(setting.workers, "cuda", 1, asked) as prepared:
            yield prepared


def device_count(setting: Setting) -> tuple[int, str | None]:
    """How many CUDA devices PyTorch can use; where none, why. Asks a worker, where there is a driver."""
    if shutil.which("nvidia-smi") is None:
        return 0, "no nvidia-smi on the PATH: no NVIDIA GPU, or no driver"
    if importlib.util.find_spec("torch") is None:
        return 0, "torch is not installed"
    try:
        count = int(setting.workers.get("cuda", 1).ask(do="open", case={"kind": "devices"})["note"])
    except ProbeUnavailable as error:
        return 0, str(error)
    return count, None if count else "this PyTorch finds no CUDA device"


def _case(
    family: str, device: int, unit: str, *, bytes: float | None = None, flops: float | None = None, **more: int | str
) -> Case:
    return Case(family, {"device": device, **more}, unit, bytes=bytes, flops=flops, priority=2)
