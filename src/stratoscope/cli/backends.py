"""`stratoscope backends`: which back ends are there, what each can trace, and why not."""

from __future__ import annotations


def backends() -> None:
    """List the back ends with their versions and the levels that they can trace."""
    from rich.console import Console
    from rich.table import Table

    from stratoscope.backends.registry import available_backends

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("back end", "version", "traces", "does not"):
        table.add_column(column)
    for name, capabilities in available_backends().items():
        levels = [level.name.lower() for level, reason in capabilities.levels.items() if reason is None]
        missing: dict[str, list[str]] = {}
        for level, reason in capabilities.levels.items():
            if reason is not None:
                missing.setdefault(reason, []).append(level.name.lower())
        why = [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]
        table.add_row(name, capabilities.version, ", ".join(levels), capabilities.reason or "\n".join(why))
    Console().print(table)
