"""What a run says about itself: first words, numbers on the way, last words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from decentral.config import read_file
from decentral.registry import Bound
from decentral.report.facts import duration_text, number_text, plugin_text, relative_text
from decentral.units import format_bytes

if TYPE_CHECKING:  # they load torch
    from decentral.engines.base import EngineRun
    from decentral.loop.memory import Memory
    from decentral.loop.setup import Setup

#: Colours by role, as in the report.
LOCAL, MERGED, SENT, QUIET = "dark_orange", "bold dodger_blue1", "dark_cyan", "bright_black"

Row = Mapping[str, Any]
#: Runs that are looked at to find one to compare with.
_NEAREST = 5


def columned(gap: int = 3) -> Table:
    """Return an empty table without lines, its columns ``gap`` apart under quiet heads."""
    return Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style=QUIET)


def facts(rows: Sequence[tuple[str, Text | str]]) -> Table:
    """Lay out labels and values in two columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style=QUIET, no_wrap=True, min_width=7)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    return grid


def brief(rule: Bound) -> str:
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
    if isinstance(value, Bound):
        return brief(value)
    return f"{value:.4g}" if isinstance(value, float) else plugin_text(value)


# --- before ---------------------------------------------------------------------------------------


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
                Text.assemble((what, "bold"), f", {count(setup.config.steps, 'step')}{start}"),
            ),
            *_data(setup),
            ("talking", _talk(setup)),
            ("model", f"{model}, {run.compute_reason}"),
            *([("workers", run.place)] if run.place else []),
            *([("memory", _room(run.memory))] if run.memory else []),
            ("will send", Text(_outlook(run), SENT)),
            ("folder", kept(run.folder.path)),
            *(("note", note) for note in setup.notes),
        ]
    )


def kept(folder: Path) -> str:
    """Name a folder, and warn of one in the copy that Ray makes of a job's files."""
    copied = any(part.startswith("_ray_pkg_") for part in folder.absolute().parts)
    return (
        f"{folder} (in a copy that Ray deletes: give --out another path)" if copied else str(folder)
    )


def _room(memory: Memory) -> str:
    """Say what memory the run takes at its peak, and all the time."""
    lasting = format_bytes(memory.total - memory.passing)
    return f"about {format_bytes(memory.total)} at its peak, {lasting} all the time"


def _data(setup: Setup) -> list[tuple[str, Text | str]]:
    """Say how much is seen and in which batches, unless they are constant and steps end the run."""
    pace, nodes = setup.pace, setup.config.nodes
    if pace.budget is None and setup.batch.name == "constant":
        return []
    seen = f"{count(pace.samples[-1] * nodes, 'sample')} of all nodes"
    sizes = f"{brief(setup.batch)}: {pace.size(0):,} to {pace.largest:,} per node"
    return [("data", seen), ("batch", sizes)]


def count(number: int, what: str) -> str:
    """Write a number of things."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _part(setup: Setup, kind: str, otherwise: str) -> str:
    return brief(setup.parts[kind]) if kind in setup.parts else otherwise


def _talk(setup: Setup) -> str:
    if setup.conversation is None or "topology" not in setup.parts:
        return brief(setup.algorithm)
    rule = f"{brief(setup.algorithm)} over {brief(setup.parts['topology'])}"
    return f"{rule}, {brief(setup.conversation.schedule.rule)}"


def _outlook(run: EngineRun) -> str:
    """Say how many bytes are expected before anything runs."""
    setup, reference = run.setup, run.setup.all_reduce_bytes
    if setup.conversation is None:
        return f"{format_bytes(reference)}, an all-reduce of gradients at every step"
    if run.expected_bytes is None:
        most = ceiling(setup.conversation.schedule.rule)
        return f"as it needs, at most {against(most * reference, reference)}"
    if run.expected_bytes == 0:
        return "nothing"
    return f"about {against(run.expected_bytes, reference)}"


def ceiling(rule: Bound) -> float:
    """Return the ``max_budget`` of a schedule that reacts to the run, as a share of all-reduce."""
    inner = [ceiling(value) for value in rule.settings.values() if isinstance(value, Bound)]
    return max([*inner, float(rule.settings.get("max_budget", 0.0))])


def against(sent: float, reference: float) -> str:
    """Write bytes, and their share of those of all-reduce."""
    share = f", {relative_text(sent / reference)} of all-reduce" if reference else ""
    return format_bytes(sent) + share


# --- on the way -----------------------------------------------------------------------------------


def metric_of(row: Row) -> str:
    """Return what measures success in a row of metrics."""
    return "accuracy" if "accuracy/merged" in row else "loss"


def scores(row: Row) -> Text:
    """Write the scores of the local models and of their average."""
    metric = metric_of(row)
    local, low, high, merged = (
        number_text(row.get(f"{metric}/{key}"), metric)
        for key in ("local_mean", "local_min", "local_max", "merged")
    )
    return Text.assemble(
        "loss " if metric == "loss" else "",
        ("local ", QUIET), (local, LOCAL), (f" ({low.removesuffix(' %')}–{high})", QUIET),
        ("  merged ", QUIET), (merged, MERGED),
    )  # fmt: skip


def spent(row: Row) -> Text:
    """Write the bytes sent so far."""
    return Text.assemble(("sent ", QUIET), (format_bytes(row["comm/bytes"]), SENT))


# --- after ----------------------------------------------------------------------------------------


def conclusion(summary: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return the table of results, and what they cost."""
    comm, time = summary["comm"], summary["time"]
    share = f", {relative_text(comm['relative'])} of all-reduce" if comm["relative"] else ""
    rounds = f" in {count(comm['rounds'], 'round')}" if comm["rounds"] else ""
    cost = facts(
        [
            ("sent", Text(f"{format_bytes(comm['bytes'])}{rounds}{share}", SENT)),
            ("took", f"{duration_text(time['wall_s'])}, {time['steps_per_s']:,.0f} steps/s"),
        ]
    )
    return _results(summary), cost


def _results(summary: Mapping[str, Any]) -> Table:
    before, final = summary["before_merge"], summary["final"]
    metric = "accuracy" if final["accuracy_merged"] is not None else "loss"
    names = [key for key in ("local_mean", "local_min", "local_max", "merged")]
    names = [name for name in names if final.get(f"{metric}_{name}") is not None]
    table = columned()
    table.add_column(metric, style=QUIET)
    heads = {"local_mean": "local mean", "local_min": "lowest", "local_max": "highest"}
    for name in names:
        style = MERGED if name == "merged" else LOCAL if name == "local_mean" else ""
        table.add_column(heads.get(name, name), style=style, justify="right")
    rows = [("before the merge", before), ("after the merge", final)]
    for label, scored in rows if before != final else [("at the end", final)]:
        table.add_row(label, *(number_text(scored[f"{metric}_{name}"], metric) for name in names))
    return table


def shown(path: Path) -> str:
    """Write a path, relative where it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def neighbour(folder: Path) -> Path | None:
    """Return the newest other finished run of the same task beside a run, to compare it with."""
    home = folder.resolve()
    others = [p for p in home.parent.glob("*/summary.json") if p.parent != home]
    task = read_file(home / "config.yaml").get("task")
    for summary in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True)[:_NEAREST]:
        if read_file(summary.with_name("config.yaml")).get("task") == task:
            return folder.parent / summary.parent.name
    return None
