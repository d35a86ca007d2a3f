"""What a run says about itself: first words, numbers on the way, last words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from decentral.api.display import LOCAL, MERGED, QUIET, SENT
from decentral.config import read_file
from decentral.records import (
    BYTES,
    PACE,
    RELATIVE,
    ROLES,
    ROUNDS,
    SIMULATED,
    WALL,
    Records,
)
from decentral.registry import ConfiguredPlugin
from decentral.report.facts import number_text, plugin_text, relative_text
from decentral.units import format_bytes

if TYPE_CHECKING:
    from decentral.engines.base import EngineRun
    from decentral.loop.cost import Memory
    from decentral.loop.setup import Setup

#: Spaces between columns of numbers, and characters that a label gets before it is
#: folded.
_GAP, _NAMED = 2, 12
#: Runs that are looked at to find one to compare with.
_NEAREST = 5


def make_columns(gap: int = 3) -> Table:
    """Return an empty table without lines, its columns ``gap`` apart under quiet
    heads.
    """
    return Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style=QUIET)


def numbers(
    labels: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    styles: Mapping[str, str],
    width: int,
) -> Group:
    """Return tables of numbers, each as wide as fits, with the labels of the rows
    in all of them.

    Args:
        labels: Heads of what names a row; may be folded.
        columns: Heads of the numbers.
        rows: Cells by head.
        styles: Colours of columns, by head.
        width: Characters on a line.
    """
    taken = {
        head: max(len(head), *(len(row[head]) for row in rows)) + _GAP for head in columns
    }
    named = sum(
        min(_NAMED, max(len(row[head]) for row in rows)) + _GAP for head in labels
    )
    parts: list[list[str]] = [[]]
    for head in columns:
        # A first column is taken however wide it is; otherwise no table would ever
        # hold it.
        if (
            parts[-1]
            and named + sum(taken[one] for one in [*parts[-1], head]) - _GAP > width
        ):
            parts.append([])
        parts[-1].append(head)
    found: list[Table | str] = []
    for part in parts:
        table = make_columns(gap=_GAP)
        for head in labels:
            table.add_column(head, overflow="fold")
        for head in part:
            table.add_column(
                head, justify="right", no_wrap=True, style=styles.get(head, "")
            )
        for row in rows:
            table.add_row(*(row[head] for head in (*labels, *part)))
        found += ["", table]
    return Group(*found[1:])


def facts(rows: Sequence[tuple[str, Text | str]]) -> Table:
    """Lay out labels and values in two columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style=QUIET, no_wrap=True, min_width=7)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def brief(rule: ConfiguredPlugin) -> str:
    """Write a plug-in with the settings that differ from its defaults.

    >>> from decentral.registry import build
    >>> brief(build("communication", "late(start=80%, intensity=0.1)"))
    'late(start=80%)'
    """
    accepted = rule.plugin.accepts
    chosen = {
        key: _value(value)
        for key, value in rule.settings.items()
        if accepted[key].required or value != accepted[key].default
    }
    inside = ", ".join(f"{key}={text}" for key, text in chosen.items())
    return f"{rule.name}({inside})" if inside else rule.name


def _value(value: Any) -> str:
    if isinstance(value, ConfiguredPlugin):
        return brief(value)
    return f"{value:.4g}" if isinstance(value, float) else plugin_text(value)


# --- before -----------------------------------------------------------------------


def introduction(run: EngineRun) -> Table:
    """Say what will run, what it will send, and where it is kept."""
    setup = run.setup
    start = f" from step {run.step:,}" if run.step else ""
    what = f"{_part(setup, 'task', 'task')} on {count(setup.config.nodes, 'node')}"
    model = f"{_part(setup, 'model', type(setup.model).__name__)}, "
    model += f"{count(setup.layout.parameter_count, 'parameter')}, on {setup.device}"
    return facts(
        [
            (
                "training",
                Text.assemble(
                    (what, "bold"), f", {count(setup.config.steps, 'step')}{start}"
                ),
            ),
            *_data(setup),
            ("communication", _communication(setup)),
            *([("simulated time", _world(setup))] if setup.network else []),
            ("model", f"{model}, {run.compute_reason}"),
            *([("workers", run.place)] if run.place else []),
            *([("memory", _room(run.memory))] if run.memory else []),
            ("evaluation", _evaluation(run)),
            ("expected bytes", Text(_outlook(run), SENT)),
            ("folder", folder_text(run.folder.path)),
            *(("note", note) for note in setup.notes),
        ]
    )


