"""What the rules of advice look at: the profile, the graph, the options in effect, and what the machine has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stratoscope.spec.advice import LayerBound
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.record import LayerRow, ProfileSection, SweepSection

#: Instruction sets with products of bfloat16.
BFLOAT16_ISA: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class Facts:
    """One model on one back end, as far as rules ask.

    Attributes:
        options: those that were asked for.
        cpus: logical CPUs that this process may use.
        cpu: the CPU's name, as the system tells it.
        isa: its instruction sets.
        other_backends: back ends that are available here besides `backend` (not the null one).
        fits: key of a graph rewrite -> names of the authored nodes that it would change; only those that fit.
        bounds: the layers with their best library calls; empty where nothing is known of them.
        parallel_gain: sequential over parallel bound; None where it is not known.
        operators: of the authored graph, with their number.
        chosen: names of options that the user set himself: advice does not overrule them.
    """

    backend: str
    options: BackendOptions
    profile: ProfileSection | None = None
    sweep: SweepSection | None = None
    cpus: int = 1
    cpu: str = ""
    isa: frozenset[str] = frozenset()
    other_backends: tuple[str, ...] = ()
    fits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: tuple[LayerBound, ...] = ()
    parallel_gain: float | None = None
    operators: Mapping[str, int] = field(default_factory=dict)
    chosen: frozenset[str] = frozenset()

    def layers_over(self, authored: Iterable[str]) -> tuple[LayerRow, ...]:
        """The executed layers that cover any of these authored layers."""
        wanted = set(authored)
        rows = self.profile.layers if self.profile is not None else ()
        return tuple(row for row in rows if wanted & {row.name, *row.authored})

    def layers_of(self, *ops: str) -> tuple[LayerRow, ...]:
        """The executed layers of these operators."""
        rows = self.profile.layers if self.profile is not None else ()
        return tuple(row for row in rows if row.op in ops)

    def share(self, rows: Iterable[LayerRow]) -> float | None:
        """The part of the summed layer time that these take; None where one has no time, or nothing was profiled."""
        shares = [row.share for row in rows]
        if self.profile is None or any(share is None for share in shares):
            return None
        return sum(share for share in shares if share is not None)

    @property
    def threads(self) -> int:
        """Threads of one operator: those asked for, else the CPUs there are."""
        return self.options.threads or self.cpus
