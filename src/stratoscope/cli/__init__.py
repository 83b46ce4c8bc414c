"""The commands: one module a verb; parse, call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `stratoscope`; an error that the user can act on is one line and exit code 2."""
    from stratoscope.cli.app import app
    from stratoscope.cli.errors import run_reporting_errors

    sys.exit(run_reporting_errors(app))


if __name__ == "__main__":
    main()
