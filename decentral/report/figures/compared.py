"""Drawings of several runs together: side by side, of a sweep, of a claim over its
seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import compress
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from decentral.records import SIMULATED, Record
from decentral.report.drawing import RUN_COLOURS, light
from decentral.report.facts import facts_of, percent_text
from decentral.report.figures.canvas import (
    WIDE,
    bytes_axis,
    canvas,
    is_narrow,
    legend,
    seconds_axis,
    steps_ticks,
    styled,
    thin,
    value_axis,
)
from decentral.report.figures.explored import set_names, set_unit
from decentral.report.reader import RunData

#: Where a curve is, and how high.
Curve = tuple[Sequence[float], Sequence[float]]
MARKERS = (
    "os^Dv*"  # With filled and open faces: twelve runs that differ without colour, too.
)


@styled
def draw_learning(
    runs: Sequence[RunData], size: tuple[float, float] = WIDE
) -> Figure | None:
    """Overlay runs: merged solid, local mean dashed, one colour and marker per run."""
    figure, axes = canvas(size)
    metric = common_score(runs).group
    for index, run in enumerate(runs):
        local = thin(*run.series(f"{metric}/local_mean"))
        merged = thin(*run.series(f"{metric}/merged", final=True))
        _draw_run(axes, index, run.name, local, merged)
    if not any(len(line.get_ydata()) for line in axes.lines):  # pyright: ignore[reportArgumentType]
        return None
    axes.set_xlim(0, max(run.last_step for run in runs) or 1)
    steps_ticks(axes)
    value_axis(axes, common_score(runs))
    return figure


@styled
def draw_seconds(
    runs: Sequence[RunData], size: tuple[float, float] = WIDE
) -> Figure | None:
    """Overlay runs as `draw_learning` does, over simulated seconds, in rounds and
    event by event; those without simulated time are left out.
    """
    figure, axes = canvas(size)
    metric = common_score(runs).group
    for index, run in enumerate(runs):
        _, local, when = run.pair(f"{metric}/local_mean", SIMULATED.key)
        _, merged, ends = run.pair(f"{metric}/merged", SIMULATED.key, final=True)
        _draw_run(axes, index, run.name, (when, local), (ends, merged))
    if not any(len(line.get_ydata()) for line in axes.lines):  # pyright: ignore[reportArgumentType]
        return None
    seconds_axis(axes)
    value_axis(axes, common_score(runs))
    return figure


def _draw_run(axes: Axes, index: int, name: str, local: Curve, merged: Curve) -> None:
    """Draw what one run of several has reached.

    Args:
        axes: The axes.
        index: Its place among the runs.
        name: What it is called.
        local: The mean of its local models.
        merged: The average of its models, whose end is marked.
    """
    own: Any = {"color": run_colour(index), "gid": f"run-{index}"}
    axes.plot(
        *local, **own, lw=1.1, ls=(0, (4, 2.5)), alpha=0.8, label=f"_{name}, local mean"
    )
    axes.plot(*merged, **own, lw=2.2, label=f"_{name}, merged")
    # An empty one that is not clipped would be given room beside the axes.
    if merged[0]:
        last = (merged[0][-1:], merged[1][-1:])
        axes.plot(*last, **run_marker(index), gid=own["gid"], clip_on=False, zorder=5)


@styled
def draw_cost(runs: Sequence[RunData], size: tuple[float, float] = WIDE) -> Figure | None:
    """Draw the bytes of each run against its merged model, joined to its local
    mean.
    """
    figure, axes = canvas(size)
    sent: list[float] = []
    for index, run in enumerate(runs):
        facts = facts_of(run)
        if facts.bytes is None or facts.merged is None:
            continue
        sent.append(facts.bytes)
        if facts.local_mean is not None:
            ends = [facts.local_mean, facts.merged]
            own: Any = {"color": run_colour(index), "gid": f"run-{index}"}
            axes.plot([facts.bytes] * 2, ends, **own, linewidth=1.2, alpha=0.6)
            own |= {"label": f"_{run.name}, local mean", "clip_on": False}
            axes.plot([facts.bytes], ends[:1], "_", **own, ms=9, mew=1.6)
        # A run that sent nothing stands on the edge, and is shown whole.
        merged: Any = {"label": f"_{run.name}, merged", "clip_on": False, "zorder": 5}
        axes.plot([facts.bytes], [facts.merged], **run_marker(index), **merged,
                  gid=f"run-{index}")  # fmt: skip
    if not sent:
        return None
    _spread_bytes(axes, sent)
    bytes_axis(axes)
    value_axis(axes, common_score(runs))
    return figure


def _spread_bytes(axes: Axes, sent: Sequence[float]) -> None:
    """Make x logarithmic where runs differ by more than ten times; runs without
    bytes stay at 0.
    """
    smallest = min((value for value in sent if value > 0), default=0.0)
    if not smallest or max(sent) <= 10 * smallest:
        return
    if min(sent) > 0:
        axes.set_xscale("log")
        subs = (
            (1.0, 3.0)
            if is_narrow(axes) or max(sent) > 1000 * smallest
            else (1.0, 2.0, 5.0)
        )
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    else:
        # A logarithm has no place for runs that sent nothing.
        axes.set_xscale("symlog", linthresh=smallest)
    axes.xaxis.set_minor_locator(NullLocator())


def common_score(runs: Sequence[RunData]) -> Record:
    """Return the record of what judges runs: of the first one judged by what is
    better higher.
    """
    found = [run.record("merged") for run in runs]
    # Runs may be judged by accuracy and by loss; one axis can show one of both.
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


# --- sweeps -----------------------------------------------------------------------

#: A group as it is drawn: its name, and the values of its local and merged models.
Swept = tuple[str, Sequence[float], Sequence[float]]
_LONGEST = 34


@styled
def draw_sweep(
    groups: Sequence[Swept], record: Record, width: float = WIDE[0]
) -> Figure | None:
    """Draw a row per group: every run a dot, the mean a mark, one standard
    deviation a bar.
    """
    if not any(local or merged for _, local, merged in groups):
        return None
    figure = Figure(figsize=(width, 1.1 + 0.5 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, *both) in enumerate(groups):
        for role, values, offset in zip(
            ("local", "merged"), both, (0.14, -0.14), strict=True
        ):
            label = _LABELS[role] if place == 0 else None
            y = [place + offset] * len(values)
            own: Any = {"gid": role, "label": f"_{_LABELS[role]}, one run"}
            axes.plot(values, y, "o", color=light(role), ms=4, alpha=0.35, mew=0, **own)
            mean = [fmean(values)] if values else []
            spread = [stdev(values)] if len(values) > 1 else None
            drawn = axes.errorbar(
                mean, y[:1], xerr=spread, fmt="D", color=light(role), ms=6, capsize=3,
                label=label,
            )  # fmt: skip
            drawn.lines[0].set_label(f"_{_LABELS[role]}")
            for part in drawn.get_children():
                part.set_gid(role)
    names = [name for name, *_ in groups]
    narrow = width < WIDE[0]
    axes.set_yticks(range(len(groups)), _tell_apart(names, 20 if narrow else _LONGEST))
    set_names(axes.yaxis, names)
    set_unit(axes.xaxis, record.unit)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 9))
    if record.unit == "%":
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: percent_text(value, 0))
        )
    axes.set_xlabel(record.group)
    # Names may leave less room to the axes than their legend takes.
    legend(axes, x=0.01, across=figure.transFigure)
    return figure


_LABELS = {"local": "mean of the local models", "merged": "merged model"}


def _tell_apart(names: Sequence[str], longest: int) -> list[str]:
    """Shorten names to what differs between them, and where that is long to both its
    ends.

    >>> _tell_apart(["ring, late(start=80%), 0.1", "ring, late(start=80%), 0.2"], 34)
    ['0.1', '0.2']
    """
    # Commas within brackets are those of a setting.
    parts = [re.split(r", (?![^(]*\))", name) for name in names]
    if len(names) > 1 and len({len(each) for each in parts}) == 1:
        kept = [len({*column}) > 1 for column in zip(*parts, strict=True)]
        if any(kept):
            names = [", ".join(compress(each, kept)) for each in parts]
    half = longest // 2
    return [
        name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
        for name in names
    ]


# --- claims -----------------------------------------------------------------------


@styled
def claim_panel(panel: Mapping[str, Any], size: tuple[float, float] = WIDE) -> Figure:
    """Draw a panel: a line per label, the mean over seeds, and a band from least to
    greatest.
    """
    figure, axes = canvas(size)
    for index, curve in enumerate(panel["curves"]):
        _draw(axes, curve, run_colour(index))
    axes.set_xlabel(panel["x"])
    axes.set_ylabel(panel["y"])
    if "x" in panel["log"]:
        axes.set_xscale("log")
    if "y" in panel["log"]:
        axes.set_yscale("log")
    legend(axes)
    return figure


def _draw(axes: Axes, curve: Mapping[str, Any], colour: str) -> None:
    lines = curve["lines"]
    x = lines[0][0]
    # seeds that were looked at elsewhere stay apart
    if any(other != x for other, _ in lines):
        for place, (own, y) in enumerate(lines):
            label = curve["label"] if place == 0 else f"_{curve['label']}"
            axes.plot(own, y, color=colour, linewidth=1.2, label=label)
        return
    values = np.array([y for _, y in lines], dtype=np.float64)
    axes.plot(x, values.mean(0), color=colour, linewidth=2.0, label=curve["label"])
    if len(values) > 1:
        axes.fill_between(
            x, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0,
            label=f"_{curve['label']}",
        )  # fmt: skip
