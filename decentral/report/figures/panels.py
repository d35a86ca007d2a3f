"""One figure per panel: what the records of a run ask to be drawn over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from decentral.quantities import TRAINING
from decentral.records import Panel, Record
from decentral.report.figures.canvas import (
    SMALL,
    canvas,
    dots,
    legend,
    plain_log_ticks,
    spread_axis,
    steps_axis,
    styled,
    thin,
    value_axis,
)
from decentral.report.palette import RUN_COLOURS, light
from decentral.report.reader import RunData

#: Colour and width of the curves whose name says whose they are.
_STYLES = {"local_mean": ("local", 1.6), "merged": ("merged", 2.4)}
#: Of a panel's positive values at the first step, what is below this share is rounding.
_ROUNDING = 1e-4


def panels_of(run: RunData) -> list[Panel]:
    """Return the panels of what a run logged, in the order of the records that ask for them.

    What judges the run has a figure of its own, wide, with the final merge.
    """
    found = [one for one in run.records.declared if one.panel and one.draw != "none"]
    found += [one for one in map(run.records.of, run.logged) if one.draw != "none"]
    own = run.record("merged").figure
    shown = [one.figure for one in found if one.panel or one.figure != own]
    return list(dict.fromkeys(shown))


@styled
def panel(run: RunData, chosen: Panel) -> Figure | None:
    """Draw a panel, None where nothing of it was logged."""
    figure, axes = canvas(SMALL)
    return figure if draw_panel(axes, run, chosen) else None


def draw_panel(axes: Axes, run: RunData, chosen: Panel) -> bool:
    """Draw the curves of a panel; tell whether there was any."""
    shown = records_in(run, chosen)
    _draw_band(axes, run, [one for one in shown if one.draw == "band"])
    curves = [(one, *_points(run, one, chosen)) for one in shown if one.draw == "line"]
    curves = [curve for curve in curves if curve[1]]
    for place, (record, steps, values) in enumerate(curves):
        style = _style(record, None if len(curves) == 1 else place)
        axes.plot(*thin(steps, values), **style, label=_label(record), **dots(values))
    steps_axis(axes, run)
    if not curves:
        return False
    if chosen.log:
        axes.set_yscale("log")
        plain_log_ticks(axes, [value for _, _, values in curves for value in values])
    elif len({record.unit for record, _, _ in curves}) == 1:
        value_axis(axes, curves[0][0])
    else:
        spread_axis(axes)
    if len(curves) > 1:
        legend(axes)
    return True


def records_in(run: RunData, chosen: Panel) -> list[Record]:
    """Return the records of the logged numbers that a panel shows."""
    found = map(run.records.of, run.logged)
    return [one for one in found if one.draw != "none" and one.figure == chosen]


def _points(run: RunData, record: Record, chosen: Panel) -> tuple[list[int], list[float]]:
    """Return the steps and values of a curve; of a logarithmic one those above rounding."""
    steps, values = run.series(record.key)
    if not chosen.log:
        return steps, values
    # Nodes that begin equal differ by rounding at step 0; the axis must not span down to that.
    least = _ROUNDING * max(values, default=0.0)
    kept = [
        (step, value)
        for step, value in zip(steps, values, strict=True)
        if value > (0 if step else least)
    ]
    return [step for step, _ in kept], [value for _, value in kept]


def _draw_band(axes: Axes, run: RunData, ends: Sequence[Record]) -> None:
    """Fill between the lowest and the highest node, for every pair of such records."""
    highest = {one.key: one for one in ends}
    for low in ends:
        high = highest.get(low.key.replace("local_min", "local_max"))
        if high is None or high.key == low.key:
            continue
        (steps, lower), (others, upper) = run.series(low.key), run.series(high.key)
        if steps and steps == others:
            axes.fill_between(
                steps, lower, upper, color=light("local"), alpha=0.16, linewidth=0,
                label="local, lowest to highest",
            )  # fmt: skip


def _style(record: Record, place: int | None) -> dict[str, Any]:
    """Return colour and width of a curve: of the only one, or of that at ``place``."""
    if record.key == TRAINING.key:
        return {"color": light("link"), "linewidth": 1.0}
    if place is None:
        return {"color": light("local"), "linewidth": 2}
    if record.name in _STYLES:
        role, width = _STYLES[record.name]
        return {"color": light(role), "linewidth": width}
    return {"color": light(f"run-{place % RUN_COLOURS}"), "linewidth": 1.6}


def _label(record: Record) -> str:
    """Name a curve within its panel; a dollar sign is no formula."""
    return (record.label or record.name.replace("_", " ")).replace("$", r"\$")
