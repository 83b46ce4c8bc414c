"""What goes wrong when weights are shared."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from stratoscope.errors import StratoscopeError


class ShareError(StratoscopeError):
    """A model that cannot be prepared, mapped or served; other models and clients are not affected."""


class IntegrityError(ShareError):
    """Bytes of the store that are not those that were prepared: tampered with, truncated, or out of place."""


class BudgetError(ShareError):
    """A tier that has no room: the model is larger than its budget, or everything in it is in use."""


#: The way out of what the system reports.
HINTS: Final = {
    errno.ENOSPC: "free some space, or set STRATOSCOPE_SHARE to a folder that has room",
    errno.EDQUOT: "free some of your quota, or set STRATOSCOPE_SHARE to another folder",
    errno.EROFS: "set STRATOSCOPE_SHARE to a folder that can be written",
    errno.EACCES: "set STRATOSCOPE_SHARE to a folder of your own",
    errno.EPERM: "set STRATOSCOPE_SHARE to a folder of your own",
    errno.ENOMEM: "lower the memory budget, or evict models",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


@contextmanager
def clear_errors(action: str, place: object) -> Iterator[None]:
    """Re-raises what the system reports inside as one line: "cannot `action` in `place`: reason"."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ShareError(f"cannot {action} in {place}: {reason}", hint=HINTS.get(error.errno or 0)) from error
