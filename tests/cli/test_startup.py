"""Starting up loads nothing heavy: the package and `--help` must come at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "polars", "sqlalchemy", "plotly", "numpy", "mlperf_loadgen", "transformers")


def loaded_after(code: str) -> set[str]:
    """Top-level modules in `sys.modules` after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import stratoscope",
        "import stratoscope.cli.app",
        "import stratoscope.cli.app, typer.main; typer.main.get_command(stratoscope.cli.app.app)",
    ],
)
def test_no_heavy_import(code: str) -> None:
    assert loaded_after(code).isdisjoint(HEAVY)


def test_verbs_are_reachable_from_the_package() -> None:
    assert "stratoscope" in loaded_after("import stratoscope; assert callable(stratoscope.run)")


def test_help_names_every_verb() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "stratoscope", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "100"},
    )
    for verb in ("diagnose", "run", "models", "results", "compare", "spec", "trace", "backends"):
        assert verb in result.stdout
