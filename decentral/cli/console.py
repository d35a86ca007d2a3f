"""Where words for people go."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class Output(Console):
    """A console that falls silent when nobody reads any more; what it reports on goes on."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on, the interpreter's own flush at the exit included."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console_of(json: bool = False, quiet: bool = False) -> Output:
    """Return where to write for people: stdout, or stderr where stdout holds only JSON."""
    file = sys.stderr if json else sys.stdout
    return Output(file=file, quiet=quiet, highlight=False, emoji=False, markup=False)
