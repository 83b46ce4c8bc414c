"""The faces of a machine record: nothing missing, nothing fetched, nothing that a host's name can do."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from stratoscope.report.machine_comparison import render_comparison
from stratoscope.report.machine_page import render_machine_page, write_machine_page
from stratoscope.report.machine_terminal import render_machine
from stratoscope.report.markup import _VOID
from stratoscope.store.machine_comparison import compare_machines


class Balanced(HTMLParser):
    """Fails on tags that do not nest; keeps ids, sources and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        assert not any(name in {"src", "onload", "onclick"} for name, _ in attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data


def shown(render: object, *arguments: object, width: int = 80) -> str:
    text = io.StringIO()
    render(*arguments, Console(file=text, width=width))  # type: ignore[operator]
    return text.getvalue()


def test_the_page_is_whole_and_needs_nothing_else(machines: ModuleType, tmp_path: Path) -> None:
    path = write_machine_page(machines.make_machine(), tmp_path / "machine.html")
    source = path.read_text()
    page = Balanced(source)
    assert {"memory", "compute", "costs", "all", "environment", "missing"} <= set(page.ids)
    assert "default-src 'none'" in source
    assert not re.search(r'(?:href|src)="(?!#|data:)', source)
    assert "bench<1>" in page.text
    assert "<1>" not in source.replace("&lt;1&gt;", "").replace("\\u003c1\\u003e", "")


def test_the_page_has_the_charts_with_ridge_points(machines: ModuleType) -> None:
    source = render_machine_page(machines.make_machine())
    for title in ("Bandwidth over the working set", "Latency over the working set", "Roofline, 1 thread"):
        assert title in source
    # 120 GFLOP/s over 40 GB/s, 200 over 40.
    assert "ridge point of fp32 and memory: 3.0" in source
    assert "ridge point of bf16 and memory: 5.0" in source
    assert "L3 32 MiB" in source


@pytest.mark.parametrize("measurements", [0, 1, 2])
def test_a_page_of_almost_nothing_says_so(machines: ModuleType, measurements: int) -> None:
    record = machines.make_machine(measurements=machines.default_measurements()[:measurements])
    page = Balanced(render_machine_page(record))
    assert "no NVIDIA GPU" in page.text
    assert "Roofline" not in page.text


def test_the_terminal_shows_every_table_and_what_is_missing(machines: ModuleType) -> None:
    text = shown(render_machine, machines.make_machine())
    for part in ("Bandwidth", "Peak FLOP/s", "Costs", "Transfers", "State meanwhile", "Not available"):
        assert part in text
    assert "40.0 GB/s" in text or "40 GB/s" in text
    assert "no permission to read" in text
    assert "probe gpu: no nvidia-smi" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_a_host_name_cannot_rewrite_the_terminal(machines: ModuleType) -> None:
    record = machines.make_machine(notes=("\x1b[2Jgone",))
    assert "\x1b[2J" not in shown(render_machine, record)


def test_two_runs_that_agree_have_overlapping_intervals(machines: ModuleType) -> None:
    comparison = compare_machines(machines.make_machine(), machines.make_machine(id="m2"))
    assert comparison.overlapping == comparison.judged == len(machines.default_measurements())
    assert comparison.aspects == ()
    text = shown(render_comparison, comparison)
    assert "intervals overlap in 30 of 30 benchmarks (100%)" in " ".join(text.split())


def test_a_slower_machine_is_called_slower_and_new_benchmarks_are_named(machines: ModuleType) -> None:
    first = machines.make_machine(measurements=(machines.peak("fp32", 1, 100), machines.peak("fp64", 1, 50)))
    second = machines.make_machine(
        id="m2",
        measurements=(machines.peak("fp32", 1, 50), machines.peak("bf16", 1, 50)),
        digests={"hardware": "sha256:other", "software": first.digests["software"]},
    )
    comparison = compare_machines(first, second)
    (row,) = comparison.rows
    assert row.comparison.verdict == "slower"
    assert row.comparison.ratio.value == pytest.approx(2.0)
    assert row.overlap == "no"
    assert comparison.aspects == ("hardware",)
    assert len(comparison.only_a) == len(comparison.only_b) == 1
    document = comparison.to_json()
    assert document["benchmarks"][0]["verdict"] == "slower"
    assert "B is slower" in shown(render_comparison, comparison)
