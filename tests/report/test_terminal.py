"""The terminal summary: the record's figures as text, within the width, with names that cannot act."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import ModuleType

import pytest
from rich.console import Console

from stratoscope.report import format as fmt
from stratoscope.report.terminal import render_record
from stratoscope.spec.record import RunRecord, Validity
from stratoscope.stats.quantity import Quantity


def rendered(record: RunRecord, width: int = 80, top: int = 10) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    render_record(record, console, top=top)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_every_section_is_there_within_the_width(record_of: Callable[[int], RunRecord], width: int) -> None:
    record = record_of(126)
    text = rendered(record, width)
    for shown in (
        "resnet50  11.0 ms  90th percentile latency (early-stopping estimate)  VALID",
        "onnxruntime 1.31.1 · AMD EPYC 7B13",
        "96.9 /s ± 1.9",
        "p99 13.9 ms ± 1.3",
        "not the bottleneck",
        "quiet",
        "import 210 ms ± 4",
        "Batch 8 is optimal",
        "<- optimal",
        "Slowest 10 of 126 layers",
        "Time by operator",
        "top1 97.5 % ± 1.5",
        "GPU kernels: no GPU on this machine",
    ):
        assert shown in text, shown
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


def test_the_slowest_layers_are_listed_in_order(make_record: Callable[..., RunRecord]) -> None:
    lines = [line.split() for line in rendered(make_record(), top=2).splitlines()]
    rows = [line for line in lines if line[1:2] and line[1] in {"conv1", "fc", "pool1", "prob"}]
    assert [row[1] for row in rows] == ["conv1", "fc"]
    assert rows[0] == ["0", "conv1", "FusedConv", "5.20", "ms", "±", "0.10", "54", "%", "38.5"]


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_give_way_to_figures(record_of: Callable[[int], RunRecord], width: int) -> None:
    record = record_of(30)
    assert record.profile is not None
    path = "/model/backbone/stage4/{}/a_very_long_suffix_of_an_exported_model_quantized_twice_and_fused"
    rows = tuple(
        row.model_copy(update={"name": path.format(row.name), "op": "QLinearGlobalAveragePooling"})
        for row in record.profile.layers
    )
    text = rendered(record.model_copy(update={"profile": record.profile.model_copy(update={"layers": rows})}), width)
    slowest = sorted(rows, key=lambda row: -row.time.require())[:10]
    for row in slowest:
        line = next(line for line in text.splitlines() if fmt.text(row.time) in line)
        assert line.split()[0] == str(row.index)
        assert line.split()[1].startswith("/model")
        assert fmt.share(row.share) in line
        assert "fused" in line
    assert max(len(line) for line in text.splitlines()) <= width


def test_an_invalid_result_says_why(make_record: Callable[..., RunRecord]) -> None:
    load = make_record().load
    assert load is not None
    invalid = load.model_copy(update={"validity": Validity(valid=False, reasons=("latency bound broken",))})
    assert "INVALID: latency bound broken" in rendered(make_record(load=invalid), 120)


def test_a_record_without_sections_still_has_its_name_and_machine(bare_record: RunRecord) -> None:
    text = rendered(bare_record)
    assert text.startswith("resnet50\nonnxruntime 1.31.1 · a machine that was not described")


def test_an_unavailable_headline_gives_the_reason_not_a_number(make_record: Callable[..., RunRecord]) -> None:
    load = make_record().load
    assert load is not None
    missing = Quantity.unjustified("s", "12 samples are too few", "early_stopping_p90", 12)
    latency = {**load.latency, "early_stopping_p90": missing}
    text = rendered(make_record(load=load.model_copy(update={"latency": latency})), 120)
    assert "resnet50  —  90th percentile latency (early-stopping estimate) (12 samples are too few)" in text


def test_names_cannot_write_to_the_terminal(make_record: Callable[..., RunRecord], records: ModuleType) -> None:
    profile = records.profile_section()
    wicked = profile.layers[0].model_copy(update={"name": "[red]\x1b[2Jx"})
    record = make_record(profile=profile.model_copy(update={"layers": (wicked, *profile.layers[1:])}), model="m\x07x")
    text = rendered(record, 120)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]\ufffd[2Jx" in text


def test_no_layers_at_all_cannot_be_asked_for(make_record: Callable[..., RunRecord]) -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        rendered(make_record(), top=0)
