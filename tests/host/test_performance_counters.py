"""Asking the kernel whether it counts instructions."""

from __future__ import annotations

import platform

import pytest

from stratoscope.host import performance_counters
from stratoscope.host.performance_counters import why_no_counters


@pytest.fixture(autouse=True)
def fresh() -> None:
    why_no_counters.cache_clear()


def test_answer_is_none_or_one_line_that_says_why() -> None:
    why = why_no_counters()
    assert why is None or (why and "\n" not in why)


def test_kernel_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = why_no_counters()
    monkeypatch.setattr(performance_counters.ctypes, "CDLL", lambda *a, **k: pytest.fail("asked again"))
    assert why_no_counters() == first


def test_other_machines_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "only" in str(why_no_counters())
