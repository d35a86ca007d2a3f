"""How far a run or a sweep is, while it goes on: a bar in a terminal, a line in a
notebook, nothing where nobody watches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from decentral.records import BYTES, ROLES, SIMULATED, Records, is_own
from decentral.report.facts import ABSENT, duration_text, number_text
from decentral.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.status import Status

    from decentral.engines.base import EngineRun

#: Colours by role, as in the report.
LOCAL, MERGED, SENT, QUIET = (
    "dark_orange",
    "bold dodger_blue1",
    "dark_cyan",
    "bright_black",
)
#: Seconds between two changes of a notebook's line.
_PAUSE_S = 0.25

Record = Mapping[str, Any]


class Display(Protocol):
    """What is told about a run: its records of metrics."""

    def __enter__(self) -> Display:
        """Begin to show."""
        ...

    def __exit__(self, *problem: object) -> None:
        """Leave the terminal as it was."""
        ...

    def __call__(self, record: Record) -> None:
        """Show a record."""
        ...


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell else None
    return type(found).__name__ == "ZMQInteractiveShell"


def terminal() -> Console | None:
    """Return the terminal that shows errors and progress; None where there is none."""
    console = Console(stderr=True, highlight=False, emoji=False, markup=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def display_of(run: EngineRun, quiet: bool = False) -> Display:
    """Choose how to show a run that Python has launched."""
    if quiet:
        return Silence()
    if in_notebook():
        return Notebook(run)
    console = terminal()
    return Silence() if console is None else Bar(console, run, ends=True)


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Silence:
        """Begin."""
        return self

    def __exit__(self, *problem: object) -> None:
        """End."""

    def __call__(self, record: Record) -> None:
        """Look away."""


class Bar:
    """A bar with what the newest evaluation found, refreshed by the clock."""

    def __init__(self, console: Console, run: EngineRun, ends: bool = False) -> None:
        """Show on ``console``; the step is read from the run itself.

        Args:
            console: The terminal.
            run: The run.
            ends: Whether a line with the result stays when the bar goes.
        """
        self.console, self.ends = console, ends
        self.run, self.steps = run, run.setup.config.steps
        self.first, self.began_s = run.step, time.perf_counter()
        self.newest: dict[str, Any] = {}
        self.live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=5,
            transient=True,
        )

    def __enter__(self) -> Bar:
        """Begin to draw."""
        self.began_s = time.perf_counter()
        self.live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        """Erase the bar."""
        self.live.stop()
        if self.ends and problem[:1] == (None,) and has_metrics(self.newest):
            line = [Text(str(self.run.folder.path), "bold"), *self.numbers()]
            self.console.print(Text("  ").join(line), soft_wrap=True)

    def __call__(self, record: Record) -> None:
        """Keep the newest numbers."""
        self.newest |= record

    def render(self) -> RenderableType:
        """Draw the bar and, below it, the newest numbers."""
        step = self.run.step
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        line.add_column(ratio=1)
        for _ in range(2):
            line.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=self.steps, completed=step,
            complete_style="dodger_blue1", finished_style="dodger_blue1",
        )  # fmt: skip
        left = remaining(step - self.first, self.steps - step, self.began_s)
        line.add_row(bar, place_text(step, self.steps), Text(left, QUIET))
        return Group(line, *self.numbers())

    def numbers(self) -> list[Text]:
        """Write the newest numbers."""
        return [newest_text(self.newest, self.run.records)]


class Notebook:
    """One line below the cell, with a bar; what it ends with stays."""

    def __init__(self, run: EngineRun) -> None:
        """Show ``run`` below the cell that is at work."""
        self.run, self.cell = run, Cell()
        self.first, self.began_s = run.step, time.perf_counter()
        self.newest: dict[str, Any] = {}

    def __enter__(self) -> Notebook:
        """Begin to show."""
        self.show("starting")
        return self

    def __exit__(self, *problem: object) -> None:
        """Let the last numbers stay."""
        ended = problem[:1] == (None,)
        self.show(str(self.run.folder.path) if ended else "stopped", at_once=True)

    def __call__(self, record: Record) -> None:
        """Show the newest numbers."""
        self.newest |= record
        step, steps = self.run.step, self.run.setup.config.steps
        self.show(remaining(step - self.first, steps - step, self.began_s))

    def show(self, what: str, at_once: bool = False) -> None:
        """Write the line anew.

        Args:
            what: What stands at its end.
            at_once: Whether it is written though it has just been.
        """
        step, steps = self.run.step, self.run.setup.config.steps
        numbers = newest_text(self.newest, self.run.records).plain
        text = f"{place_text(step, steps)}  {numbers}  {what}"
        self.cell.write(text, step / steps, at_once)


class Cell:
    """What stands below a cell of a notebook, and changes."""

    def __init__(self) -> None:
        """Write nothing yet."""
        self.handle: Any = None
        self.written_s = 0.0

    def write(self, text: str, share: float, at_once: bool = False) -> None:
        """Write a text beside a bar, unless that was just done.

        Args:
            text: The text.
            share: How much is done, from 0 to 1.
            at_once: Whether it is written in any case.
        """
        from IPython.display import HTML, display

        if not at_once and time.perf_counter() - self.written_s < _PAUSE_S:
            return
        self.written_s = time.perf_counter()
        bar = f'<progress value="{share:.3f}" max="1" style="width:12em"></progress>'
        html: Any = HTML(
            f'{bar} <span style="white-space:pre-wrap">{escape(text)}</span>'
        )
        if self.handle is None:
            self.handle = display(html, display_id=True)
        else:
            self.handle.update(html)


class Several:
    """Says which of several runs are at work."""

    def __init__(self, quiet: bool) -> None:
        """Begin with nothing; ``quiet`` stays so."""
        self.cell = Cell() if not quiet and in_notebook() else None
        self.of = 0
        console = None if quiet or self.cell else terminal()
        self.status: Status | None = console.status("") if console else None

    def __enter__(self) -> Several:
        """Begin to show."""
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *problem: object) -> None:
        """Leave the terminal as it was, and a notebook with a bar that is full."""
        if self.status:
            self.status.stop()
        if self.cell and self.of and problem[:1] == (None,):
            self.cell.write(f"{self.of}/{self.of}", 1.0, at_once=True)

    def show(self, text: str, done: int, of: int) -> None:
        """Say what is at work.

        Args:
            text: The runs.
            done: How many have ended.
            of: How many there are.
        """
        line, self.of = f"{done}/{of}  {text}", of
        if self.status:
            self.status.update(line)
        if self.cell:
            self.cell.write(line, done / of, at_once=True)


# --- in words ---------------------------------------------------------------------


def place_text(step: int, steps: int) -> str:
    """Write where a run stands.

    >>> place_text(300, 3000)
    'step   300/3,000'
    """
    return f"step {step:>{len(f'{steps:,}')},}/{steps:,}"


def remaining(done: int, left: int, began_s: float) -> str:
    """Estimate the time to the end from the steps since a display began.

    Args:
        done: Steps since then.
        left: Steps until the end.
        began_s: When it began.
    """
    if not done:
        return "starting"
    # From steps of this process only: a resumed run may go on at another speed.
    left_s = (time.perf_counter() - began_s) / done * left
    return f"{duration_text(max(1, round(left_s)))} left" if left > 0 else "finishing"


def has_metrics(record: Record) -> bool:
    """Tell whether a record holds what metrics found."""
    return any(not is_own(key) for key in record)


def newest_text(record: Record, records: Records) -> Text:
    """Write the scores and the bytes of the newest record."""
    if not has_metrics(record):
        return Text("evaluating the first models", QUIET)
    return Text("  ").join([*scores(record, records), bytes_text(record)])


def scores(record: Record, records: Records) -> list[Text]:
    """Write the scores of the local models and of their average, then what else is
    listed.
    """
    group = records.score(record)
    known = records.of(f"{group}/merged")
    texts = [number_text(record.get(f"{group}/{role}"), known) for role in ROLES]
    local, low, high, merged = texts
    found = [Text.assemble((f"{one.title} ", QUIET), number_text(record[one.key], one))
             for one in records.list_for(record, "progress")]  # fmt: skip
    if texts == [ABSENT] * len(texts):
        return found
    return [
        Text.assemble(
            "" if known.unit == "%" else f"{group} ",
            ("local ", QUIET), (local, LOCAL), (f" ({low.removesuffix(' %')}–{high})", QUIET),
            ("  merged ", QUIET), (merged, MERGED),
        ),
        *found,
    ]  # fmt: skip


def bytes_text(record: Record) -> Text:
    """Write the bytes sent so far, and in how many simulated seconds, where these are
    known.
    """
    sent = Text.assemble(("sent ", QUIET), (format_bytes(record[BYTES.key]), SENT))
    if (seconds := record.get(SIMULATED.key)) is not None:
        sent.append_text(Text.assemble(("  simulated ", QUIET), format_seconds(seconds)))
    return sent
