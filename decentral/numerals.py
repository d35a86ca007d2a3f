"""Numbers as people write them: one reader for YAML, the command line, sweeps and Python."""

from __future__ import annotations

import re

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
#: The numbers of YAML 1.2, with underscores between digits, as in Python.
INTEGER = rf"[-+]?{_DIGITS}|0x[0-9a-fA-F]+|0o[0-7]+"
DECIMAL = (
    rf"[-+]?(?:\.[0-9]+|{_DIGITS}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.?(?:inf|Inf|INF)|\.?(?:nan|NaN|NAN)"
)
_INTEGER, _DECIMAL = re.compile(INTEGER), re.compile(DECIMAL)
#: What some read as octal and some as decimal, and what YAML 1.1 read as minutes and seconds.
_OCTAL = re.compile(r"([-+]?)0[0-9_]*?([1-9][0-9_]*)")
_SIXTIES = re.compile(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?")


def ambiguous(text: str) -> str:
    """Return why a text is a number to some readers only, and what to write; else nothing.

    >>> ambiguous("010"), ambiguous("1:30"), ambiguous("10")
    ('010 begins with 0; write 10, or quote it as text',
     '1:30 might be minutes and seconds; write a number, or quote it as text', '')
    """
    if found := _OCTAL.fullmatch(text):
        return f"{text} begins with 0; write {found[1]}{found[2]}, or quote it as text"
    if _SIXTIES.fullmatch(text):
        return f"{text} might be minutes and seconds; write a number, or quote it as text"
    return ""


def number_in(text: str) -> int | float | None:
    """Return the number that a text is; None: it is none.

    >>> [number_in(text) for text in ("1_000", "5e-4", "0x1f", "-inf", "90%")]
    [1000, 0.0005, 31, -inf, None]
    """
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[1:2] in ("x", "o") else int(text)
    if _DECIMAL.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return None
