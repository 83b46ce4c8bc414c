"""Models, sessions and a virtual clock for the tests of measuring."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stratoscope.backends.base import Session
from stratoscope.backends.null import NullBackend
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.spec.options import BackendOptions


class VirtualClock:
    """Time that moves only when it is waited for or worked through."""

    def __init__(self) -> None:
        self.time_ns = 0

    def now_ns(self) -> int:
        return self.time_ns

    def sleep_until_ns(self, moment_ns: int) -> None:
        self.time_ns = max(self.time_ns, moment_ns)

    def work(self, duration_ns: int) -> None:
        self.time_ns += duration_ns


@pytest.fixture
def virtual_clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def tiny_model() -> LoadableModel:
    """One float input of shape (1, 4), two outputs; no file, so only the null back end runs it."""
    return LoadableModel(
        ModelManifest(
            id="tiny",
            inputs=(TensorSpec(name="x", element_type="float32", shape=(1, 4)),),
            outputs=(TensorSpec(name="y", element_type="float32", shape=(1, 2)),),
        )
    )


@pytest.fixture
def null_session(tiny_model: LoadableModel) -> Callable[[float], Session]:
    """`null_session(seconds)`: a session whose inference takes so long."""

    def make(seconds: float) -> Session:
        return NullBackend().load(tiny_model, BackendOptions(null_latency_s=seconds))

    return make
