"""What all tests share: records to work on, and a home of their own so that no test touches the user's."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from stratoscope.spec.record import RunRecord


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"stratoscope_test_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A shell that starts a job in the background has it ignore Ctrl-C, and so would all that the job starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

RECORDS = _load("records")
MACHINES = _load("machines")


@pytest.fixture(scope="session")
def records() -> ModuleType:
    """The module `tests/records.py`: `make_record` and the sections that it is made of."""
    return RECORDS


@pytest.fixture(scope="session")
def machines() -> ModuleType:
    """The module `tests/machines.py`: `make_machine` and the measurements that it is made of."""
    return MACHINES


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """`make_record(**overrides)`: a plausible record with every section filled."""
    maker: Callable[..., RunRecord] = RECORDS.make_record
    return maker


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that stands in for the model cache; one a session, since filling it is slow."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Points the database, the lock and (unless it is set) the model cache to temporary paths; returns their folder."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("STRATOSCOPE_DB", str(home / "results.db"))
    monkeypatch.setenv("STRATOSCOPE_LOCK", str(home / "machine.lock"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.delenv("STRATOSCOPE_ARTIFACTS", raising=False)
    if not os.environ.get("STRATOSCOPE_CACHE"):
        monkeypatch.setenv("STRATOSCOPE_CACHE", str(session_cache))
    return home
