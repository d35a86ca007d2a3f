"""What a run does when, before it runs: when nodes send, at which rate they learn,
what is on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from decentral.cli.output import bars, console_of, print_json, save, ticks
from decentral.cli.settings import config_of
from decentral.cli.words import (
    LOCAL,
    MERGED,
    QUIET,
    SENT,
    against,
    brief,
    ceiling,
    count,
    facts,
    make_columns,
)
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.loop.preparing import prepare, tracks
from decentral.loop.setup import Setup
from decentral.network.planning import (
    Planned,
    RoundPlanner,
    expected_bytes,
    expected_messages,
    preview,
)
from decentral.registry import names, read
from decentral.report.facts import relative_text
from decentral.schedules.action import Merge
from decentral.schedules.phases import Track
from decentral.units import format_bytes

#: Rows of the timeline, and the columns that its axis takes.
ROWS, MARGIN = 6, 15


def show(
    name: str,
    words: Sequence[str],
    flags: Mapping[str, str],
    png: str | None,
    trust: Sequence[str] = (),
) -> None:
    """Draw a schedule, or all of a run's from its YAML, on the terminal and into a
    PNG file.

    Args:
        name: A schedule, or a configuration's file.
        words: ``key=value``.
        flags: Options by the setting they stand for.
        png: File of the drawing.
        trust: Digests of code that a run's file may name.
    """
    setup = prepare(_config(name, words, flags, trust))
    planner = setup.planner
    console = console_of()
    console.print(_heading(setup, planner))
    console.print()
    drawn = tracks(setup)
    planned: list[Planned] = []
    # What a closed-loop schedule does depends on what the run measures: nothing to
    # replay.
    if planner is not None and not planner.schedule.closed_loop:
        planned = list(preview(planner))
    elif png:
        raise ConfigError(
            f"--png {png}: a schedule that reacts to the run has no timeline."
        )
    console.print(_timeline(setup, planned, drawn, console.width))
    console.print()
    console.print(facts([(track.name, track.text) for track in drawn]))
    console.print()
    if planner is not None and planned:
        console.print(_costs(setup, planner, planned[-1]))
        if png:
            _save(png, setup, planner, planned, drawn, console)
    elif planner is not None:
        console.print(_no_preview(setup, planner))
    print_json(_record(setup, planner, planned))


def _record(
    setup: Setup, planner: RoundPlanner | None, planned: Sequence[Planned]
) -> dict[str, Any]:
    """Return what the schedule sends as other programs read it."""
    found: dict[str, Any] = {
        "nodes": setup.config.nodes,
        "steps": setup.config.steps,
        "all_reduce_bytes": setup.all_reduce_bytes,
    }
    if planner is None:
        return found
    found["schedule"] = brief(planner.schedule.rule)
    found["local_steps"] = setup.config.local_steps
    if not planned:
        return {**found, "max_budget": ceiling(planner.schedule.rule)}
    last = planned[-1]
    return {
        **found,
        "expected_bytes": expected_bytes(planner, setup.size),
        "expected_messages": expected_messages(planner),
        "bytes": last.bytes(setup.size),
        "messages": last.messages,
        "rounds": last.round,
        "merges": [step.step for step in planned if step.is_merge],
    }


def _config(
    name: str, words: Sequence[str], flags: Mapping[str, str], trust: Sequence[str]
) -> Config:
    """Return the configuration: of a run's file, or of the schedule with that name.

    Args:
        name: The file, or the schedule.
        words: ``key=value``.
        flags: Options by the setting they stand for.
        trust: Digests of code that a run's file may name.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return config_of([name, *words], flags, trust)
    kind = read("batch", name).name
    # A name of both kinds, such as constant, means the communication schedule.
    batch = kind in names("batch") and kind not in names("communication")
    return config_of(words, {"batch_schedule" if batch else "schedule": name, **flags})


def _save(
    png: str,
    setup: Setup,
    planner: RoundPlanner,
    planned: Sequence[Planned],
    drawn: Sequence[Track],
    console: Console,
) -> None:
    from decentral.report import figures

    sent = [step.bytes(setup.size) for step in planned]
    steps = [step.step for step in planned]
    merged = [step.step for step in planned if step.is_merge]
    figure = figures.schedule(steps, _intensities(planner), merged, sent, drawn)
    expected = format_bytes(expected_bytes(planner, setup.size))
    save(figure, f"{_heading(setup, planner).plain}: {expected} expected", png, console)


