"""Quantities as people write them: ``90%``, ``2700 steps``, ``20ms``, ``1Gbit/s``,
``2MB``.

Text is parsed only where files and flags are read; inside, units live in names
(``latency_s``). Numbers have one reader for YAML, the command line, sweeps and
Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from decentral.errors import ConfigError

# --- numbers ----------------------------------------------------------------------


_DIGITS = r"[0-9]+(?:_[0-9]+)*"
#: The numbers of YAML 1.2, with underscores between digits, as in Python.
INTEGER = rf"[-+]?{_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+"
DECIMAL = (
    rf"[-+]?(?:\.[0-9]+|{_DIGITS}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.?(?:inf|Inf|INF)|\.?(?:nan|NaN|NAN)"
)
#: Digits of a whole number; Python itself would read no more than some thousands.
_LONGEST = 400
_INTEGER, _DECIMAL = re.compile(INTEGER), re.compile(DECIMAL)
#: What some read as octal and some as decimal, and what YAML 1.1 read as minutes
#: and seconds.
_OCTAL = re.compile(r"([-+]?)0[0-9_]*?([1-9][0-9_]*)")
_SIXTIES = re.compile(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?")
#: What some read as thousands and some as decimals, with or without a unit.
_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+\s*[A-Za-zµ%/]*")
_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+(?:[eE][-+]?[0-9]+)?\s*[A-Za-zµ%/]*")


def ambiguous(text: str) -> str:
    """Return why a text is a number to some readers only, and what to write; else
    nothing.

    >>> ambiguous("010"), ambiguous("1:30"), ambiguous("10")
    ('010 begins with 0; write 10, or quote it as text',
     '1:30 might be minutes and seconds; write a number, or quote it as text', '')
    >>> ambiguous("0,5")
    '0,5 is no number; write 0.5, [0, 5] for a list, or quote it as text'
    """
    if found := _OCTAL.fullmatch(text):
        return f"{text} begins with 0; write {found[1]}{found[2]}, or quote it as text"
    if _SIXTIES.fullmatch(text):
        return f"{text} might be minutes and seconds; write a number, or quote it as text"
    if text[-1:].isdigit() and (written := without_comma(text)):
        listed = f"[{', '.join(part or '0' for part in text.split(','))}]"
        listed = "" if _THOUSANDS.fullmatch(text) else f", {listed} for a list"
        return f"{text} is no number; write {written}{listed}, or quote it as text"
    return ""


def without_comma(text: str) -> str:
    """Return how a number or quantity with a comma is to be written; nothing for
    other text.

    >>> [without_comma(text) for text in ("0,5", "1,5Gbit/s", "1,000", "5", "1,2,3")]
    ['0.5', '1.5Gbit/s', '1000 or 1.000', '', '']
    """
    point, without = text.replace(",", "."), text.replace(",", "")
    if _THOUSANDS.fullmatch(text):
        return f"{without} or {point}" if text.count(",") == 1 else without
    return point if _COMMA.fullmatch(text) else ""


def number_in(text: str) -> int | float | None:
    """Return the number that a text is; None: it is none.

    Raises ConfigError for a whole number longer than any.

    >>> [number_in(text) for text in ("1_000", "5e-4", "0x1f", "-inf", "90%")]
    [1000, 0.0005, 31, -inf, None]
    """
    if _INTEGER.fullmatch(text):
        if len(text) > _LONGEST:
            said = f"{text[:20]}... is a number of {len(text):,} digits"
            raise ConfigError(f"{said}; the most is {_LONGEST}.")
        return int(text, 0) if text[1:2] in ("x", "o") else int(text)
    if _DECIMAL.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return None


# --- quantities -------------------------------------------------------------------


_NUMBER = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_QUANTITY = re.compile(rf"\s*{_NUMBER}\s*([A-Za-zµ%/]*)\s*")
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
}
_BYTES = {
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
}  # fmt: skip
_BITS = {"bit": 1 / 8, "kbit": 125.0, "Mbit": 125e3, "Gbit": 125e6, "Tbit": 125e9}
_COUNTS = {
    "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30,
}  # fmt: skip
_POWER = re.compile(r"(\d{1,6})\^(\d{1,2})")
_AMOUNT = re.compile(rf"{_NUMBER}\s*({'|'.join(_COUNTS)})\s*(sample|token|epoch|)s?")


@dataclass(frozen=True, slots=True)
class Point:
    """A point in time of a run: a fraction of it, or a number of steps."""

    value: float
    unit: str  # "fraction" | "steps"

    def __str__(self) -> str:
        """Write the point as a user would."""
        if self.unit == "steps":
            return f"{self.value:.15g} steps"
        # In percent where that is exact: what is written must be read back as the
        # same.
        percent = f"{100 * self.value:.12g}"
        return f"{percent}%" if float(percent) / 100 == self.value else repr(self.value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        """Let pydantic read points from configurations."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            parse_point,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    def in_steps(self, steps: int) -> float:
        """Return the step at which this point lies in a run of ``steps`` steps."""
        return self.value if self.unit == "steps" else self.value * steps


