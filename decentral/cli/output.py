"""Where commands write: for people, by rich, and as JSON for other programs."""

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

from decentral.cli.options import SHOWN
from decentral.errors import visible

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
