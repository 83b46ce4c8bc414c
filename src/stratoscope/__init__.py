"""Stratoscope measures, explains and improves the performance of deep-learning models across the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratoscope._version import __version__
from stratoscope.errors import StratoscopeError

if TYPE_CHECKING:
    from stratoscope.api import diagnose, run

__all__ = ["StratoscopeError", "__version__", "diagnose", "run"]


def __getattr__(name: str) -> Any:
    """The verbs, loaded when first used: importing the package stays quick."""
    if name in ("diagnose", "run"):
        from stratoscope import api

        return getattr(api, name)
    raise AttributeError(f"module 'stratoscope' has no attribute {name!r}")
