from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from stratoscope.backends import registry
from stratoscope.backends.base import Backend, Capabilities, TracingBackend
from stratoscope.backends.registry import available_backends, get_backend
from stratoscope.errors import BackendError


def declare(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    """Replaces the installed entry points."""
    entries = [EntryPoint(name, target, registry.GROUP) for name, target in targets.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == registry.GROUP else [])


class BrokenAtCapabilities:
    name = "sulky"

    def capabilities(self) -> Capabilities:
        raise OSError("no such device")

    def load(self, *arguments: object) -> None:
        raise AssertionError("a back end that is not available was used")

    trace = executed_graph = load


class RaisesWhenMade:
    def __init__(self) -> None:
        raise ZeroDivisionError("made badly")


class NotABackend:
    name = "impostor"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module name under which the classes above can be declared."""
    import sys
    from types import ModuleType

    module: Any = ModuleType("a_strangers_package")
    for kind in (BrokenAtCapabilities, RaisesWhenMade, NotABackend):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "a_strangers_package", module)
    return "a_strangers_package"


def test_own_back_ends_are_found_and_follow_both_protocols() -> None:
    for name in ("onnxruntime", "null", "openvino", "pytorch"):
        backend = get_backend(name)
        assert backend.name == name
        assert isinstance(backend, Backend)
        assert isinstance(backend, TracingBackend)


def test_own_back_ends_are_found_without_package_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch)
    assert list(available_backends()) == ["onnxruntime", "null", "openvino", "pytorch"]


def test_entry_points_of_the_package_are_those_built_in() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][registry.GROUP] == dict(registry.BUILT_IN)


def test_unknown_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(BackendError, match=r"'onnxruntim'.*did you mean onnxruntime\?.*there are: onnxruntime, null"):
        get_backend("onnxruntim")


def test_broken_third_parties_are_told_and_break_nothing(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    declare(
        monkeypatch,
        absent="a_package_that_is_not_there:Backend",
        raising=f"{here}:RaisesWhenMade",
        sulky=f"{here}:BrokenAtCapabilities",
        impostor=f"{here}:NotABackend",
    )
    found = available_backends()
    assert found["onnxruntime"].available
    assert found["null"].available
    reasons = {name: found[name].reason or "" for name in ("absent", "raising", "sulky", "impostor")}
    assert not any(found[name].available for name in reasons)
    assert "ModuleNotFoundError" in reasons["absent"]
    assert "ZeroDivisionError: made badly" in reasons["raising"]
    assert "OSError: no such device" in reasons["sulky"]
    assert "protocol" in reasons["impostor"]
    with pytest.raises(BackendError, match=r"'raising' cannot be used.*made badly"):
        get_backend("raising")


def test_third_party_cannot_take_over_an_own_name(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    declare(monkeypatch, onnxruntime=f"{here}:RaisesWhenMade")
    assert type(get_backend("onnxruntime")).__module__ == "stratoscope.backends.onnxruntime"
