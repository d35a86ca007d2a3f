"""The linear assignment problem."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assignment(gain: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for every row of a square matrix [n, n] its column, so that the sum is greatest.

    Shortest augmenting paths in O(n^3), n^2 vector operations at most. (Jonker & Volgenant, "A
    shortest augmenting path algorithm for dense and sparse linear assignment problems", 1987.)

    >>> assignment(np.array([[1.0, 9.0], [2.0, 9.5]])).tolist()
    [1, 0]
    """
    cost = -np.asarray(gain, dtype=np.float64)
    size = len(cost)
    owner = np.full(size, -1)  # the row of every column
    chosen = np.full(size, -1)  # the column of every row
    row_price, column_price = np.zeros(size), np.zeros(size)
    for start in range(size):
        reach, before, seen = _paths(cost, owner, row_price, column_price, start)
        column, length = seen[-1], reach[seen[-1]]
        passed = seen[:-1]
        row_price[start] += length
        row_price[owner[passed]] += length - reach[passed]
        column_price[passed] -= length - reach[passed]
        while column >= 0:  # every row on the path moves on to the next column
            row = before[column]
            owner[column] = row
            chosen[row], column = column, chosen[row]
    return chosen


def _paths(
    cost: NDArray[np.float64],
    owner: NDArray[np.int64],
    row_price: NDArray[np.float64],
    column_price: NDArray[np.float64],
    start: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[int]]:
    """Search from a row for the nearest free column (Dijkstra).

    Returns the lengths of the paths, the row before every column, and the columns in the order in
    which they were reached, the free one last.
    """
    size = len(cost)
    reach, before = np.full(size, np.inf), np.full(size, -1)
    open_ = np.ones(size, dtype=np.bool_)
    seen: list[int] = []
    row, length = start, 0.0
    while True:
        tried = length + cost[row] - row_price[row] - column_price
        nearer = open_ & (tried < reach)
        reach[nearer], before[nearer] = tried[nearer], row
        column = int(np.where(open_, reach, np.inf).argmin())
        length = reach[column]
        open_[column] = False
        seen.append(column)
        if owner[column] < 0:
            return reach, before, seen
        row = int(owner[column])
