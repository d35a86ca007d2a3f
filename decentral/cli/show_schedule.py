"""A schedule in the terminal: when nodes talk, and how many bytes that is, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from decentral.cli.console import console_of
from decentral.cli.drawing import bars
from decentral.cli.png import save
from decentral.cli.settings import config_of
from decentral.cli.words import MERGED, QUIET, SENT, against, brief, ceiling, count, facts
from decentral.errors import ConfigError
from decentral.loop.setup import Setup, prepare
from decentral.network import Conversation, Planned, expected_messages, preview
from decentral.report.facts import relative_text
from decentral.schedules import slots
from decentral.schedules.communication import Merge
from decentral.units import format_bytes

#: Rows of the timeline, and the columns that its axis takes.
ROWS, MARGIN = 6, 6
_TICKS = 4


def show(words: Sequence[str], settings: Mapping[str, str], png: str | None) -> None:
    """Draw a schedule on the terminal and, if asked, into a PNG file."""
    config = config_of(words, settings)
    setup = prepare(config)
    conversation = setup.conversation
    assert conversation is not None  # An algorithm without rounds refuses a schedule.
    console = console_of()
    console.print(_heading(setup, conversation))
    console.print()
    if conversation.schedule.closed_loop:
        console.print(_no_preview(setup, conversation))
        if png:
            raise ConfigError(f"--png {png}: a schedule that reacts to the run has no timeline.")
        return
    planned = list(preview(conversation))
    intensities = _intensities(conversation)
    merges = [slot.is_merge for slot in planned]
    console.print(_timeline(intensities, merges, config.steps, console.width))
    console.print()
    console.print(_costs(setup, conversation, planned[-1]))
    if png:
        from decentral.report import figures

        sent = [slot.messages * setup.row_bytes for slot in planned]
        steps = [slot.step for slot in planned]
        merged = [slot.step for slot in planned if slot.is_merge]
        figure = figures.schedule(steps, intensities, merged, sent)
        expected = format_bytes(expected_messages(conversation) * setup.row_bytes)
        caption = f"{_heading(setup, conversation).plain}: {expected} expected"
        save(figure, caption, png, console)


def _heading(setup: Setup, conversation: Conversation) -> Text:
    config, mixer = setup.config, conversation.mixer
    where = f" over {brief(mixer.topology.rule)}, {count(config.nodes, 'node')}, "
    clock = "a slot every step"
    if config.local_steps > 1:
        clock = f"a slot every {config.local_steps:,} steps"
    return Text.assemble(
        (brief(conversation.schedule.rule), "bold"),
        where,
        f"{count(config.steps, 'step')}, {clock}",
    )


def _no_preview(setup: Setup, conversation: Conversation) -> Table:
    most = ceiling(conversation.schedule.rule)
    reference = setup.all_reduce_bytes
    return facts(
        [
            ("timeline", "none before the run: the schedule reacts to it"),
            ("sends", f"at most {against(most * reference, reference)} (its max_budget)"),
        ]
    )


def _intensities(conversation: Conversation) -> list[float]:
    """Return what the schedule says at every slot, before chance decides about links."""
    steps = slots(conversation.steps, conversation.local_steps)
    actions = [conversation.schedule.action(conversation.progress(step, 0)) for step in steps]
    return [0.0 if isinstance(action, Merge) else action for action in actions]


def _timeline(intensities: Sequence[float], merges: Sequence[bool], steps: int, width: int) -> Text:
    """Draw the intensity over the run, the mean of the slots in each column, and the merges."""
    columns = max(20, width - MARGIN - 1)
    parts = [_part(len(intensities), column, columns) for column in range(columns)]
    drawn = bars([sum(intensities[part]) / len(intensities[part]) for part in parts], ROWS)
    labels = {0: "1 ┤", ROWS // 2: "1/2 ┤"}
    lines = [
        Text.assemble((labels.get(row, "│").rjust(MARGIN), QUIET), (bar.rstrip(), SENT))
        for row, bar in enumerate(drawn)
    ]
    axis = "".join("◆" if any(merges[part]) else "─" for part in parts)
    lines.append(Text.assemble(("0 └".rjust(MARGIN), QUIET), _axis(axis)))
    lines.append(Text(" " * MARGIN + _ticks(steps, columns), QUIET))
    if any(merges):
        lines.append(Text.assemble(" " * MARGIN, ("◆", MERGED), (" global merge", QUIET)))
    return Text("\n").join(lines)


def _part(slots: int, column: int, columns: int) -> slice:
    """Return the slots that lie in a column; one of few slots fills several columns."""
    first = column * slots // columns
    return slice(first, max(first + 1, (column + 1) * slots // columns))


def _axis(axis: str) -> Text:
    return Text("").join(Text(c, MERGED if c == "◆" else QUIET) for c in axis)


def _ticks(steps: int, columns: int) -> str:
    """Write steps below the axis, from the first to the last."""
    line = [" "] * columns
    for tick in range(_TICKS + 1):
        label = f"{steps * tick // _TICKS:,}"
        place = tick * (columns - 1) // _TICKS - len(label) // 2
        place = min(max(0, place), columns - len(label))
        line[place : place + len(label)] = label
    return "".join(line)


def _costs(setup: Setup, conversation: Conversation, last: Planned) -> Table:
    """Say what the whole run sends: expected over all seeds, and exactly with this one."""
    expected = expected_messages(conversation)
    reference = setup.all_reduce_bytes
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style=QUIET)
    table.add_column("", style=QUIET)
    for head in ("expected", f"with seed {setup.config.seed}"):
        table.add_column(head, justify="right")
    both = (expected * setup.row_bytes, last.messages * setup.row_bytes)
    shares = [relative_text(sent / reference) if reference else "—" for sent in both]
    table.add_row("bytes", *(Text(format_bytes(sent), SENT) for sent in both))
    table.add_row("of all-reduce", *(Text(share, SENT) for share in shares))
    table.add_row("messages", f"{expected:,.0f}", f"{last.messages:,}")
    table.add_row("rounds", "", f"{last.round:,}")
    return table
