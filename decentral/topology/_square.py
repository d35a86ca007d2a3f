"""Rectangles: how many rows n nodes are laid out in."""

from __future__ import annotations

from math import isqrt


def rows_of(n: int) -> int:
    """Return the largest divisor of n up to its square root: the rows of the squarest rectangle.

    >>> [rows_of(n) for n in (12, 16, 13)]
    [3, 4, 1]
    """
    return next(rows for rows in range(isqrt(n), 0, -1) if n % rows == 0)
