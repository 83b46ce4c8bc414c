"""What advice would change: the graph, the options of the back end, the back end itself, or its modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Largest difference of the outputs over their largest magnitude where the same is computed in another order.
SAME_NUMBERS: Final = 1e-4
#: The same for bfloat16 (8 bits of mantissa: 0.4 % a rounding) through a deep network.
BFLOAT16_NUMBERS: Final = 5e-2


@dataclass(frozen=True, slots=True)
class Change:
    """A change that can be carried out and undone.

    Attributes:
        graph: keys of the graph rewrites.
        options: fields of `BackendOptions` with their new values.
        backend: another back end, or None.
        modules: key of a replacement of PyTorch modules, or None.
        tolerance: of the outputs against the original's.
        calls: (library, implementation, layout) of the library calls that layers become, from whose times the gain is
            predicted; None where nothing predicts it so.
    """

    graph: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    modules: str | None = None
    tolerance: float = SAME_NUMBERS
    calls: tuple[str, str, str] | None = None

    @property
    def changes_numbers(self) -> bool:
        """Whether it computes in another precision."""
        return self.tolerance > SAME_NUMBERS

    def with_(self, other: Change) -> Change | None:
        """Both at once; None where they contradict each other."""
        if self.backend is not None and other.backend is not None and self.backend != other.backend:
            return None
        if self.modules is not None and other.modules is not None:
            return None
        if any(self.options[name] != other.options[name] for name in self.options.keys() & other.options.keys()):
            return None
        return Change(
            tuple(dict.fromkeys((*self.graph, *other.graph))),
            {**self.options, **other.options},
            self.backend or other.backend,
            self.modules or other.modules,
            max(self.tolerance, other.tolerance),
        )
