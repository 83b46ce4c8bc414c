"""A span table that has no room on its disk: one error that says so, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from stratoscope.errors import TraceError
from stratoscope.trace.exporters.parquet import write_parquet
from stratoscope.trace.spans import SPAN_SCHEMA


def test_a_full_disk_is_a_trace_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise pl.exceptions.ComputeError("parquet: File out of specification: Invalid thrift: transport error")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(TraceError, match="cannot write"):
        write_parquet(pl.DataFrame(schema=dict(SPAN_SCHEMA)), tmp_path / "spans.parquet")
    assert list(tmp_path.iterdir()) == []
