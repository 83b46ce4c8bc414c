"""The zoo's table as Markdown."""

from __future__ import annotations

from collections.abc import Callable

from stratoscope.report.tables import zoo_table
from stratoscope.spec.record import RunRecord


def test_a_row_has_the_record_s_figures(make_record: Callable[..., RunRecord]) -> None:
    assert zoo_table([make_record()]).splitlines() == [
        "| model | layers | unique layers | GFLOPs | parameters | median latency | optimal batch |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| resnet50 | 5 | 4 | 7.70 | 25.6 M | 10.00 ms ± 0.20 | 8 |",
    ]


def test_what_was_not_measured_says_so(bare_record: RunRecord) -> None:
    assert zoo_table([bare_record]).splitlines()[-1] == (
        "| resnet50 | unavailable | unavailable | unavailable | unavailable | not measured | not measured |"
    )


def test_a_name_cannot_break_the_table(make_record: Callable[..., RunRecord]) -> None:
    row = zoo_table([make_record(model="a|b\nc")]).splitlines()[-1]
    assert row.startswith("| a\\|b c | 5 |")
