"""Numbers as text: hand-made cases of units, digits by interval, and words for what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.report import format as fmt
from stratoscope.stats.quantity import Quantity


def with_interval(value: float, low: float, high: float, unit: str = "s") -> Quantity:
    return Quantity(value=value, unit=unit, statistic="median", n=50, ci_low=low, ci_high=high, confidence=0.95)


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.0302, 0.0299, 0.0305, "30.2 ms ± 0.3"),  # half width 0.30 begins with 3: one digit
        (0.0302, 0.02995, 0.03045, "30.20 ms ± 0.25"),  # begins with 2: two digits
        (0.030211, 0.030199, 0.030223, "30.211 ms ± 0.012"),
        (0.0302, 0.0299, 0.0308, "30.2 ms (29.9 – 30.8)"),  # one side twice the other: both ends
        (0.0302, 0.0302, 0.0302, "30.20 ms ± <0.01"),
        (1.5, 1.4, 1.6, "1.50 s ± 0.10"),
        (2.5e-6, 2.1e-6, 2.9e-6, "2.5 µs ± 0.4"),
        (1.753e-6, 1.7527e-6, 1.7533e-6, "1.753 µs ± <0.001"),  # a clock of whole nanoseconds
        (4e-8, 3.5e-8, 4.5e-8, "40 ns ± 5"),
        (0.0, -3e-6, 3e-6, "0 µs ± 3"),
        (0.0, 0.0, 0.0, "0 s ± 0"),
        (-2e-5, -5e-5, 1e-5, "−20 µs ± 30"),  # an overhead may be below zero
        (0.9996, 0.9986, 1.0006, "0.9996 s ± 0.0010"),
        (1.0, 1.0 - 1e-9, 1.0 + 1e-9, "1.00000 s ± <0.00001"),  # no clock has so many digits
    ],
)
def test_the_interval_decides_the_digits_of_a_time(value: float, low: float, high: float, shown: str) -> None:
    assert fmt.text(with_interval(value, low, high)) == shown


@pytest.mark.parametrize(
    ("quantity", "shown"),
    [
        (Quantity.exact(102_228_128, "byte"), "97.5 MiB"),
        (Quantity.exact(3 * 2**20, "byte"), "3 MiB"),
        (Quantity.exact(64, "byte"), "64 B"),
        (Quantity.exact(8_178_000_000, "FLOP"), "8.18 GFLOP"),
        (Quantity.exact(272e9, "FLOP/s", "rate"), "272 GFLOP/s"),
        (Quantity.exact(17.1e9, "byte/s", "rate"), "17.1 GB/s"),
        (Quantity.exact(25_557_032, "1"), "25,557,032"),
        (Quantity.exact(0.9, "1", "value"), "0.900"),
        (Quantity.exact(0.0, "s"), "0 s"),
        (Quantity.exact(0.9999e-3, "s"), "1.00 ms"),  # rounds up to the next unit
        (with_interval(12_345, 12_005, 12_685, "1/s"), "12,300 /s ± 300"),
    ],
)
def test_units_fit_the_size_and_say_which_they_are(quantity: Quantity, shown: str) -> None:
    assert fmt.text(quantity) == shown


def test_a_fraction_can_be_shown_as_per_cent() -> None:
    assert fmt.text(with_interval(0.975, 0.96, 0.99, "1"), percent=True) == "97.5 % ± 1.5"


def test_what_is_missing_is_a_word_with_its_reason_and_never_a_number() -> None:
    unavailable = fmt.show(Quantity.unavailable("s", "the runtime does not tell"))
    unjustified = fmt.show(Quantity.unjustified("s", "310 samples are too few", "p99.9", 310))
    assert (unavailable.text, unavailable.status) == ("unavailable", "unavailable")
    assert "the runtime does not tell" in unavailable.detail
    assert (unjustified.text, unjustified.status) == ("—", "unjustified")
    assert unjustified.detail == "99.9th percentile: 310 samples are too few"


def test_the_detail_of_a_number_says_statistic_sample_size_and_interval() -> None:
    detail = fmt.show(with_interval(0.0302, 0.0299, 0.0305)).detail
    assert detail == "median, n = 50, 95 % interval 29.900 ms to 30.500 ms"


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [
        (0.62, "62 %"),
        (0.0994, "9.9 %"),
        (0.0996, "10 %"),
        (0.0002, "<0.1 %"),
        (0.996, "99.6 %"),
        (0.9999, ">99.9 %"),
        (1.0, "100 %"),
        (0.0, "0.0 %"),
        (None, "unavailable"),
    ],
)
def test_shares_are_whole_per_cent_from_ten_on(fraction: float | None, shown: str) -> None:
    assert fmt.share(fraction) == shown


@pytest.mark.parametrize(
    ("statistic", "shown"),
    [
        ("p99", "99th percentile"),
        ("p99.9", "99.9th percentile"),
        ("p91", "91st percentile"),
        ("early_stopping_p90", "90th percentile (early-stopping estimate)"),
        ("trimmed_mean", "trimmed mean"),
        ("proportion", "proportion"),
    ],
)
def test_statistics_have_words(statistic: str, shown: str) -> None:
    assert fmt.statistic_label(statistic) == shown


def test_nouns_follow_their_number() -> None:
    assert fmt.count(1, "query", "queries") == "1 query"
    assert fmt.count(1200, "query", "queries") == "1,200 queries"
    assert fmt.count(0, "layer") == "0 layers"


def test_large_counts_are_given_in_millions_and_shapes_with_crosses() -> None:
    assert fmt.magnitude(Quantity.exact(25_557_032, "1")) == "25.6 M"
    assert fmt.magnitude(Quantity.exact(950, "1")) == "950"
    assert fmt.magnitude(Quantity.unavailable("1", "no graph")) == "unavailable"
    assert fmt.shape((1, 64, 56, 56)) == "1×64×56×56"
    assert fmt.shape(()) == "scalar"
    assert fmt.shape(None) == "unavailable"


@given(
    value=st.floats(1e-3, 1e4),
    relative=st.floats(1e-4, 0.5),
)
def test_a_shown_number_read_back_lies_within_its_own_interval(value: float, relative: float) -> None:
    low, high = value * (1 - relative), value * (1 + relative)
    number, unit, sign, half = fmt.text(with_interval(value, low, high)).split()
    factor = {suffix: scale for scale, suffix in fmt.SCALES["s"]}[unit]
    read = float(number.replace(",", "")) * factor
    assert sign == "±"
    assert low <= read * (1 + 1e-12)
    assert read <= high * (1 + 1e-12)
    assert float(half.replace(",", "")) * factor == pytest.approx((high - low) / 2, rel=0.17)
