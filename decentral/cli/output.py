"""Where commands write: for people, by rich, and as JSON for other programs.

Drawings are made of characters, points in Braille and bars in eighths, or are PNG
files.
"""

from __future__ import annotations

import json as text_json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, cast

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from decentral.cli.options import SHOWN
from decentral.errors import ConfigError, visible

#: Blanks at the end of a line.
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)


class Output(Console):
    """A console that falls silent when nobody reads any more; what it reports on
    goes on.
    """

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """Yield the parts of what is written, control characters of foreign text
        written out.
        """
        for one in super().render(renderable, options):
            yield one if one.control else Segment(visible(one.text), one.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; where nobody looks at a terminal, lines end with their last letter.

        The cells of a table are filled up with blanks, which files and diffs would keep.
        """
        if self.is_terminal or self.quiet:
            super().print(*objects, **options)
            return
        with self.capture() as written:
            super().print(*objects, **options)
        try:
            self.file.write(_TRAILING.sub("", written.get()))
            self.file.flush()
        except BrokenPipeError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on, the interpreter's own flush at the exit
        included.
        """
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console_of(json: bool | None = None, quiet: bool | None = None) -> Output:
    """Return where to write for people: stdout, or stderr where stdout holds only
    JSON. Both are as the command was asked unless given.
    """
    asked = SHOWN.get()
    json = asked.json if json is None else json
    quiet = asked.quiet if quiet is None else quiet
    file = sys.stderr if json else sys.stdout
    # As it is written: [0.9, 0.95] in a message is a setting, and no markup.
    return Output(file=file, quiet=quiet, highlight=False, emoji=False, markup=False)


def print_json(found: Any) -> None:
    """Print a result as JSON on stdout, where the command was asked to."""
    if SHOWN.get().json:
        print(text_json.dumps(_as_json(found), indent=1, ensure_ascii=False))


def _as_json(value: Any) -> Any:
    """Return a value as JSON knows it: numbers of numpy plain, those that are not
    finite null.
    """
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {str(key): _as_json(one) for key, one in pairs}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in cast("Sequence[Any]", value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | None) else str(value)


# --- drawings of characters -------------------------------------------------------


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
