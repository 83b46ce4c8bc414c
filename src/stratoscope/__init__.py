"""Stratoscope measures, explains and improves the performance of deep-learning models across the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stratoscope._version import __version__
from stratoscope.errors import StratoscopeError

if TYPE_CHECKING:
    from stratoscope.api import diagnose, run
    from stratoscope.trace.application import recording, span

__all__ = ["StratoscopeError", "__version__", "diagnose", "recording", "run", "span"]


def __getattr__(name: str) -> Any:
    """The verbs, loaded when first used: importing the package stays quick."""
    if name in ("diagnose", "run"):
        from stratoscope import api

        return getattr(api, name)
    if name in ("recording", "span"):
        from stratoscope.trace import application

        return getattr(application, name)
    raise AttributeError(f"module 'stratoscope' has no attribute {name!r}")
