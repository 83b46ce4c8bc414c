"""Runs the commands that stand in the docs and writes what they print below them.

    python tools/update_docs.py [--only TEXT] [PAGE ...]

A block that follows a line `<!-- run -->` is a console block: every line that starts with `$ ` is run, in one scratch
folder a page, with a database of its own; what it prints replaces what stood there. `<!-- run head=20 -->` keeps only
the first lines. Commands that start with `python ` run in the repository's root. `--only` runs the blocks that hold a
text, for commands that take long: what the others print still stands as it was seen.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"<!-- run(?: head=(?P<head>\d+))? -->\n```console\n(?P<body>.*?)```\n", re.DOTALL)
WIDTH = "96"
TIMEOUT_S = 900


def output_of(command: str, folder: Path) -> str:
    """Standard output and error of one shell command, without colours and trailing blanks."""
    environment = {**os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1", "STRATOSCOPE_DB": str(folder / "results.db")}
    environment["STRATOSCOPE_SHARE"] = str(folder / "shared")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(
        command,
        shell=True,
        cwd=ROOT if command.startswith("python ") else folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    text = result.stdout.replace(str(folder), ".")
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def filled(body: str, head: int | None, folder: Path) -> str:
    """A block's commands, each followed by what it prints now."""
    parts = []
    for line in body.splitlines():
        if not line.startswith("$ "):
            continue
        lines = output_of(line.removeprefix("$ "), folder).splitlines()
        if head is not None and len(lines) > head:
            lines = [*lines[:head], "..."]
        parts.append("\n".join([line, *lines]))
    return "\n".join(parts) + "\n"


def update(page: Path, only: str) -> bool:
    """Runs a page's blocks that hold `only`, in order; returns whether it has any."""
    text = page.read_text()
    if not any(only in match["body"] for match in BLOCK.finditer(text)):
        return False
    with tempfile.TemporaryDirectory() as name:

        def replaced(match: re.Match[str]) -> str:
            if only not in match["body"]:
                return match[0]
            head = int(match["head"]) if match["head"] else None
            marker = match[0].split("\n", 1)[0]
            return f"{marker}\n```console\n{filled(match['body'], head, Path(name))}```\n"

        page.write_text(BLOCK.sub(replaced, text))
    return True


def main() -> None:
    """Updates the pages that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, default=sorted(DOCS.rglob("*.md")))
    parser.add_argument("--only", default="", help="run the blocks that hold this text")
    arguments = parser.parse_args()
    for page in arguments.pages:
        if update(page, arguments.only):
            print(page.name)


if __name__ == "__main__":
    main()