def folder_text(folder: Path) -> str:
    """Name a folder, and warn of one in the copy that Ray makes of a job's files."""
    copied = any(part.startswith("_ray_pkg_") for part in folder.absolute().parts)
    return (
        f"{folder} (in a copy that Ray deletes: give --out another path)"
        if copied
        else str(folder)
    )


def _room(memory: Memory) -> str:
    """Say what memory the run takes at its peak, and all the time."""
    lasting = format_bytes(memory.total - memory.passing)
    return f"about {format_bytes(memory.total)} at its peak, {lasting} all the time"


def _evaluation(run: EngineRun) -> str:
    """Say how often a run is evaluated between its ends, on what, at what cost."""
    plan, setup, test = run.evaluation, run.setup, len(run.setup.task.splits[2])
    if plan.every >= setup.config.steps:
        return "at both ends only"
    some = f"{plan.samples:,} of {test:,}" if plan.samples < test else f"all {test:,}"
    nodes = f", {plan.nodes} nodes" if plan.nodes < setup.config.nodes else ""
    return (
        f"every {count(plan.every, 'step')} on {some} test samples{nodes}: "
        f"{relative_text(plan.share)} of training's samples"
    )


def _data(setup: Setup) -> list[tuple[str, Text | str]]:
    """Say how much is seen and in which batches, unless they are constant and steps
    end the run.
    """
    timeline, nodes = setup.timeline, setup.drawn
    if timeline.budget is None and timeline.constant:
        return []
    seen = f"{count(timeline.samples[-1] * nodes, 'sample')} of all nodes"
    sizes = f"{brief(setup.batch)}: {timeline.size(0):,} to {timeline.largest:,} per node"
    return [("data", seen), ("batch", sizes)]


