"""Progress of long work: a bar on a terminal, nothing in a pipe, no thread that would disturb a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Says what is being done now and, where it is known, how far the whole has come (0 to 1).
Report = Callable[[str, float | None], None]


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Yields the function that long work calls between its steps.

    The bar is drawn on standard error when that is a terminal, and only inside such a call: a refresh thread would take
    the interpreter lock in the middle of a timed region.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text, share: None
        return
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[step]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=1.0, step="")

        def report(text: str, share: float | None) -> None:
            if share is None:
                bar.update(task, step=text)
            else:
                bar.update(task, completed=share, step=text)
            bar.refresh()

        yield report
