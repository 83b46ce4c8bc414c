"""A comparison of two machine records on a terminal: how many agree, and where they differ most."""

from __future__ import annotations

import math

from rich.console import Console

from stratoscope.report import format as fmt
from stratoscope.report import machine_words as words
from stratoscope.store.machine_comparison import BenchmarkComparison, MachineComparison


def render_comparison(comparison: MachineComparison, console: Console, most: int | None = None) -> None:
    """Prints the verdicts; at most `most` rows, those that differ most (None: all, in the record's order)."""
    for name, record in (("A", comparison.a), ("B", comparison.b)):
        moment = record.created_at.strftime("%Y-%m-%d %H:%M %Z").strip()
        _line(console, f"{name}  {record.id}  {moment}  {words.title(record)}  {words.how_measured(record)}")
    differing = comparison.aspects
    _line(console, f"differs in: {', '.join(differing)}" if differing else "hardware and software are the same")
    judged = comparison.judged
    if judged:
        share = comparison.overlapping / judged
        _line(console, f"intervals overlap in {comparison.overlapping} of {judged} benchmarks ({share:.0%})")
    else:
        _line(console, "no benchmark has an interval in both records")
    slower = sum(row.comparison.verdict == "slower" for row in comparison.rows)
    faster = sum(row.comparison.verdict == "faster" for row in comparison.rows)
    _line(console, f"B is slower in {slower}, faster in {faster}, no difference seen in the rest")
    if slower + faster:
        _line(
            console,
            f"of {len(comparison.rows)} comparisons at 95 % some {len(comparison.rows) / 20:.0f} differ by chance",
        )
    rows = list(comparison.rows)
    if most is not None:
        rows = sorted(rows, key=_distance, reverse=True)[:most]
    for row in rows:
        _line(console, "")
        _line(console, row.name)
        verdict = (
            f"B is {row.comparison.verdict}" if row.comparison.verdict != "no difference seen" else "no difference seen"
        )
        ratio = fmt.text(row.comparison.ratio)
        _line(console, f"    A {fmt.text(row.a.figure)}   B {fmt.text(row.b.figure)}   time B / A {ratio}   {verdict}")
    if rows:
        _line(console, "")
    for name, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        if names:
            _line(console, f"only in {name}: {len(names)} benchmarks ({names[0]}{', ...' if len(names) > 1 else ''})")


def _distance(row: BenchmarkComparison) -> float:
    value = row.comparison.ratio.value
    return abs(math.log(value)) if value else -1.0


def _line(console: Console, text: str) -> None:
    console.print(_clean(text), markup=False, highlight=False, soft_wrap=True)


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
