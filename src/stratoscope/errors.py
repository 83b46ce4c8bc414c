"""Errors that a user can act on: each names the thing, the place and the way out."""

from __future__ import annotations


class StratoscopeError(Exception):
    """Base of every error that Stratoscope raises on purpose; the command line prints it as one line and exits with 2.

    Args:
        message: what went wrong, naming the thing and the place.
        hint: what to do about it; printed after the message.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SpecError(StratoscopeError):
    """A manifest, scenario or reference log that cannot be read or does not validate."""


class ModelError(StratoscopeError):
    """A model that cannot be found, read, or given the asked-for shapes."""


class BackendError(StratoscopeError):
    """A back end that is missing, or that cannot load or run a model."""


class MeasurementError(StratoscopeError):
    """A measurement that cannot be taken as asked."""


class StoreError(StratoscopeError):
    """A results database or artefact that cannot be opened, read or written."""


class TraceError(StratoscopeError):
    """A trace that cannot be read or does not hold together."""
