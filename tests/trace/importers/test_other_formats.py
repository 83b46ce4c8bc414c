from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stratoscope.errors import TraceError
from stratoscope.trace.correlate import assign_parents
from stratoscope.trace.exporters import export_trace
from stratoscope.trace.importers import import_trace
from stratoscope.trace.importers import parquet as parquet_importer

CONV = (
    "cpu,convolution,jit:avx512_core,forward_training,src_f32::blocked:abcd::f0 wei_f32:a:blocked:Acdb64a::f0,"
    "attr-scratchpad:user,alg:convolution_direct,mb1_ic3oc64_ih224oh112"
)


@pytest.mark.parametrize(
    ("before", "start"),
    [
        ("onednn_verbose,v1,1700000000123.456789,primitive,exec", 1_700_000_000_123_456_789),
        ("onednn_verbose,1700000000123.5,primitive,exec", 1_700_000_000_123_500_000),
        ("onednn_verbose,v1,primitive,exec", 0),
        ("dnnl_verbose,exec", 0),
    ],
)
def test_onednn_lines_are_found_by_the_word_exec_whatever_stands_before(
    tmp_path: Path, before: str, start: int
) -> None:
    path = tmp_path / "log"
    path.write_text(f"hello\n{before.split(',')[0]},info,oneDNN v3.12.0\n{before},{CONV},1.25\n")
    trace = import_trace(path)
    (span,) = trace.spans.iter_rows(named=True)
    assert (span["name"], span["level"], span["start_ns"]) == ("convolution", 50, start)
    assert span["end_ns"] - span["start_ns"] == 1_250_000
    told = json.loads(span["attributes"])
    assert told["implementation"] == "jit:avx512_core"
    assert told["problem"] == "mb1_ic3oc64_ih224oh112"
    assert dict(trace.report.skipped) == {"other output": 1, "creation or information": 1}
    assert bool(trace.report.notes) == (start == 0)


def test_onednn_lines_without_time_stand_end_to_end_with_mkls_between(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = f"onednn_verbose,v1,primitive,exec,{CONV},0.5\n"
    mkl = "MKL_VERBOSE SGEMM(N,N,4,8,2,0x7f,0x7f,4,0x7f,2,0x7f,0x7f,4) 12.5us CNR:OFF Dyn:1 FastMM:1 TID:0  NThr:1\n"
    path.write_text(line + mkl + line + f"onednn_verbose,v1,primitive,exec,{CONV},soon\n")
    trace = import_trace(path)
    told = trace.spans.select("name", "start_ns", "end_ns").rows()
    assert told == [("convolution", 0, 500_000), ("SGEMM", 500_000, 512_500), ("convolution", 512_500, 1_012_500)]
    assert dict(trace.report.dropped) == {"no time at the end": 1}


def nsys(path: Path, *, new: bool) -> Path:
    """A small export: newer ones have NVTX texts as ids, and further columns."""
    database = sqlite3.connect(path)
    database.executescript(
        f"""
        CREATE TABLE StringIds (id INTEGER, value TEXT);
        CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER,
            correlationId INTEGER, globalPid INTEGER, demangledName INTEGER, shortName INTEGER, gridX INTEGER
            {", graphNodeId INTEGER" if new else ""});
        CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, end INTEGER, deviceId INTEGER, streamId INTEGER,
            correlationId INTEGER, globalPid INTEGER, bytes INTEGER, copyKind INTEGER);
        CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, end INTEGER, globalTid INTEGER,
            correlationId INTEGER, nameId INTEGER, returnValue INTEGER);
        CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT, globalTid INTEGER
            {", textId INTEGER" if new else ""});
        """
    )
    pid, tid = 42 << 24, 42 << 24 | 43
    strings = [(1, "gemm<float>(int)"), (2, "gemm"), (3, "cudaLaunchKernel_v7000"), (4, "forward"), (5, "cudaMemcpy")]
    database.executemany("INSERT INTO StringIds VALUES (?, ?)", strings)
    kernel = (2000, 3000, 0, 7, 11, pid, 1, 2, 8, *([None] if new else []))
    database.execute(f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ({','.join('?' * len(kernel))})", kernel)
    database.execute(
        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?,?,?,?,?,?,?,?)", (3100, 3200, 0, 7, 12, pid, 64, 1)
    )
    calls = [(1000, 1500, tid, 11, 3, 0), (1600, 1700, tid, 12, 5, 0)]
    database.executemany("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?,?,?,?,?,?)", calls)
    ranges = [(900, 4000, 59, None if new else "forward", tid, *([4] if new else []))]
    ranges.append((950, None, 34, "mark", tid, *([None] if new else [])))
    database.executemany(f"INSERT INTO NVTX_EVENTS VALUES ({','.join('?' * len(ranges[0]))})", ranges)
    database.commit()
    database.close()
    return path


@pytest.mark.parametrize("new", [True, False])
def test_nsys_exports_of_either_schema_join_launches_and_kernels(tmp_path: Path, new: bool) -> None:
    trace = import_trace(nsys(tmp_path / "report.sqlite", new=new))
    told = sorted(trace.spans.select("name", "level", "kind", "start_ns", "end_ns").rows())
    assert told == [
        ("Memcpy HtoD", 60, "exec", 3100, 3200),
        ("cudaLaunchKernel_v7000", 60, "launch", 1000, 1500),
        ("cudaMemcpy", 60, "launch", 1600, 1700),
        ("forward", 10, "sync", 900, 4000),
        ("gemm<float>(int)", 60, "exec", 2000, 3000),
        ("mark", 10, "instant", 950, 950),
    ]
    spans = assign_parents(trace.spans)
    forward = spans.filter(pl.col("name") == "forward")["span"][0]
    assert spans.filter(pl.col("kind") == "exec")["parent"].to_list() == [forward, forward]
    streams = trace.tracks.filter(pl.col("stream") == 7)
    assert streams.select("device", "name").rows() == [(0, "device 0 stream 7")]


def test_nsys_rows_with_senseless_times_are_dropped(tmp_path: Path) -> None:
    path = nsys(tmp_path / "report.sqlite", new=True)
    database = sqlite3.connect(path)
    for start, end in ((9, 5), (None, 5), (2**62, 2**62 + 1), ("x", 5), (1, None)):
        values = (start, end, 0, 1, 0, 0)
        database.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?,?,?,?,?,?)", values)
    database.commit()
    database.close()
    trace = import_trace(path)
    assert trace.report.spans == 6
    assert dict(trace.report.dropped) == {"ends before it starts": 1, "no usable time": 4}