def _split(text: object, field: str, example: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        written = without_comma(str(text).strip()) or f"it like {example}"
        raise ConfigError(f"{field}: cannot read {text!r}; write {written}.")
    return float(match[1]), match[2]


def parse_point(value: object, field: str = "point in time") -> Point:
    """Read ``90%``, ``0.9``, ``2700 steps`` or an integer of at least 2 (steps).

    >>> parse_point("90%"), parse_point(2700)
    (Point(value=0.9, unit='fraction'), Point(value=2700.0, unit='steps'))
    """
    if isinstance(value, Point):
        return value
    number, unit = _split(value, field, "90%, 0.9 or 2700 steps")
    # 1.0 is the whole run, and 1 could be meant as a step: only the text tells.
    whole = "." not in str(value) and "e" not in str(value).lower()
    point = _point(number, unit, whole, field, value)
    if point.value < 0 or (point.unit == "fraction" and point.value > 1):
        raise ConfigError(
            f"{field}: {value} lies outside the run; use 0% to 100% or a step >= 0."
        )
    return point


def _point(number: float, unit: str, whole: bool, field: str, value: object) -> Point:
    if unit == "%":
        return Point(number / 100, "fraction")
    if unit in ("step", "steps"):
        return Point(number, "steps")
    if unit:
        raise ConfigError(f"{field}: unknown unit {unit!r} in {value!r}; use % or steps.")
    if whole and number == 1:
        raise ConfigError(f"{field}: a bare 1 is ambiguous; write '1 steps' or '100%'.")
    if whole:
        return Point(number, "steps" if number else "fraction")
    if 0 <= number <= 1:
        return Point(number, "fraction")
    raise ConfigError(
        f"{field}: {value!r} is neither a fraction in [0, 1] nor a whole step."
    )


def _scale(
    text: object, table: dict[str, float], bare: str, field: str, example: str
) -> float:
    number, unit = _split(text, field, example)
    unit = unit or bare
    if unit not in table:
        known = ", ".join(table)
        raise ConfigError(
            f"{field}: unknown unit {unit!r} in {text!r}; use one of {known}."
        )
    if number < 0:
        raise ConfigError(f"{field}: {text!r} is negative; the least is 0.")
    return number * table[unit]


def parse_seconds(value: object, field: str = "duration") -> float:
    """Read ``20ms``, ``1.5 s`` or ``2h`` as seconds; a bare number is seconds.

    >>> parse_seconds("20ms")
    0.02
    """
    return _scale(value, _SECONDS, "s", field, "20ms, 1.5s or 2h")


def parse_bytes(value: object, field: str = "size") -> float:
    """Read ``2MB`` or ``1 GiB`` as bytes; a bare number is bytes.

    >>> parse_bytes("2MB")
    2000000.0
    """
    return _scale(value, _BYTES, "B", field, "2MB or 1GiB")


def parse_bandwidth(value: object, field: str = "bandwidth") -> float:
    """Read ``1Gbit/s`` or ``100MB/s`` as bytes per second; a bare number is bytes
    per second.

    >>> parse_bandwidth("1Gbit/s")
    125000000.0
    """
    rates = {f"{unit}/s": scale for unit, scale in (_BYTES | _BITS).items()}
    found = _scale(value, rates, "B/s", field, "1Gbit/s or 100MB/s")
    if found == 0:
        raise ConfigError(
            f"{field}: {value!r} is zero, and nothing would ever arrive; give more."
        )
    return found


def parse_count(value: object, field: str = "count") -> float:
    """Read ``25M`` or ``1.3B`` as a number of things; a bare number is itself.

    >>> parse_count("25M")
    25000000.0
    """
    return _scale(
        value, {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}, "", field, "25M or 1.3B"
    )


@dataclass(frozen=True, slots=True)
class Unit:
    """Marks a setting that people write with a unit:
    ``Annotated[float, Unit(...)]``.
    """

    parse: Callable[[object], float]
    words: str

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> object:
        """Let pydantic read the quantity."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.parse)


Seconds = Annotated[float, Unit(parse_seconds, "duration: 20ms, 1.5s or 2h")]
Bandwidth = Annotated[float, Unit(parse_bandwidth, "bandwidth: 1Gbit/s or 100MB/s")]


def format_seconds(seconds: float) -> str:
    """Write a duration for people, short ones in milliseconds or microseconds.

    >>> format_seconds(0.0213), format_seconds(7384), format_seconds(108e-6)
    ('21.3 ms', '2.05 h', '108 us')
    """
    if seconds == 0:
        return "0 s"
    for unit, scale in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        # 0.9995 rounds to 1 with three digits; below an hour and a half minutes
        # read better.
        if seconds >= 0.9995 * scale * (1.5 if unit in ("h", "min") else 1):
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def format_bandwidth(rate_Bps: float) -> str:
    """Write a bandwidth for people, in bits as networks are sold.

    >>> format_bandwidth(125e6), format_bandwidth(1.855e6)
    ('1 Gbit/s', '14.8 Mbit/s')
    """
    for unit, scale in (
        ("Tbit", 125e9),
        ("Gbit", 125e6),
        ("Mbit", 125e3),
        ("kbit", 125.0),
    ):
        if rate_Bps >= 0.9995 * scale:
            return f"{rate_Bps / scale:.3g} {unit}/s"
    return f"{8 * rate_Bps:.3g} bit/s"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of data: of all nodes together, or of each.

    Epochs are passes over the training data, all nodes taken together; parts of one
    count, too.
    """

    count: float
    unit: str = "samples"  # "samples" | "tokens" | "epochs"
    per_node: bool = False

    def __str__(self) -> str:
        """Write the amount as a user would."""
        return f"{self.count} {self.unit}" + ("/node" if self.per_node else "")


def parse_amount(value: object) -> Amount:
    """Read ``1M samples``, ``500k tokens``, ``2.5 epochs`` or ``60k samples/node``.

    >>> parse_amount("1M samples"), parse_amount("2^20 tokens/node")
    (Amount(count=1000000, unit='samples', per_node=False),
     Amount(count=1048576, unit='tokens', per_node=True))
    """
    text = _POWER.sub(lambda found: str(int(found[1]) ** int(found[2])), str(value))
    each = text.strip().endswith("/node")
    found = _AMOUNT.fullmatch(text.strip().removesuffix("/node").replace("_", ""))
    if found is None:
        raise ConfigError(
            "it is no amount of data; write it like 1M samples, 500k tokens, 2.5 epochs or "
            "60k samples/node."
        )
    unit, count = f"{found[3] or 'sample'}s", float(found[1]) * _COUNTS[found[2]]
    if unit == "epochs":
        if each or not 0 < count < 2**53:
            raise ConfigError(
                "epochs are above 0, and passes over the data of all nodes together; "
                "write 2.5 epochs."
            )
        return Amount(count, unit)
    # Beyond 2^53 a double skips whole numbers.
    if not 1 <= count < 2**53 or abs(count - round(count)) > 1e-6:
        raise ConfigError(f"it must be a whole number of {unit}, at least 1.")
    return Amount(round(count), unit, each)


def format_bytes(count: float) -> str:
    """Write a number of bytes for people, decimal units.

    >>> format_bytes(193_300_000)
    '193 MB'
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= 0.9995 * scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def time_text(precision: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """Return the time of day as records have it, in UTC and ISO 8601.

    Args:
        precision: ``seconds`` or ``milliseconds``.

    Raises:
        ConfigError: The clock of this host is set beyond the years that can be
            written.
    """
    try:
        return datetime.now(UTC).isoformat(timespec=precision)
    except (ValueError, OverflowError, OSError) as error:
        raise ConfigError(
            f"the clock of this host cannot be read as a date ({error}); set it right, to a year "
            "up to 9999."
        ) from error
