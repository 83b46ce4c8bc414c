"""Options that several verbs share, written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from stratoscope.errors import SpecError

ModelArgument = Annotated[
    str, typer.Argument(help="A zoo name, an .onnx file, hf:ORG/NAME, or a model manifest (.yaml).", show_default=False)
]
BackendOption = Annotated[str, typer.Option("--backend", "-b", help="Back end that runs the model.")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", help="Shape of an input, as name=1,3,224,224; repeat for several.", show_default=False),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--db", envvar="STRATOSCOPE_DB", help="Results database: a file or an SQLAlchemy URL.", show_default=False
    ),
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write the full record to this file ('-': standard output).", show_default=False),
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write the report page to this file.", show_default=False)
]
SaveOption = Annotated[bool, typer.Option("--save/--no-save", help="Keep the run in the results database.")]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait while another measurement runs on this machine, or fail at once.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the generated inputs.")]

BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="Inputs of one inference; default: 1, or the graph's own.", show_default=False
    ),
]
MaxBatchOption = Annotated[int, typer.Option("--max-batch", min=1, help="Largest batch size of the sweep.")]
BudgetOption = Annotated[float, typer.Option("--budget", min=1, help="Seconds for the sweep.")]

_SHAPE = re.compile(r"(?P<name>[^=]+)=(?P<dims>\d+(,\d+)*)")


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`name=1,3,224,224` texts as a mapping; raises SpecError for another form or a dimension below one."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or []:
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            raise SpecError(f"--shape {text!r} is not of the form name=1,3,224,224")
        dimensions = tuple(int(part) for part in match["dims"].split(","))
        if min(dimensions) < 1:
            raise SpecError(f"--shape {text!r}: every dimension is at least 1")
        shapes[match["name"]] = dimensions
    return shapes