def count(number: int, what: str) -> str:
    """Write a number of things."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _part(setup: Setup, kind: str, otherwise: str) -> str:
    return brief(setup.parts[kind]) if kind in setup.parts else otherwise


def _communication(setup: Setup) -> str:
    if setup.planner is None or "topology" not in setup.parts:
        return brief(setup.algorithm)
    rule = f"{brief(setup.algorithm)} over {brief(setup.parts['topology'])}"
    return f"{rule}, {brief(setup.planner.schedule.rule)}"


def _world(setup: Setup) -> str:
    """Say how simulated time goes on, over which network, and how fast nodes are."""
    way = "event by event" if setup.in_events else "round by round"
    network = _part(
        setup, "network", "no time on links" if setup.in_events else "the links' own"
    )
    return f"{way}, network {network}, compute {_part(setup, 'compute', 'measured')}"


def _outlook(run: EngineRun) -> str:
    """Say how many bytes are expected before anything runs."""
    setup, reference = run.setup, run.setup.all_reduce_bytes
    if setup.planner is None:
        return f"{format_bytes(reference)}, an all-reduce of gradients at every step"
    if run.expected_bytes is None and setup.in_events:
        return "as nodes find time to send"
    if run.expected_bytes is None:
        most = ceiling(setup.planner.schedule.rule)
        return f"as it needs, at most {against(most * reference, reference)}"
    if run.expected_bytes == 0:
        return "nothing"
    return f"about {against(run.expected_bytes, reference)}"


def ceiling(rule: ConfiguredPlugin) -> float:
    """Return the ``max_budget`` of a schedule that reacts to the run, as a share of
    all-reduce.
    """
    inner = [
        ceiling(value)
        for value in rule.settings.values()
        if isinstance(value, ConfiguredPlugin)
    ]
    return max([*inner, float(rule.settings.get("max_budget", 0.0))])


def against(sent: float, reference: float) -> str:
    """Write bytes, and their share of those of all-reduce."""
    share = f", {relative_text(sent / reference)} of all-reduce" if reference else ""
    return format_bytes(sent) + share


# --- after ------------------------------------------------------------------------


def conclusion(summary: Mapping[str, Any], records: Records) -> list[Table]:
    """Return the tables of results, and what they cost."""
    ended = summary["counters"]
    relative, rounds = ended[RELATIVE.key], ended[ROUNDS.key]
    share = f", {number_text(relative, RELATIVE)} of all-reduce" if relative else ""
    within = f" in {count(rounds, 'round')}" if rounds else ""
    cost = facts(
        [
            (
                "sent",
                Text(f"{number_text(ended[BYTES.key], BYTES)}{within}{share}", SENT),
            ),
            (
                "time",
                f"{number_text(ended[WALL.key], WALL)}, {ended[PACE.key]:,.0f} steps/s",
            ),
            *_simulated(ended, records),
        ]
    )
    return [table for table in _results(summary, records) if table.row_count] + [cost]


def _simulated(ended: Mapping[str, Any], records: Records) -> list[tuple[str, str]]:
    """Say how long the run took in simulated time, and what nodes did meanwhile."""
    if (seconds := ended.get(SIMULATED.key)) is None:
        return []
    said = number_text(seconds, SIMULATED)
    if "simulation/gain" in ended:
        idle, gain = (
            number_text(ended[key], records.of(key))
            for key in ("simulation/idle", "simulation/gain")
        )
        least, most = (ended[f"simulation/updates_{end}"] for end in ("min", "max"))
        made = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        said += f"; {made} updates a node, {idle} idle, gain {gain}"
    if "simulation/tail_s" in ended:
        rest, sent = (
            number_text(ended[key], records.of(key))
            for key in ("simulation/tail_s", "simulation/tail_bytes")
        )
        said += f"; of it {rest} and {sent} after the last gradient began"
    return [("simulated", said)]


def _results(summary: Mapping[str, Any], records: Records) -> Iterator[Table]:
    """Yield the table of what judges the run, and that of what else metrics found."""
    before, final = summary["before_merge"], summary["final"]
    moments = [("before the merge", before), ("after the merge", final)]
    # Where nothing was merged at the end both hold the same, and one column will
    # do.
    moments = moments if before != final else [("at the end", final)]
    group = records.score(final)
    shown = [
        records.of(f"{group}/{role}") for role in ROLES if f"{group}/{role}" in final
    ]
    table = make_columns()
    table.add_column(group, style=QUIET)
    for one in shown:
        style = {"merged": MERGED, "local_mean": LOCAL}.get(one.name, "")
        table.add_column(one.label or one.name, style=style, justify="right")
    for label, found in moments if shown else []:
        table.add_row(label, *(number_text(found.get(one.key), one) for one in shown))
    yield table
    others = make_columns()
    others.add_column("measured", style=QUIET, overflow="fold")
    for label, _ in moments:
        others.add_column(label, justify="right")
    for one in records.list_for(final, "results"):
        others.add_row(
            one.title, *(number_text(found.get(one.key), one) for _, found in moments)
        )
    yield others


def path_text(path: Path) -> str:
    """Write a path, relative where it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def neighbour(folder: Path) -> Path | None:
    """Return the newest other finished run of the same task beside a run, to
    compare it with.
    """
    home = folder.resolve()
    others = [p for p in home.parent.glob("*/summary.json") if p.parent != home]
    task = read_file(home / "config.yaml").get("task")
    for summary in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True)[
        :_NEAREST
    ]:
        if read_file(summary.with_name("config.yaml")).get("task") == task:
            return folder.parent / summary.parent.name
    return None
