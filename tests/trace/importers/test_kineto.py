from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stratoscope.trace.correlate import assign_parents
from stratoscope.trace.importers import import_trace
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

_spec = importlib.util.spec_from_file_location("kineto_files", Path(__file__).with_name("kineto_files.py"))
assert _spec is not None
assert _spec.loader is not None
kineto_files: Any = importlib.util.module_from_spec(_spec)
sys.modules["kineto_files"] = kineto_files
_spec.loader.exec_module(kineto_files)


def written(folder: Path, document: object, name: str = "t.json") -> Path:
    path = folder / name
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def by_name(spans: pl.DataFrame, name: str) -> dict[str, Any]:
    return spans.filter(pl.col("name") == name).row(0, named=True)


def test_categories_become_levels_and_kinds(tmp_path: Path) -> None:
    trace = import_trace(written(tmp_path, kineto_files.training_step()))
    told = {name: (level, kind) for name, level, kind in trace.spans.select("name", "level", "kind").iter_rows()}
    assert told == {
        "ProfilerStep#3": (10, "exec"),  # the later of two: the device's copy of the annotation
        "model.py(3): forward": (35, "sync"),
        "nn.Module: Linear_0": (30, "sync"),
        "aten::linear": (40, "sync"),
        "cudaLaunchKernel": (60, "launch"),
        "cudaMemcpyAsync": (60, "launch"),
        "cudaStreamSynchronize": (60, "sync"),
        "gemm<float>": (60, "exec"),
        "Memcpy DtoH (Device -> Pinned)": (60, "exec"),
        "Stream Sync": (50, "exec"),
        "Activity Buffer Request": (5, "sync"),
        "PyTorch Profiler (0)": (5, "sync"),
        "Iteration Start": (40, "instant"),
    }
    assert dict(trace.spans.schema) == dict(SPAN_SCHEMA)
    assert trace.report.format == "kineto"
    assert (trace.report.records, trace.report.spans) == (19, 14)
    assert dict(trace.report.skipped) == {"arrow between spans": 2, "metadata": 3}
    assert not trace.report.dropped


def test_kernels_hang_under_the_operator_and_module_that_launched_them(tmp_path: Path) -> None:
    spans = assign_parents(import_trace(written(tmp_path, kineto_files.training_step())).spans)
    names = dict(spans.select("span", "name").iter_rows())
    parent = {name: names.get(above) for name, above in spans.select("name", "parent").iter_rows()}
    assert parent["gemm<float>"] == parent["cudaLaunchKernel"] == "aten::linear"
    assert parent["Memcpy DtoH (Device -> Pinned)"] == "aten::linear"
    assert parent["aten::linear"] == "nn.Module: Linear_0"
    assert parent["nn.Module: Linear_0"] == "ProfilerStep#3"  # not the deeper Python frame around it


def test_profiler_overhead_has_no_correlation_so_that_no_kernel_is_blamed_on_it(tmp_path: Path) -> None:
    spans = import_trace(written(tmp_path, kineto_files.training_step())).spans
    assert by_name(spans, "Activity Buffer Request")["correlation"] == 0
    assert by_name(spans, "cudaLaunchKernel")["correlation"] == 77


@pytest.mark.parametrize("name", ["t.json", "t.json.gz", "named_wrongly.bin"])
def test_times_are_exact_and_the_base_is_told(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, kineto_files.training_step(), "t.json.gz" if name.endswith("gz") else "t.json")
    trace = import_trace(path.rename(tmp_path / name))
    kernel = by_name(trace.spans, "gemm<float>")
    assert (kernel["start_ns"], kernel["end_ns"]) == (150_250, 190_375)
    assert by_name(trace.spans, "ProfilerStep#3")["start_ns"] == 100_001
    assert trace.report.clock["unix_offset_ns"] == 1_700_000_000_000_000_000


def test_nanoseconds_of_the_epoch_survive(tmp_path: Path) -> None:
    text = json.dumps(kineto_files.document(kineto_files.event("cpu_op", "a", 1, 1, 0, 1.5), base_ns=0))
    path = tmp_path / "t.json"
    path.write_text(text.replace('"ts": 0', '"ts": 1712195495519689.047'))
    (start, end) = import_trace(path).spans.select("start_ns", "end_ns").row(0)
    assert (start, end) == (1_712_195_495_519_689_047, 1_712_195_495_519_690_547)  # float64 would say ...689.0


def test_streams_are_tracks_with_device_and_stream_number(tmp_path: Path) -> None:
    trace = import_trace(written(tmp_path, kineto_files.training_step()))
    tracks = {row["track"]: row for row in trace.tracks.iter_rows(named=True)}
    kernel, operator = (tracks[by_name(trace.spans, name)["track"]] for name in ("gemm<float>", "aten::linear"))
    assert (kernel["name"], kernel["device"], kernel["stream"]) == ("device 0 stream 7", 0, 7)
    assert (operator["name"], operator["device"], operator["stream"]) == ("python main", None, None)


def test_arguments_are_attributes_with_the_category_in_front(tmp_path: Path) -> None:
    path = written(tmp_path, kineto_files.training_step())
    attributes = json.loads(by_name(import_trace(path).spans, "aten::linear")["attributes"])
    assert attributes == {"category": "cpu_op", "External id": 2, "Input Dims": [[8, 8]]}
    without = import_trace(path, attributes=False).spans
    with_them = import_trace(path).spans
    assert without.drop("attributes").equals(with_them.drop("attributes"))


def test_two_kernels_of_one_graph_launch_share_its_parent(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        kineto_files.document(
            kineto_files.event("cpu_op", "replay", 1, 1, 0.0, 100.0),
            kineto_files.event("cuda_runtime", "cudaGraphLaunch", 1, 1, 10.0, 5.0, correlation=9),
            kineto_files.event("kernel", "a", 0, 7, 20.0, 5.0, correlation=9),
            kineto_files.event("kernel", "b", 0, 7, 30.0, 5.0, correlation=9),
        ),
    )
    spans = assign_parents(import_trace(path).spans)
    assert spans.filter(pl.col("name").is_in(["a", "b"]))["parent"].to_list() == [0, 0]
    assert by_name(spans, "cudaGraphLaunch")["kind"] == "launch"
    assert by_name(spans, "a")["level"] == Level.KERNEL