def _heading(setup: Setup, planner: RoundPlanner | None) -> Text:
    config = setup.config
    length = f", {count(config.nodes, 'node')}, {count(config.steps, 'step')}"
    if planner is None:
        return Text.assemble((brief(setup.algorithm), "bold"), length)
    clock = (
        f", communication every {config.local_steps:,} steps"
        if config.local_steps > 1
        else (", communication every step")
    )
    where = f" over {brief(planner.mixer.topology.rule)}"
    return Text.assemble((brief(planner.schedule.rule), "bold"), where, length, clock)


def _no_preview(setup: Setup, planner: RoundPlanner) -> Table:
    most = ceiling(planner.schedule.rule)
    reference = setup.all_reduce_bytes
    return facts(
        [
            ("timeline", "none before the run: the schedule reacts to it"),
            ("sends", f"at most {against(most * reference, reference)} (its max_budget)"),
        ]
    )


def _intensities(planner: RoundPlanner) -> list[float]:
    """Return what the schedule says at every communication step, before links are
    drawn.
    """
    decisions = planner.decisions()
    # A merge is a diamond on the axis; it has no intensity of its own.
    return [0.0 if isinstance(action, Merge) else action for _, action in decisions]


def _timeline(
    setup: Setup, planned: Sequence[Planned], drawn: Sequence[Track], width: int
) -> Text:
    """Draw everything over one axis of steps: communication, and below it one line
    each.
    """
    columns = max(20, width - MARGIN - 1)
    communication = _communication(setup, planned, columns)
    lines = [*communication, *(_line(track, columns) for track in drawn)]
    lines.append(Text(" " * MARGIN + ticks(setup.config.steps, columns), QUIET))
    if any(step.is_merge for step in planned):
        lines.append(Text.assemble(" " * MARGIN, ("◆", MERGED), (" global merge", QUIET)))
    return Text("\n").join(lines)


def _communication(setup: Setup, planned: Sequence[Planned], columns: int) -> list[Text]:
    """Draw the intensity, the mean of the communication steps in each column, and
    the merges.
    """
    if setup.planner is None or not planned:
        return []
    intensities = _intensities(setup.planner)
    parts = [_part(len(intensities), column, columns) for column in range(columns)]
    drawn = bars(
        [sum(intensities[part]) / len(intensities[part]) for part in parts], ROWS
    )
    labels = {0: "1 ┤", ROWS // 2: "1/2 ┤", ROWS - 1: "communication │"}
    lines = [
        Text.assemble((labels.get(row, "│").rjust(MARGIN), QUIET), (bar.rstrip(), SENT))
        for row, bar in enumerate(drawn)
    ]
    axis = "".join(
        "◆" if any(step.is_merge for step in planned[part]) else "─" for part in parts
    )
    return [*lines, Text.assemble(("0 └".rjust(MARGIN), QUIET), _axis(axis))]


def _line(track: Track, columns: int) -> Text:
    """Draw one line: how large a value is, or a bar where something is on."""
    parts = [_part(len(track.values), column, columns) for column in range(columns)]
    # A column stands for several steps, of which a phase may cover some.
    shares = [sum(track.values[part]) / len(track.values[part]) for part in parts]
    if track.phased:
        drawn = "".join(
            "━" if share > 1 - 1e-9 else "╍" if share else " " for share in shares
        )
    else:
        drawn = bars(shares, rows=1)[0]
    return Text.assemble(
        (f"{track.name}  ".rjust(MARGIN), QUIET), (drawn.rstrip(), LOCAL)
    )


def _part(count: int, column: int, columns: int) -> slice:
    """Return the communication steps that lie in a column; one of few fills several
    columns.
    """
    first = column * count // columns
    # At least one step, or the mean of a column would divide by zero.
    return slice(first, max(first + 1, (column + 1) * count // columns))


def _axis(axis: str) -> Text:
    return Text("").join(Text(c, MERGED if c == "◆" else QUIET) for c in axis)


def _costs(setup: Setup, planner: RoundPlanner, last: Planned) -> Table:
    """Say what the whole run sends: expected over all seeds, and exactly with this
    one.
    """
    expected = expected_messages(planner)
    reference = setup.all_reduce_bytes
    table = make_columns()
    table.add_column("", style=QUIET)
    for head in ("expected", f"with seed {setup.config.seed}"):
        table.add_column(head, justify="right")
    both = (expected_bytes(planner, setup.size), last.bytes(setup.size))
    shares = [relative_text(sent / reference) if reference else "—" for sent in both]
    table.add_row("bytes", *(Text(format_bytes(sent), SENT) for sent in both))
    table.add_row("of all-reduce", *(Text(share, SENT) for share in shares))
    table.add_row("messages", f"{expected:,.0f}", f"{last.messages:,}")
    table.add_row("rounds", "", f"{last.round:,}")
    return table
