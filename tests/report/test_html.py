"""The HTML page: one file, balanced, with the record's figures; nothing fetched, and nothing that a name can do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from stratoscope.errors import StoreError
from stratoscope.report.html import render, write_report
from stratoscope.report.markup import _VOID
from stratoscope.report.sections.layers import PRINTED_ROWS
from stratoscope.spec.record import RunRecord
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA


class Page(HTMLParser):
    """Reads a page; fails on tags that do not nest; keeps tags, links, ids and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def values(self, attribute: str) -> list[str]:
        return [value or "" for _, name, value in self.attributes if name == attribute]


@pytest.fixture
def page(record_of: Callable[[int], RunRecord], make_samples: Callable[[int], pl.DataFrame]) -> Page:
    return Page(render(record_of(60), samples=make_samples(310)))


def test_the_page_shows_the_figures_as_they_are_formatted(make_record: Callable[..., RunRecord]) -> None:
    text = Page(render(make_record())).text
    for shown in (
        "11.0 ms",
        "90th percentile latency (early-stopping estimate)",
        "✓ VALID",
        "96.9 /s ± 1.9",
        "✓ not the bottleneck",
        "✓ quiet",
        "54 % of the layer time is in FusedConv (1 of 4 layers)",
        "310 samples justify no 99.9th percentile",
        "Batch 8 is optimal",
        "340 ms ± 7",
        "5.20 ms ± 0.10",
        "9.60 ms ± 0.19",
        "Profiling overhead is below the noise",
        "✓ layers lie inside the model span",
        "97.5 % ± 1.5",
        "stratoscope diagnose resnet50",
        "AMD EPYC 7B13",
        "no GPU on this machine",
        "no work function for Softmax x 1",
    ):
        assert shown in text, shown


def test_every_section_has_an_anchor_that_the_navigation_names(page: Page) -> None:
    targets = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert targets[1:] == ["latency", "batch", "cold", "layers", "timeline", "accuracy", "environment", "gaps"]
    assert set(targets) <= set(page.values("id"))


