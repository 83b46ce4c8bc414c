"""Q4: where the framework itself loses time, which nothing here can undo but the reader wants to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from stratoscope.explain.advice.changes import Change
from stratoscope.explain.advice.facts import Facts
from stratoscope.explain.advice.finding import Finding, count_of, takes
from stratoscope.spec.advice import LayerBound

#: What takes less than this part of the inference is not worth a word.
LEAST_SHARE: Final = 0.05
#: A layer is slow where its best library call takes so many times less.
LEAST_FACTOR: Final = 1.5
#: Layers that a runtime puts in to change layout, type or place.
CONVERSIONS: Final = (
    "ReorderInput",
    "ReorderOutput",
    "Reorder",
    "Convert",
    "Cast",
    "Transpose",
    "MemcpyFromHost",
    "MemcpyToHost",
)
_MS: Final = 1e3


def framework_findings(facts: Facts) -> Iterator[Finding]:
    """Time between layers, layers that the runtime put in, and layers far slower than their best library call."""
    yield from _between(facts)
    yield from _put_in(facts)
    yield from _slow(facts)


def _between(facts: Facts) -> Iterator[Finding]:
    profile = facts.profile
    if profile is None or profile.gap.value is None or profile.profiled_model_time.value is None:
        return
    share = profile.gap.value / profile.profiled_model_time.value
    if share < LEAST_SHARE:
        return
    each = profile.gap.value / max(1, len(profile.layers))
    yield Finding(
        "between-layers",
        "Q4",
        "Time between layers: dispatch, allocation and waits",
        f"{share:.0%} of an inference is between its {count_of(len(profile.layers), 'layer')}, "
        f"{each * 1e6:.1f} µs each",
        "fewer layers (Q5: fusion, compilation) or larger ones (Q9: batches) have less between them",
        Change(),
        share=share,
        untried="it says where time goes; what may cut it is tried by itself",
    )


def _put_in(facts: Facts) -> Iterator[Finding]:
    profile = facts.profile
    if profile is None or not any(row.authored for row in profile.layers):
        return  # it is not known which layers the model asks for
    rows = [row for row in profile.layers if row.op in CONVERSIONS and not row.authored]
    share = facts.share(rows) if rows else None
    if share is None or share < LEAST_SHARE:
        return
    kinds = Counter(row.op for row in rows)
    named = ", ".join(f"{number} {op}" for op, number in kinds.most_common())
    yield Finding(
        "put-in",
        "Q4",
        "Layers that the runtime put in to change layout or type",
        f"{count_of(len(rows), 'layer')} that no layer of the model asks for ({named}) {takes(share)}",
        "another graph level (Q8) or layout (Q7) needs fewer",
        Change(),
        tuple(row.name for row in rows),
        share,
        "it says where time goes; what may cut it is tried by itself",
    )


def _slow(facts: Facts) -> Iterator[Finding]:
    """By operator, the one that could save the most first."""
    whole = facts.profile.model_time.value if facts.profile is not None else None
    slow: dict[str, list[tuple[float, LayerBound]]] = {}
    for one in facts.bounds:
        now, best = one.measured.value, one.best.value
        if now is not None and best is not None and now >= LEAST_FACTOR * best:
            slow.setdefault(one.op, []).append((now - best, one))
    savings = {op: sum(saved for saved, _ in found) for op, found in slow.items()}
    for op in sorted(savings, key=lambda key: -savings[key]):
        if whole is None or savings[op] < LEAST_SHARE * whole:
            continue
        worst = max(slow[op], key=lambda one: one[0])[1]
        yield Finding(
            f"slow-{op.lower()}",
            "Q4",
            f"{op} far slower than the best library call",
            f"{count_of(len(slow[op]), 'layer')} could save {savings[op] / whole:.0%} of the inference; the "
            f"largest takes {worst.measured.require() * _MS:.3g} ms here and {worst.best.require() * _MS:.3g} ms with "
            f"{worst.best_candidate}",
            "use what computes them faster: another layout (Q7), implementation (Q3) or runtime (Q10)",
            Change(),
            tuple(one.authored[0] if one.authored else one.name for _, one in slow[op]),
            sum(one.measured.require() for _, one in slow[op]) / whole,
            "it says where time goes; what may cut it is tried by itself",
        )