def test_a_view_in_a_database_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.sqlite"
    database = sqlite3.connect(path)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS start, i AS end FROM n"
    database.execute(f"CREATE VIEW CUPTI_ACTIVITY_KIND_KERNEL AS {endless}")
    database.commit()
    database.close()
    with pytest.raises(TraceError, match="no export of Nsight"):
        import_trace(path)


def test_a_damaged_database_is_one_clear_error(tmp_path: Path) -> None:
    path = nsys(tmp_path / "report.sqlite", new=True)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(TraceError, match="cannot read"):
        import_trace(path)


def jaeger_span(number: int, name: str, start: int, duration: Any, parent: int | None, **tags: Any) -> dict[str, Any]:
    references = [] if parent is None else [{"refType": "CHILD_OF", "traceID": "t", "spanID": f"{parent:x}"}]
    return {
        **{"traceID": "t", "spanID": f"{number:x}", "operationName": name, "startTime": start, "duration": duration},
        **{"references": references, "processID": "p1", "logs": []},
        "tags": [{"key": key, "type": "string", "value": value} for key, value in tags.items()],
    }


def test_jaeger_traces_of_mlmodelscope_get_their_levels_from_the_tag(tmp_path: Path) -> None:
    spans = [
        jaeger_span(1, "c_predict", 1_600_000_000_000_000, 100, None, trace_level="MODEL_TRACE"),
        jaeger_span(2, "conv1", 1_600_000_000_000_010, 50, 1, trace_level="FRAMEWORK_TRACE", layer_sequence_index="0"),
        jaeger_span(
            3, "cuda_launch", 1_600_000_000_000_012, 3, 2, trace_level="SYSTEM_LIBRARY_TRACE", correlation_id="5"
        ),
        jaeger_span(4, "gpu_kernel", 1_600_000_000_000_030, 40, 2, trace_level="5", correlation_id="5"),
        jaeger_span(5, "lost", 1_600_000_000_000_030, "long", 2),
        jaeger_span(5, "negative", 1_600_000_000_000_030, -4, 2),
        jaeger_span(1, "twin", 1_600_000_000_000_030, 4, 99),
        jaeger_span(6, "orphan", 1_600_000_000_000_030, 4, 99),
    ]
    path = tmp_path / "trace.json"
    path.write_text(
        json.dumps({"data": [{"traceID": "t", "spans": spans, "processes": {"p1": {"serviceName": "agent"}}}]})
    )
    trace = import_trace(path)
    assert trace.spans.select("name", "level", "kind", "parent", "correlation").rows() == [
        ("c_predict", 20, "sync", None, 0),
        ("conv1", 30, "sync", 0, 0),
        ("cuda_launch", 60, "launch", 1, 5),
        ("gpu_kernel", 60, "exec", 1, 5),
        ("orphan", 10, "sync", None, 0),
    ]
    assert trace.spans["start_ns"][0] == 1_600_000_000_000_000_000
    assert json.loads(trace.spans["attributes"][1])["layer_sequence_index"] == "0"
    assert sum(trace.report.dropped.values()) == 3
    assert trace.tracks["name"].to_list() == ["agent"]


def test_parquet_keeps_spans_and_tracks(tmp_path: Path) -> None:
    trace = import_trace(nsys(tmp_path / "report.sqlite", new=True))
    spans = assign_parents(trace.spans)
    export_trace(spans, tmp_path / "t.parquet", tracks=trace.tracks)
    again = import_trace(tmp_path / "t.parquet")
    assert again.spans.equals(spans)
    assert again.tracks.equals(trace.tracks)


def test_parquet_without_our_columns_or_with_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(TraceError, match="no column 'span'"):
        import_trace(path)
    trace = import_trace(nsys(tmp_path / "report.sqlite", new=True))
    export_trace(trace.spans, path)
    monkeypatch.setattr(parquet_importer, "MAX_SPANS", 3)
    with pytest.raises(TraceError, match="more than 3 spans"):
        import_trace(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TraceError, match="no span table"):
        import_trace(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x7fELF", b"\x89PNG\r\n", b"\x1f\x8b", b"\x1f\x8bgarbage"])
def test_what_is_no_trace_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match="in no format that is read here"):
        import_trace(path)


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no trace file"):
        import_trace(tmp_path / "none.json")
    (tmp_path / "t").write_text("[]")
    with pytest.raises(TraceError, match="no trace format 'perfetto'"):
        import_trace(tmp_path / "t", format="perfetto")