def test_ids_are_unique(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(record_of: Callable[[int], RunRecord], make_samples: Callable[[int], pl.DataFrame]) -> None:
    source = render(record_of(20), samples=make_samples(2000))
    page = Page(source)
    assert page.values("src") == []
    assert all(value.startswith("#") or value == "data:," for value in page.values("href"))
    assert "@import" not in source
    assert "url(" not in source
    assert not re.search(r"https?://", source)
    policy = next(value for value in page.values("content") if value.startswith("default-src"))
    assert policy.startswith("default-src 'none';")


def test_only_the_page_s_own_script_may_run(page: Page) -> None:
    policy = next(value for value in page.values("content") if value.startswith("default-src"))
    script = page.scripts[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_names_are_text_and_cannot_leave_the_data(make_record: Callable[..., RunRecord], records: ModuleType) -> None:
    wicked = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    profile = records.profile_section()
    layer = profile.layers[0].model_copy(update={"name": wicked, "op": wicked, "authored": (wicked,)})
    record = make_record(
        model=wicked,
        profile=profile.model_copy(update={"layers": (layer, *profile.layers[1:])}),
        hardware={"cpu": {"model": wicked}},
        command=wicked,
    )
    page = Page(render(record))
    assert page.tags.count("script") == 2
    assert page.tags.count("img") == 0
    assert wicked in page.texts
    assert wicked in page.values("data-op")
    assert json.loads(page.scripts[0])["model"]["id"] == wicked


def test_the_record_travels_with_its_page(make_record: Callable[..., RunRecord]) -> None:
    record = make_record()
    assert RunRecord.model_validate_json(Page(render(record)).scripts[0]) == record


def test_a_record_without_sections_says_what_it_lacks(bare_record: RunRecord) -> None:
    text = Page(render(bare_record)).text
    assert "No speed was measured in this run." in text
    for name in ("graph", "load", "batch sweep", "cold start", "layer profile", "accuracy"):
        assert f"{name} not asked for in this run" in text


@pytest.mark.parametrize("section", ["graph", "load", "sweep", "cold_start", "profile", "accuracy"])
def test_each_section_may_be_absent_alone(make_record: Callable[..., RunRecord], section: str) -> None:
    assert "not asked for in this run" in Page(render(make_record(**{section: None}))).text


def test_layers_that_do_not_add_up_to_their_sum_are_called_out(
    make_record: Callable[..., RunRecord], records: ModuleType
) -> None:
    profile = records.profile_section()
    assert "add up to" not in Page(render(make_record(profile=profile))).text
    apart = profile.model_copy(update={"layers_sum": records.estimate(0.012, "s", n=20)})
    told = "! The times of the single layers below add up to 9.60 ms ± 0.19"
    assert told in Page(render(make_record(profile=apart))).text


def test_missing_figures_are_words_with_a_reason(make_record: Callable[..., RunRecord]) -> None:
    page = Page(render(make_record()))
    reasons = [value for tag, name, value in page.attributes if name == "title"]
    assert any("no work function for Softmax" in (reason or "") for reason in reasons)
    assert "unavailable" in page.text


@pytest.mark.parametrize("number", [1, 20, 1000])
def test_any_number_of_layers_has_its_row_bar_and_span(record_of: Callable[[int], RunRecord], number: int) -> None:
    record = record_of(number)
    page = Page(render(record))
    rows = [value for tag, name, value in page.attributes if (tag, name) == ("tr", "data-layer")]
    bars = [value for tag, name, value in page.attributes if (tag, name) == ("rect", "data-layer")]
    spans = [value for tag, name, value in page.attributes if (tag, name) == ("span", "data-layer")]
    expected = sorted(str(index) for index in range(number))
    assert sorted(map(str, rows)) == sorted(map(str, bars)) == sorted(map(str, spans)) == expected
    assert record.profile is not None
    slowest = max(record.profile.layers, key=lambda row: row.time.require())
    assert rows[0] == str(slowest.index)


def test_bars_of_the_plots_stay_inside(page: Page) -> None:
    numbers = {"x": [], "width": [], "y": [], "height": []}  # type: dict[str, list[float]]
    for tag, name, value in page.attributes:
        if tag == "rect" and name in numbers:
            numbers[name].append(float((value or "").removesuffix("%")))
    assert len(numbers["x"]) > 60
    for x, width, y, height in zip(*numbers.values(), strict=True):
        assert 0 <= x <= x + width <= 100.001
        assert y + height == pytest.approx(100, abs=0.01)


def test_the_histogram_counts_every_sample_that_it_draws(
    make_record: Callable[..., RunRecord], make_samples: Callable[[int], pl.DataFrame]
) -> None:
    page = Page(render(make_record(profile=None), samples=make_samples(310)))
    counts = [int(found.group(1)) for tip in page.values("data-tip") if (found := re.search(r": (\d+) queries$", tip))]
    beyond = re.search(r"(\d+) \([^)]*\) beyond", page.text)
    assert sum(counts) + (int(beyond.group(1)) if beyond else 0) == 310


def test_samples_that_differ_in_nothing_still_draw(make_record: Callable[..., RunRecord]) -> None:
    sent = [0, 10_000_000, 20_000_000]
    ended = [at + 10_000_000 for at in sent]
    samples = pl.DataFrame({"query": [0, 1, 2], "scheduled_ns": sent, "completed_ns": ended})
    assert "3 queries" in Page(render(make_record(), samples=samples)).text


def test_offline_samples_share_one_query_and_have_no_course_in_time(make_record: Callable[..., RunRecord]) -> None:
    samples = pl.DataFrame({"query": [0] * 4, "scheduled_ns": [0] * 4, "completed_ns": [1e7, 2e7, 3e7, 4e7]})
    text = Page(render(make_record(), samples=samples)).text
    assert "Histogram 4 samples" in text
    assert "Latency over time" not in text


def spans_of(record: RunRecord, stretch: float = 1.0) -> pl.DataFrame:
    """The trace that the record's rows come from: one model span around the layers; `stretch` makes it another run."""
    assert record.profile is not None
    origin = 5_000_000_000
    rows = [(Level.MODEL, "inference", origin, origin + 10_000_000)]
    for layer in record.profile.layers:
        assert layer.start_ns is not None
        assert layer.duration_ns is not None
        start = origin + layer.start_ns
        rows.append((Level.LAYER, layer.name, start, start + round(layer.duration_ns * stretch)))
    names = ("level", "name", "start_ns", "end_ns")
    columns = {name: [row[index] for row in rows] for index, name in enumerate(names)}
    filled = {"span": range(len(rows)), "kind": "sync", "track": 0, "correlation": 0, "run": 3}
    frame = pl.DataFrame(columns).with_columns(
        *(pl.Series(k, v) if isinstance(v, range) else pl.lit(v).alias(k) for k, v in filled.items()),
        *(pl.lit(None).alias(name) for name in ("parent", "site", "attributes")),
    )
    return frame.select(pl.col(name).cast(dtype) for name, dtype in SPAN_SCHEMA.items())


def test_the_timeline_sets_the_enclosing_spans_around_the_layers(make_record: Callable[..., RunRecord]) -> None:
    record = make_record()
    tips = Page(render(record, spans=spans_of(record))).values("data-tip")
    assert "inference: 10.00 ms, at 0 s" in tips
    assert "conv1: 5.200 ms, at 100.0 µs" in tips


def test_spans_of_another_run_are_not_drawn(make_record: Callable[..., RunRecord]) -> None:
    record = make_record()
    tips = Page(render(record, spans=spans_of(record, stretch=1.5))).values("data-tip")
    assert not any(tip.startswith("inference") for tip in tips)
    assert "conv1: 5.200 ms, at 0 s" in tips


def test_the_file_is_written_whole_or_refused(make_record: Callable[..., RunRecord], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert write_report(make_record(), path) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(make_record(), tmp_path / "missing" / "report.html")


def test_the_printed_table_is_cut_where_the_page_says(record_of: Callable[[int], RunRecord]) -> None:
    source = render(record_of(61))
    assert f"in print: the first {PRINTED_ROWS} rows" in source
    assert f"tbody tr:nth-child(n + {PRINTED_ROWS + 1})" in source
    assert "in print" not in render(record_of(60))
