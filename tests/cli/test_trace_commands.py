from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stratoscope.trace.importers import import_trace

Run = Callable[..., Any]


def kineto(path: Path) -> Path:
    def event(category: str, name: str, pid: int, ts: float, dur: float, correlation: int = 0) -> dict[str, Any]:
        args = {"correlation": correlation} if correlation else {}
        return {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": 7, "ts": ts, "dur": dur, "args": args}

    events = [
        event("cpu_op", "aten::linear", 42, 0, 50),
        event("cuda_runtime", "cudaLaunchKernel", 42, 5, 5, 1),
        event("kernel", "gemm\x1b[31m", 0, 20, 30.5, 1),
        event("kernel", "relu", 0, 60, 4.5),
        {"ph": "X", "name": "broken"},
    ]
    path.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [], "traceEvents": events}))
    return path


def test_analyze_prints_where_the_time_went_and_what_was_dropped(stratoscope: Run, tmp_path: Path) -> None:
    result = stratoscope("trace", "analyze", kineto(tmp_path / "t.json"))
    assert result.code == 0, result.err
    assert "4 spans of 5 records, read as kineto" in result.out
    assert "dropped: 1 (no usable time)" in result.out
    for word in ("Device time", "Kernels (2 of 2)", "Idle time of streams", "Launches", "aten::linear", "relu"):
        assert word in result.out
    assert "\x1b" not in result.out


def test_analyze_writes_exact_figures_as_json(stratoscope: Run, tmp_path: Path) -> None:
    result = stratoscope("trace", "analyze", kineto(tmp_path / "t.json"), "--json", "-")
    told = json.loads(result.out)
    assert told["temporal"] == {
        **{"total_ns": 44_500, "idle_ns": 9_500, "compute_ns": 35_000, "non_compute_ns": 0},
        **{"communication_ns": 0, "memory_ns": 0},
    }
    assert told["import"]["dropped"] == {"no usable time": 1}
    assert told["tracks"][1]["stream"] == 7


def test_import_keeps_parents_and_export_takes_the_file_to_every_format(stratoscope: Run, tmp_path: Path) -> None:
    result = stratoscope("trace", "import", kineto(tmp_path / "t.json"))
    assert result.code == 0, result.err
    trace = import_trace(tmp_path / "t.parquet")
    names = dict(trace.spans.select("span", "name").iter_rows())
    parents = {name: names.get(parent) for name, parent in trace.spans.select("name", "parent").iter_rows()}
    assert parents["gemm\x1b[31m"] == "aten::linear"
    for name in ("a.json.gz", "a.pftrace", "a.otlp.json", "a.parquet"):
        written = stratoscope("trace", "export", tmp_path / "t.parquet", "-o", tmp_path / name)
        assert written.code == 0, written.err
        assert (tmp_path / name).stat().st_size > 100
    assert import_trace(tmp_path / "a.json.gz").spans.equals(trace.spans)


def test_errors_are_one_line_and_code_two(stratoscope: Run, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    for arguments in (
        ("analyze", tmp_path / "missing.json"),
        ("analyze", tmp_path / "no.json"),
        ("import", tmp_path / "no.json"),
        ("export", kineto(tmp_path / "t.json"), "-o", tmp_path / "t.xyz"),
        ("export", kineto(tmp_path / "t.json"), "--push", "nowhere"),
    ):
        result = stratoscope("trace", *arguments)
        assert result.code == 2
        assert len(result.error_lines) == 1
        assert result.err.startswith("error: ")


@pytest.mark.parametrize(
    ("command", "events"),
    [
        (("trace", "analyze"), []),
        (("trace", "import"), []),
        (("trace", "export"), []),
        (("analyze",), []),
        (("trace", "analyze"), [{"ph": "X", "name": "broken"}]),
    ],
)
def test_trace_without_events_is_refused(
    stratoscope: Run, tmp_path: Path, command: tuple[str, ...], events: list[object]
) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"traceEvents": events}))
    result = stratoscope(*command, "t.json")
    assert result.code == 2
    assert "t.json has no spans: " + ("all 1 of its records" if events else "it is empty") in result.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".json", ".parquet")) == ["t.json"]
