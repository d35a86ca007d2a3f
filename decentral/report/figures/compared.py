"""Drawings of several runs together: one colour and one marker per run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from decentral.records import Record
from decentral.report.facts import facts_of
from decentral.report.figures.canvas import (
    WIDE,
    bytes_axis,
    canvas,
    is_narrow,
    steps_ticks,
    styled,
    thin,
    value_axis,
)
from decentral.report.palette import RUN_COLOURS, light
from decentral.report.reader import RunData

MARKERS = "os^Dv*"  # With filled and open faces: twelve runs that differ without colour, too.


@styled
def compared_learning(runs: Sequence[RunData], size: tuple[float, float] = WIDE) -> Figure | None:
    """Overlay runs: merged solid, local mean dashed, one colour and marker per run."""
    figure, axes = canvas(size)
    metric = common_score(runs).group
    for index, run in enumerate(runs):
        colour = run_colour(index)
        local = thin(*run.series(f"{metric}/local_mean"))
        axes.plot(*local, color=colour, linewidth=1.1, linestyle=(0, (4, 2.5)), alpha=0.8)
        steps, values = thin(*run.series(f"{metric}/merged", final=True))
        axes.plot(steps, values, color=colour, linewidth=2.2)
        axes.plot(steps[-1:], values[-1:], **run_marker(index), clip_on=False, zorder=5)
    if not any(len(line.get_ydata()) for line in axes.lines):  # pyright: ignore[reportArgumentType]
        return None
    axes.set_xlim(0, max(run.last_step for run in runs) or 1)
    steps_ticks(axes)
    value_axis(axes, common_score(runs))
    return figure


@styled
def compared_cost(runs: Sequence[RunData], size: tuple[float, float] = WIDE) -> Figure | None:
    """Draw the bytes of each run against its merged model, joined to its local mean."""
    figure, axes = canvas(size)
    sent: list[float] = []
    for index, run in enumerate(runs):
        facts = facts_of(run)
        if facts.bytes is None or facts.merged is None:
            continue
        sent.append(facts.bytes)
        if facts.local_mean is not None:
            ends = [facts.local_mean, facts.merged]
            axes.plot([facts.bytes] * 2, ends, color=run_colour(index), linewidth=1.2, alpha=0.6)
            axes.plot(facts.bytes, facts.local_mean, "_", color=run_colour(index), ms=9, mew=1.6)
        axes.plot([facts.bytes], [facts.merged], **run_marker(index))
    if not sent:
        return None
    _spread_bytes(axes, sent)
    bytes_axis(axes)
    value_axis(axes, common_score(runs))
    return figure


def _spread_bytes(axes: Axes, sent: Sequence[float]) -> None:
    """Make x logarithmic where runs differ by more than ten times; runs without bytes stay at 0."""
    smallest = min((value for value in sent if value > 0), default=0.0)
    if not smallest or max(sent) <= 10 * smallest:
        return
    if min(sent) > 0:
        axes.set_xscale("log")
        subs = (1.0, 3.0) if is_narrow(axes) or max(sent) > 1000 * smallest else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    else:
        axes.set_xscale("symlog", linthresh=smallest)
    axes.xaxis.set_minor_locator(NullLocator())


def common_score(runs: Sequence[RunData]) -> Record:
    """Return the record of what judges runs: of the first one judged by what is better higher."""
    found = [run.record("merged") for run in runs]
    return next((record for record in found if record.sign > 0), found[0])


def run_colour(index: int) -> str:
    """Return the colour of the ``index``-th run of a comparison."""
    return light(f"run-{index % RUN_COLOURS}")


def run_marker(index: int) -> dict[str, Any]:
    """Return the marker of the ``index``-th run: six shapes, filled and then open."""
    filled = (index // len(MARKERS)) % 2 == 0
    return {
        "marker": MARKERS[index % len(MARKERS)],
        "color": run_colour(index),
        "markerfacecolor": run_colour(index) if filled else light("card"),
        "markersize": 7,
        "markeredgewidth": 1.6,
        "linestyle": "none",
    }
