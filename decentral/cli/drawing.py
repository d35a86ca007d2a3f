"""Drawings made of characters, points in Braille, bars in eighths, and figures as
PNG files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from decentral.errors import ConfigError

#: The bit of each of the 4 x 2 dots of a Braille character, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_EIGHTHS = " ▁▂▃▄▅▆▇█"
#: Numbers below an axis, the first apart.
_TICKS = 4

Point = tuple[float, float]


class Sketch:
    """A drawing of ``width`` x ``height`` characters; coordinates run from 0 to 1,
    y upwards.
    """

    def __init__(self, width: int, height: int) -> None:
        """Begin empty."""
        self.width, self.height = width, height
        self.bits = [[0] * width for _ in range(height)]
        self.labels: dict[tuple[int, int], str] = {}

    def _dot(self, point: Point) -> tuple[int, int]:
        x, y = point
        # Every character has 2 x 4 dots; rows are counted from above.
        return round(x * (2 * self.width - 1)), round((1 - y) * (4 * self.height - 1))

    def line(self, start: Point, end: Point) -> None:
        """Draw a straight line."""
        (x, y), (to_x, to_y) = self._dot(start), self._dot(end)
        count = max(abs(to_x - x), abs(to_y - y), 1)
        for k in range(count + 1):
            column = round(x + (to_x - x) * k / count)
            row = round(y + (to_y - y) * k / count)
            self.bits[row // 4][column // 2] |= _DOTS[row % 4][column % 2]

    def label(self, point: Point, text: str) -> None:
        """Write text around a point, over what was drawn there."""
        x, y = self._dot(point)
        # Moved inwards where it would run over an edge.
        first = min(max(0, x // 2 - (len(text) - 1) // 2), self.width - len(text))
        for k, character in enumerate(text):
            self.labels[y // 4, first + k] = character

    def rows(self) -> list[list[tuple[str, bool]]]:
        """Return the characters, row by row, and whether each belongs to a label."""
        return [
            [
                (self.labels[row, column], True)
                if (row, column) in self.labels
                else (chr(0x2800 + bits) if bits else " ", False)
                for column, bits in enumerate(line)
            ]
            for row, line in enumerate(self.bits)
        ]


def bars(heights: Sequence[float], rows: int) -> list[str]:
    """Draw one bar per height in [0, 1], ``rows`` characters high, the top row
    first.

    A height above zero is never invisible.

    >>> bars([0, 0.25, 0.5, 1], rows=2)
    ['   █', ' ▄██']
    """
    filled = [max(round(h * 8 * rows), 1 if h > 0 else 0) for h in heights]
    return [
        "".join(_EIGHTHS[min(8, max(0, eighths - 8 * row))] for eighths in filled)
        for row in reversed(range(rows))
    ]


def ticks(last: int, columns: int) -> str:
    """Write numbers below an axis, from 0 to the last.

    >>> ticks(800, 23)
    '0   200   400  600  800'
    """
    line = [" "] * columns
    for tick in range(_TICKS + 1):
        label = f"{last * tick // _TICKS:,}"
        place = tick * (columns - 1) // _TICKS - len(label) // 2
        place = min(max(0, place), columns - len(label))
        line[place : place + len(label)] = label
    return "".join(line)


# --- PNG files --------------------------------------------------------------------


def save(figure: Any, caption: str, path: str, console: Console) -> None:
    """Write a figure above its caption and say so; ConfigError where the file
    cannot be written.

    Args:
        figure: The figure.
        caption: What stands above it.
        path: The file.
        console: Where it is said.
    """
    from decentral.report import figures

    if figure is None:
        raise ConfigError(f"--png {path}: there is nothing to draw.")
    figure.supxlabel(caption, fontsize=9)
    try:
        figures.save_png(figure, path)
    except OSError as error:
        raise ConfigError(f"--png {path} cannot be written: {error.strerror}.") from error
    console.print()
    console.print(Text(f"drawn in {path}"), soft_wrap=True)
