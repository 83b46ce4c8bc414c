"""The module `small` of graphs and candidates, and a library that misbehaves on demand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_FOLDER = Path(__file__).parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stratoscope_test_small_parts", _FOLDER / "small.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SMALL = _load()


@pytest.fixture
def small() -> ModuleType:
    """`small.py`: graphs, parts and candidates to measure."""
    return _SMALL


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Library -> module that a worker loads: ONNX Runtime, and `fake_library.py`."""
    monkeypatch.setenv("PYTHONPATH", str(_FOLDER))
    return {"fake": "fake_library", "onnxruntime": "stratoscope.measure.parts.library_onnxruntime"}
