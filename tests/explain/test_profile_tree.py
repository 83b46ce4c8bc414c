"""The tree of a profile from the model to its primitives, and how a terminal and a page show it."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from stratoscope.explain.profile_tree import Node, profile_tree
from stratoscope.report.html import render
from stratoscope.report.profile_text import render_profile
from stratoscope.spec.profile import LevelCost, OperatorRow, PrimitiveRow, Reconstruction, Reorders
from stratoscope.spec.record import ProfileSection, RunRecord
from stratoscope.stats.quantity import Quantity


def seconds(microseconds: float) -> Quantity:
    value = microseconds * 1e-6
    return Quantity(value=value, unit="s", statistic="trimmed_mean", n=9, ci_low=value * 0.9, ci_high=value * 1.1)


def operator(site: str, parent: str, layer: str, depth: int, time: float, own: float) -> OperatorRow:
    return OperatorRow(
        site=site,
        parent=parent,
        name=f"aten::{site}",
        layer=layer,
        depth=depth,
        time=seconds(time),
        self_time=seconds(own),
    )


@pytest.fixture
def record(make_record: Callable[..., RunRecord]) -> RunRecord:
    """The usual record whose first layer calls conv2d > convolution > mkldnn, with a weight reorder and a primitive."""
    plain = make_record()
    assert plain.profile is not None
    layer = plain.profile.layers[0].name
    whole = plain.profile.model_time.require() * 1e6
    deep: dict[str, Any] = {
        "operators": (
            operator("conv2d", "L", layer, 0, whole * 0.5, 1),
            operator("convolution", "conv2d", layer, 1, whole * 0.49, 1),
            operator("mkldnn", "convolution", layer, 2, whole * 0.48, whole * 0.47),
            operator("empty", "mkldnn", layer, 3, whole * 0.0001, whole * 0.0001),
        ),
        "primitives": tuple(
            PrimitiveRow(
                site=name,
                parent="mkldnn",
                name=name,
                operator="aten::mkldnn",
                layer=layer,
                library="onednn",
                implementation="jit:avx512",
                kind=kind,
                problem="64x3x7x7",
                time=seconds(whole * part),
            )
            for name, kind, part in (("reorder", "weight reorder", 0.1), ("convolution", "compute", 0.3))
        ),
        "reorders": Reorders(
            weights=seconds(1000),
            activations=seconds(200),
            weights_share=0.1,
            activations_share=0.02,
            weights_count=20,
            activations_count=39,
        ),
        "levels": (
            LevelCost(
                level="layer",
                repeats=9,
                spans=5,
                model_time=seconds(whole),
                added=seconds(5),
                total=seconds(5),
                below_noise=True,
            ),
        ),
        "reconstructions": (Reconstruction(level="layer", time=seconds(whole), span_cost=seconds(1), agrees=True),),
    }
    return plain.model_copy(update={"profile": plain.profile.model_copy(update=deep)})


def profile(record: RunRecord) -> ProfileSection:
    assert record.profile is not None
    return record.profile


def find(node: Node, name: str) -> Node:
    found = [node] if node.name == name else []
    for child in node.children:
        found += [one for one in walk(child) if one.name == name]
    assert len(found) == 1, name
    return found[0]


def walk(node: Node) -> list[Node]:
    return [node, *(inner for child in node.children for inner in walk(child))]


def test_calls_that_only_pass_on_are_one_line_with_what_they_call(record: RunRecord) -> None:
    root = profile_tree(profile(record), "net")
    node = find(root, "aten::conv2d › convolution › mkldnn")
    whole = profile(record).model_time.require()
    assert node.time is not None
    assert node.self_time is not None
    assert node.time.value == pytest.approx(whole * 0.5)
    assert node.self_time.value == pytest.approx(whole * 0.47)
    assert node.share == pytest.approx(0.5)
    assert [child.name for child in node.children] == ["aten::empty", "weight reorder", "convolution"]
    assert [child.reorder for child in node.children] == [False, True, False]


def test_small_operators_and_other_layers_are_summed_up_not_dropped(record: RunRecord) -> None:
    section = profile(record)
    root = profile_tree(section, "net", top=1, least_share=0.01)
    names = [node.name for node in walk(root)]
    assert f"{len(section.layers) - 1} more layers" in names
    total = sum(child.time.value or 0 for child in root.children if child.time is not None)
    assert total == pytest.approx(sum(row.time.require() for row in section.layers))
    inner = profile_tree(section, "net", least_share=0.01)
    assert "1 more operators" in [node.name for node in walk(inner)]


def test_terminal_shows_primitives_below_operators_and_calls_weight_reorders_out(record: RunRecord) -> None:
    text = io.StringIO()
    render_profile(record, Console(file=text, width=100))
    shown = text.getvalue()
    assert "Weight reorders 1" in shown
    assert "20 calls" in shown
    lines = shown.splitlines()
    operators = next(line for line in lines if "aten::conv2d › convolution › mkldnn" in line)
    primitive = next(line for line in lines if "weight reorder  onednn" in line)
    assert primitive.index("weight reorder") > operators.index("aten::conv2d")
    assert max(map(len, lines)) <= 100
    assert "(noise)" in shown


def test_page_shows_the_same_tree_and_escapes_names(record: RunRecord) -> None:
    section = profile(record)
    hostile = section.operators[0].model_copy(update={"name": "<script>alert(1)</script>"})
    changed = section.model_copy(update={"operators": (hostile, *section.operators[1:])})
    page = render(record.model_copy(update={"profile": changed}))
    assert "Below the layers" in page
    assert "Weight reorders" in page
    assert "<script>alert" not in page
    assert "jit:avx512" in page


def test_record_without_deeper_levels_prints_nothing_more(
    make_record: Callable[..., RunRecord], records: ModuleType
) -> None:
    text = io.StringIO()
    render_profile(make_record(), Console(file=text, width=100))
    assert text.getvalue() == ""
    assert "Below the layers" not in render(make_record())
