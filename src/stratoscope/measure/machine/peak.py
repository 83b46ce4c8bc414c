"""Probe of arithmetic: chains of multiply-adds in registers, per instruction set; what no program can exceed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from stratoscope.measure.machine.probe import Case, Prepared, ProbeUnavailable, Setting

#: Kinds of kernels.c: what goes in (dtype) and the instructions; int8 counts its integer operations as FLOPs.
KINDS: Final = (
    ("fp32", "128-bit"),
    ("fp64", "128-bit"),
    ("fp32", "avx2"),
    ("fp64", "avx2"),
    ("fp32", "avx512"),
    ("fp64", "avx512"),
    ("bf16", "avx512_bf16"),
    ("int8", "avx512_vnni"),
)


class PeakProbe:
    """Multiply-adds a second with all operands in registers."""

    name = "peak"
    title = "peak arithmetic in registers, per dtype and instruction set"

    def check(self, setting: Setting) -> str | None:
        """Needs the compiled kernels."""
        return setting.no_kernels or None

    def register(self, setting: Setting) -> Iterable[Case]:
        """What the compiler could build for this CPU; the 128-bit forms only with --full, where a wider one exists."""
        kernels = setting.kernels
        if kernels is None:
            return
        wide = {dtype for kind, (dtype, isa) in enumerate(KINDS) if isa != "128-bit" and kernels.chain_flops(kind)}
        for kind, (dtype, isa) in enumerate(KINDS):
            flops = kernels.chain_flops(kind)
            if flops and (setting.full or isa != "128-bit" or dtype not in wide):
                for threads in setting.thread_counts:
                    yield Case(
                        family="peak/multiply-add",
                        parameters={"dtype": dtype, "isa": isa, "threads": threads},
                        unit="FLOP/s",
                        flops=float(flops * threads),
                        priority=2,
                    )

    @contextmanager
    def run(self, case: Case, setting: Setting) -> Iterator[Prepared]:
        """One operation is a round of 12 chains on every thread."""
        kernels = setting.kernels
        if kernels is None:
            raise ProbeUnavailable(setting.no_kernels)
        kind = KINDS.index((str(case.parameters["dtype"]), str(case.parameters["isa"])))
        cpus = setting.cpus[: int(case.parameters["threads"])]
        yield Prepared(lambda rounds: kernels.chain(kind, rounds, cpus))
