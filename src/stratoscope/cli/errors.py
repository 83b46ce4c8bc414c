"""What the command line prints when something fails, and with which code it exits."""

from __future__ import annotations

import errno
import os
import sys

import typer

from stratoscope.errors import StratoscopeError

#: Exit codes: 0 done, 1 a check failed (a result not reproduced), 2 an error that the message explains, 130 Ctrl-C.
EXIT_CHECK_FAILED = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def run_reporting_errors(app: typer.Typer) -> int:
    """Runs `app` on the process's arguments; returns the exit code.

    A StratoscopeError, a full disk, a missing permission or exhausted memory is one line on standard error and code 2;
    anything else is a defect of ours and keeps its traceback. STRATOSCOPE_DEBUG=1 keeps every traceback.
    """
    if os.environ.get("STRATOSCOPE_DEBUG") == "1":
        app()
        return 0
    try:
        app()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_ERROR
    except StratoscopeError as error:
        return _say(str(error))
    except MemoryError:
        return _say("not enough memory for this model and batch size (try a smaller --batch-size)")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOENT):
            raise
        place = f" {error.filename}" if error.filename else ""
        return _say(f"{error.strerror}:{place} (choose another folder with --html, --json, --db or STRATOSCOPE_CACHE)")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    return 0


def _say(message: str) -> int:
    """One line on standard error."""
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    return EXIT_ERROR
