"""Run ids: short, sortable by time of creation, safe as a folder's name."""

from __future__ import annotations

import re
import secrets
import time

from stratoscope.errors import StoreError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u; in ASCII order, so ids sort
_TIME_DIGITS = 11  # 55 bits of microseconds since 1970: enough until the year 3111
_RANDOM_DIGITS = 5  # 25 bits against two processes in the same microsecond
_VALID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


def _base32(number: int, digits: int) -> str:
    return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in reversed(range(digits)))


def new_run_id(now_ns: int | None = None) -> str:
    """A new run id of 16 characters (a ULID's layout, shorter): 11 of time in microseconds, then 5 at random.

    Ids sort as text in the order of their time. `now_ns` (nanoseconds since 1970) stands in for the clock in tests.
    """
    moment_ns = time.time_ns() if now_ns is None else now_ns
    return _base32(moment_ns // 1000, _TIME_DIGITS) + _base32(secrets.randbits(5 * _RANDOM_DIGITS), _RANDOM_DIGITS)


def is_run_id(text: str) -> bool:
    """Whether `text` can be a run's id: 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit."""
    return _VALID.fullmatch(text) is not None


def check_run_id(run_id: str) -> str:
    """`run_id` itself; StoreError where it could not be a folder's name of its own (empty, dots, slashes, too long)."""
    if not is_run_id(run_id):
        raise StoreError(
            f"run id {run_id[:80]!r} is not valid", hint="1 to 64 letters, digits, '-' or '_', beginning with no sign"
        )
    return run_id
