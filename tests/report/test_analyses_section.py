"""The analyses on the page: every one that tells something, with its plot, and the reasons of those that do not."""

from __future__ import annotations

import re

import polars as pl
import pytest

from stratoscope.explain.analyses.registry import registry
from stratoscope.explain.analyses.result import AnalysisResult, Scalar
from stratoscope.report.sections.analyses import MOST_ROWS, section
from stratoscope.report.sections.analysis_plots import plot_of
from stratoscope.spec.record import Unavailable


def _result(analysis: str, rows: list[dict[str, object]], **facts: Scalar) -> AnalysisResult:
    """A result with these cells; what a row leaves out is not known."""
    found = registry()[analysis]
    schema = {column.name: column.dtype for column in found.columns}
    full = [{name: row.get(name) for name in schema} for row in rows]
    return AnalysisResult(analysis, found.title, found.columns, pl.DataFrame(full, schema=schema), facts)


def _layers(times: list[float], analysis: str = "A3", key: str = "time_s") -> AnalysisResult:
    return _result(analysis, [{"index": n, "name": f"n{n}", "type": "Conv", key: t} for n, t in enumerate(times)])


def test_a_table_is_cut_but_its_plot_has_every_layer_and_the_first_one() -> None:
    count = MOST_ROWS + 7
    result = _layers([1e-3 * (n + 1) for n in range(count)])
    built = section([result])
    assert built is not None
    assert f"The first {MOST_ROWS} of {count} rows" in built.body
    assert built.body.count("<tr>") == MOST_ROWS + 1
    drawn = plot_of(result)
    assert drawn is not None
    assert drawn.count("<rect") == count
    assert 'data-tip="n0: 1.00 ms"' in drawn


def test_columns_are_as_high_as_their_values() -> None:
    drawn = plot_of(_layers([2e-3, 1e-3, 4e-3]))
    assert drawn is not None
    heights = [float(text) for text in re.findall(r'<rect[^>]*? height="([0-9.]+)%"', drawn)]
    assert [height / heights[1] for height in heights] == pytest.approx([2.0, 1.0, 4.0], rel=1e-4)


def test_bars_of_types_are_in_proportion_and_sorted() -> None:
    rows: list[dict[str, object]] = [
        {"type": "Relu", "layers": 3, "time_s": 1e-3, "share": 0.2},
        {"type": "Conv", "layers": 1, "time_s": 4e-3, "share": 0.8},
        {"type": "Cast", "layers": 1},
    ]
    drawn = plot_of(_result("A6", rows))
    assert drawn is not None
    assert [float(text) for text in re.findall(r"width:([0-9.]+)%", drawn)] == [100.0, 25.0]
    assert drawn.index("Conv") < drawn.index("Relu")
    assert "Cast" not in drawn


def test_the_roof_bends_at_the_ridge_and_points_without_operations_are_counted() -> None:
    point = {"flops": 1e6, "time_s": 1e-3, "bytes": 1e5, "bound": "compute-bound"}
    rows: list[dict[str, object]] = [
        {**point, "name": "a", "intensity": 10.0, "flop_rate": 1e9},
        {**point, "name": "b", "intensity": 1.0, "flop_rate": 1e9},
        {**point, "name": "reorder", "intensity": 0.0, "flop_rate": 0.0},
    ]
    roofs: dict[str, Scalar] = {"bandwidth_bytes_per_s": 1e9, "peak_float32_flops_per_s": 4e9}
    drawn = plot_of(_result("A9", rows, **roofs))
    assert drawn is not None
    assert drawn.count("<circle") == 2
    assert "1 of 3 without operations have no place here" in drawn
    slope, flat = re.findall(
        r'<line x1="([0-9.]+)%" y1="([0-9.]+)%" x2="([0-9.]+)%" y2="([0-9.]+)%" class="guide"', drawn
    )
    assert slope[2:] == flat[:2]  # the ridge
    xs = [float(text) for text in re.findall(r'<circle cx="([0-9.]+)%"', drawn)]
    assert min(xs) < float(slope[2]) < max(xs)  # 4 FLOP/byte lies between 1 and 10
    bare = plot_of(_result("A14", rows))
    assert bare is not None
    assert "no roofs are known" in bare
    assert 'class="guide"' not in bare


def test_a13_shows_kernels_beside_their_layers() -> None:
    row: dict[str, object] = {"index": 0, "name": "n0", "type": "Conv", "layer_time_s": 2e-3, "kernel_time_s": 3e-3}
    drawn = plot_of(_result("A13", [row]))
    assert drawn is not None
    layer, kernels = (float(text) for text in re.findall(r'<rect[^>]*? height="([0-9.]+)%"', drawn))
    assert kernels / layer == pytest.approx(1.5, rel=1e-4)


def test_reasons_are_told_once_and_names_cannot_break_out() -> None:
    why = "no run has kernel spans"
    hostile = _result("A5", [{"type": "<script>alert(1)</script>", "layers": 1, "share": 1.0}])
    missing = [Unavailable(what=f"{one} {registry()[one].title}", why=why) for one in ("A8", "A9")]
    built = section([hostile, *missing])
    assert built is not None
    assert "<script>" not in built.body
    assert built.body.count(why) == 1
    assert "A8, A9" in built.body
    assert section(missing) is None
