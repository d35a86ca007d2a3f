"""Quantities as people write them, there and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decentral import ConfigError, Point
from decentral.units import (
    format_bytes,
    parse_amount,
    parse_bandwidth,
    parse_bytes,
    parse_point,
    parse_seconds,
)

fractions = st.floats(0, 1)
steps = st.integers(0, 10**12)


@given(value=fractions)
@example(value=1 / 3)
@example(value=0.07)
@example(value=5e-324)
def test_a_fraction_of_the_run_survives_being_written_down(value: float) -> None:
    point = Point(value, "fraction")
    assert parse_point(str(point)) == point


@given(value=steps)
@example(value=1_234_567)
def test_a_step_survives_being_written_down(value: int) -> None:
    point = Point(float(value), "steps")
    assert parse_point(str(point)) == point


@given(value=st.integers(0, 100))
def test_percent_fraction_and_decimal_are_the_same_point(value: int) -> None:
    assert (
        parse_point(f"{value}%") == parse_point(f"{value} %") == parse_point(value / 100)
    )
    assert parse_point(f"{value}%") == parse_point(str(value / 100))


@given(value=st.integers(2, 10**6))
def test_whole_numbers_mean_steps(value: int) -> None:
    wanted = Point(value, "steps")
    assert (
        parse_point(value)
        == parse_point(str(value))
        == parse_point(f"{value} steps")
        == wanted
    )
    assert wanted.in_steps(10) == value


def test_the_ends_of_the_run() -> None:
    assert parse_point(0) == Point(0, "fraction")
    assert parse_point("1 step") == Point(1, "steps")
    assert parse_point(1.0) == Point(1.0, "fraction")
    assert parse_point("100%").in_steps(250) == 250


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "a bare 1 is ambiguous; write '1 steps' or '100%'"),
        ("1", "a bare 1 is ambiguous"),
        (-1, "outside the run"),
        ("-5%", "outside the run"),
        ("101%", "outside the run"),
        (1.5, "neither a fraction"),
        ("2.5", "neither a fraction"),
        ("5 epochs", "unknown unit 'epochs'"),
        ("soon", "cannot read 'soon'; write it like 90%"),
        ("", "cannot read ''"),
        (None, "cannot read None"),
        ("nan", "cannot read 'nan'"),
        ("inf", "cannot read 'inf'"),
        (float("nan"), "cannot read nan"),
        (True, "cannot read True"),
    ],
)
def test_a_point_that_cannot_be_read_names_field_and_remedy(
    value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match="start: ") as caught:
        parse_point(value, "start")
    assert message in str(caught.value)


@given(number=st.floats(0, 1e6, allow_subnormal=False))
def test_units_scale(number: float) -> None:
    def near(found: float, wanted: float) -> bool:
        return math.isclose(found, wanted, rel_tol=1e-12)

    text = repr(number)
    assert near(parse_seconds(f"{text}ms"), number * 1e-3)
    assert near(parse_seconds(f" {text} min "), number * 60)
    assert parse_seconds(text) == parse_seconds(number) == number
    assert near(parse_bytes(f"{text} MB"), number * 1e6)
    assert near(parse_bytes(f"{text}MiB"), number * 2**20)
    if number:
        assert near(parse_bandwidth(f"{text}Mbit/s"), number * 125e3)
        assert near(parse_bandwidth(f"{text} kB/s"), number * 1e3)


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (parse_seconds, "20 parsecs", "unknown unit 'parsecs'"),
        (parse_seconds, "-1s", "negative"),
        (parse_bytes, "2 megs", "use one of B, kB"),
        (parse_bytes, "lots", "write it like 2MB or 1GiB"),
        (parse_bandwidth, "1Gbit", "unknown unit 'Gbit'"),
        (parse_bandwidth, "-1MB/s", "negative"),
    ],
)
def test_a_quantity_that_cannot_be_read_says_why(parse, value: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="link 0-1: ") as caught:
        parse(value, "link 0-1")
    assert message in str(caught.value)


@given(count=st.floats(0, 1e14))
@example(count=999.6)
@example(count=999_500)
@example(count=999_999_999)
def test_bytes_are_written_to_three_digits_and_can_be_read_back(count: float) -> None:
    text = format_bytes(count)
    assert "e" not in text
    assert len(text.split()[0].replace(".", "")) <= 4
    assert math.isclose(parse_bytes(text), count, rel_tol=6e-3, abs_tol=0.5)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1M samples", "1000000 samples"),
        ("2^20", "1048576 samples"),
        ("1.1M", "1100000 samples"),
        ("500ktokens", "500000 tokens"),
        ("1 token", "1 tokens"),
        ("60_000/node", "60000 samples/node"),
        (4096, "4096 samples"),
        ("1Mi samples/node", "1048576 samples/node"),
        ("2.5 epochs", "2.5 epochs"),
        ("1epoch", "1.0 epochs"),
    ],
)
def test_amounts_of_data(text: object, written: str) -> None:
    assert str(parse_amount(text)) == written


@given(count=st.integers(1, 2**53 - 1), unit=st.sampled_from(["samples", "tokens"]))
def test_an_amount_survives_being_written_down(count: int, unit: str) -> None:
    amount = parse_amount(f"{count} {unit}")
    assert (amount.count, amount.unit) == (count, unit)
    assert parse_amount(str(amount)) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "samples",
        "1.5",
        "0",
        "-3",
        "1M rows",
        "9^99",
        "1e400",
        "0 epochs",
        "-1 epoch",
        "3 epochs/node",
        "1e400 epochs",
    ],
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ConfigError, match=r"amount of data|whole number|above 0"):
        parse_amount(text)
