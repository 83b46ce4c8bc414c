"""Devices that the tests of the analytical model share."""

from __future__ import annotations

import pytest

from stratoscope.llm.efficiency import Efficiency, efficiency
from stratoscope.llm.hardware import find_hardware


@pytest.fixture
def a100() -> Efficiency:
    """An A100 at the prior level."""
    return efficiency(find_hardware("a100"))


@pytest.fixture
def h100() -> Efficiency:
    """An H100 at the prior level."""
    return efficiency(find_hardware("h100"))
