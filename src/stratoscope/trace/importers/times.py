"""Turns decimal texts of microseconds into integer nanoseconds, exactly and many at once.

A float64 keeps microseconds of the UNIX epoch to a quarter of a microsecond only, so the digits are read as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Nanoseconds beyond this are no time of ours: half the range, so that differences do not overflow either.
LIMIT_NS: Final = 1 << 62
_ZERO: Final = ord("0")
#: Digits of whole microseconds that fit for certain, if the first of as many is at most 3.
_DIGITS: Final = 16


def nanoseconds(texts: Sequence[bytes]) -> tuple[Ints, Bools]:
    """(times, good): texts of microseconds as integer nanoseconds (half to even), 0 where not good.

    Not good is what is no number, or beyond `LIMIT_NS`.
    """
    count = len(texts)
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    uniform = _uniform(texts)
    if uniform is not None:
        return uniform, np.ones(count, np.bool_)
    plain = [bytes(text) for text in texts]
    alike: dict[tuple[int, int], list[int]] = {}
    for row, text in enumerate(plain):
        alike.setdefault((len(text), text.find(b".")), []).append(row)
    times, good = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    for rows in alike.values():
        some = [plain[row] for row in rows]
        uniform = _uniform(some)
        if uniform is None:
            found = [_one(text) for text in some]
            times[rows] = np.array([value or 0 for value in found], np.int64)
            good[rows] = np.array([value is not None for value in found], np.bool_)
        else:
            times[rows] = uniform
            good[rows] = True
    return times, good


def _uniform(texts: Sequence[bytes]) -> Ints | None:
    """All at once where they have the same number of digits before and after the point, and few enough."""
    length = len(texts[0])
    first = bytes(texts[0])
    whole = first.find(b".") if b"." in first else length
    decimals = max(length - whole - 1, 0)
    if not 1 <= whole <= _DIGITS or decimals > 3:
        return None
    joined = b",".join(texts) + b","
    if len(joined) != (length + 1) * len(texts):
        return None
    # One row a place, so that each step runs over all texts at once.
    places = np.ascontiguousarray(np.frombuffer(joined, np.uint8).reshape(len(texts), length + 1).T)
    if (places[length] != ord(",")).any():
        return None
    if decimals and (places[whole] != ord(".")).any():
        return None
    if whole == _DIGITS and (places[0] > ord("3")).any():
        return None
    digits = np.full((-(-(whole + 3) // 4) * 4, len(texts)), _ZERO, np.uint8)
    before = digits.shape[0] - whole - 3
    digits[before : before + whole] = places[:whole]
    digits[before + whole : before + whole + decimals] = places[whole + 1 : length]
    digits -= np.uint8(_ZERO)  # wraps around below "0"
    if digits.max() > 9:
        return None
    twos = digits[::2] * np.uint8(10) + digits[1::2]
    fours = twos[::2] * np.uint16(100) + twos[1::2]
    value: Ints = fours[0].astype(np.int64)
    for four in fours[1:]:
        value *= 10_000
        value += four
    return value


def _one(text: bytes) -> int | None:
    """One time, or None."""
    try:
        value = Decimal(bytes(text).decode().strip('"'))
        if not value.is_finite() or abs(value) * 1000 > LIMIT_NS:
            return None
        return int((value * 1000).to_integral_value(ROUND_HALF_EVEN))
    except (InvalidOperation, UnicodeDecodeError):
        return None
