from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.trace.importers.times import LIMIT_NS, nanoseconds


def oracle(text: str) -> int:
    return int((Decimal(text) * 1000).to_integral_value(ROUND_HALF_EVEN))


decimals = st.builds(
    lambda whole, part: f"{whole}.{part}" if part else str(whole),
    st.integers(-(10**15), 4 * 10**15),
    st.text("0123456789", max_size=6),
)


@given(st.lists(decimals, max_size=8))
def test_microseconds_become_nanoseconds_without_a_float(texts: list[str]) -> None:
    times, good = nanoseconds([text.encode() for text in texts])
    assert good.all()
    assert times.tolist() == [oracle(text) for text in texts]


@given(st.integers(0, 18), st.integers(0, 3), st.lists(st.integers(0, 10**21), min_size=1, max_size=20))
def test_texts_of_one_length_take_the_same_values(whole: int, part: int, numbers: list[int]) -> None:
    digits = [str(number).zfill(22)[: whole + 1 + part] for number in numbers]
    texts = [text[: whole + 1] + ("." + text[whole + 1 :] if part else "") for text in digits]
    times, good = nanoseconds([text.encode() for text in texts])
    expected = [oracle(text) for text in texts]
    assert good.tolist() == [value <= LIMIT_NS for value in expected]
    assert times.tolist() == [value if value <= LIMIT_NS else 0 for value in expected]


@pytest.mark.parametrize("text", ["", "null", "x", "1e400", "9223372036854775808", "-1e30", "NaN", "[1]", "1.2.3"])
def test_what_is_no_time_is_said_to_be_none(text: str) -> None:
    times, good = nanoseconds([text.encode(), b"1.5"])
    assert good.tolist() == [False, True]
    assert times.tolist() == [0, 1500]


def test_exponents_and_quotes_are_read() -> None:
    assert nanoseconds([b"1.5e3", b'"2.25"', b"-0.001"])[0].tolist() == [1_500_000, 2250, -1]
