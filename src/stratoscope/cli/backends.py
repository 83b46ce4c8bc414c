"""`stratoscope backends`: which back ends are there, what each can trace, and why not."""

from __future__ import annotations


def backends() -> None:
    """List the back ends with their versions and the levels that they can trace."""
    from rich.console import Console
    from rich.table import Table

    from stratoscope.backends.registry import available_backends

    table = Table(box=None, header_style="bold")
    for column in ("back end", "version", "levels", "not available"):
        table.add_column(column)
    for name, capabilities in available_backends().items():
        levels = [level.name.lower() for level, reason in capabilities.levels.items() if reason is None]
        missing = [f"{level.name.lower()}: {reason}" for level, reason in capabilities.levels.items() if reason]
        why = capabilities.reason or "; ".join(missing)
        table.add_row(name, capabilities.version, ", ".join(levels), why)
    Console().print(table)
