"""Stratoscope measures, explains and improves the performance of deep-learning models across the whole stack."""

from __future__ import annotations

from stratoscope._version import __version__
from stratoscope.errors import StratoscopeError

__all__ = ["StratoscopeError", "__version__"]
