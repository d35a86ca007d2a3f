"""A batch schedule on the terminal: its size over the run, on a logarithmic scale."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import log

from rich.text import Text

from decentral.cli.drawing import bars, ticks
from decentral.cli.words import MERGED, QUIET

ROWS, MARGIN = 6, 8


def timeline(sizes: Sequence[int], width: int) -> Text:
    """Draw the batch of every step over the data; the largest of each column."""
    columns = max(20, width - MARGIN - 1)
    least, most = min(sizes), max(sizes)
    ends = list(accumulate(sizes))
    edges = [bisect_right(ends, k * ends[-1] / columns) for k in range(columns + 1)]
    tops = [max(sizes[a : max(a + 1, b)]) for a, b in pairwise(edges)]
    drawn = bars([_height(top, least, most) for top in tops], ROWS)
    labels = {0: f"{most:,} ┤", ROWS - 1: f"{least:,} ┤"}
    lines = [
        Text.assemble((labels.get(row, "│").rjust(MARGIN), QUIET), (bar.rstrip(), MERGED))
        for row, bar in enumerate(drawn)
    ]
    lines.append(Text("└".rjust(MARGIN) + "─" * columns, QUIET))
    lines.append(Text(" " * MARGIN + ticks(ends[-1], columns), QUIET))
    lines.append(Text(" " * MARGIN + "batch of a node (logarithmic) over samples of a node", QUIET))
    return Text("\n").join(lines)


def _height(size: float, least: int, most: int) -> float:
    """Return the height of a bar: one row for the smallest batch, all for the largest."""
    share = 0.0 if most == least else log(size / least) / log(most / least)
    return (1 + share * (ROWS - 1)) / ROWS
