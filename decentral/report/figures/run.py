"""Drawings of one run over its steps and bytes; a panel for what its records ask to
be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from decentral.records import BYTES, INTENSITY, SIMULATED, TRAINING, Panel, Record
from decentral.report.drawing import RUN_COLOURS, light
from decentral.report.facts import Facts, facts_of, gain_text, number_text
from decentral.report.figures.canvas import (
    SMALL,
    WIDE,
    Picture,
    bytes_axis,
    canvas,
    dots,
    heading,
    legend,
    plain_log_ticks,
    seconds_axis,
    spread_axis,
    steps_axis,
    styled,
    thin,
    value_axis,
)
from decentral.report.figures.explored import set_unit
from decentral.report.reader import RunData
from decentral.units import format_bytes

# --- of every run -----------------------------------------------------------------


_INTERVALS = 75  # Of the communication timeline.


@styled
def learning(run: RunData, size: tuple[float, float] = WIDE) -> Figure | None:
    """Draw the run's metric: the local models' mean and range, and their merge,
    over steps.
    """
    if not _has_evaluations(run):
        return None
    figure, axes = canvas(size)
    _draw_learning(axes, run)
    return figure


@styled
def communication(run: RunData) -> Figure | None:
    """Draw bytes per step of all nodes together, and below it the schedule's
    intensity.
    """
    edges, rates = _byte_rates(run)
    if len(edges) < 2 or not run.last(BYTES.key, final=True):
        return None
    figure = Figure(figsize=SMALL, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3.2, 1])
    upper.stairs(
        rates, edges, fill=True, color=light("comm"), linewidth=0, label="_bytes per step"
    )
    set_unit(upper.yaxis, "B")
    set_unit(upper.xaxis, "step")
    upper.set_ylim(0, 1.2 * max(rates) or 1)
    upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    upper.yaxis.set_major_locator(MaxNLocator(4 if any(rates) else 1))
    upper.set_title("Bytes per step", **heading())
    _mark_merge(upper, run)
    steps, intensity = run.series(INTENSITY.key)
    lower.fill_between(
        steps, intensity, step="pre", color=light("comm"), alpha=0.25, linewidth=0
    )
    lower.step(
        steps,
        intensity,
        where="pre",
        color=light("comm"),
        linewidth=1.4,
        label="_intensity",
    )
    lower.set_ylim(0, 1.08)
    lower.set_yticks([0, 1], ["0", "1"])
    lower.set_title("Intensity", **heading())
    steps_axis(lower, run)
    return figure


@styled
def bytes_against_metric(run: RunData) -> Figure | None:
    """Draw what each byte bought: the run's metric over the bytes sent so far."""
    return _cost_against_metric(run, BYTES.key, bytes_axis)


@styled
def seconds_against_metric(run: RunData) -> Figure | None:
    """Draw what each simulated second bought: the run's metric over the time on its
    network.
    """
    return _cost_against_metric(run, SIMULATED.key, seconds_axis)


def _cost_against_metric(
    run: RunData, cost: str, label_axis: Callable[[Axes], None]
) -> Figure | None:
    figure, axes = canvas(SMALL)
    for kind, role, width in (("local_mean", "local", 1.6), ("merged", "merged", 2.4)):
        _, values, sent = run.pair(f"{run.metric}/{kind}", cost, final=kind == "merged")
        label = kind.replace("_", " ")
        axes.plot(
            sent,
            values,
            color=light(role),
            linewidth=width,
            marker="o",
            ms=3,
            label=label,
        )
    _, merged, total = run.pair(f"{run.metric}/merged", cost, final=True)
    if not total or max(total) <= 0:
        return None
    if facts_of(run).has_merge:
        axes.plot(total[-1:], merged[-1:], **_final_dot())
    label_axis(axes)
    value_axis(axes, run.record("merged"))
    legend(axes)
    return figure


@styled
def overview(run: RunData) -> Figure:
    """Draw one picture for a slide or a notebook: learning, consensus and bytes of
    a run.
    """
    spaced = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.16)  # Inches.
    figure = Picture(figsize=(10.6, 7.2), layout=spaced, facecolor=light("card"))
    figure.suptitle(
        run.name, x=0.03, ha="left", weight="bold", fontsize=13, parse_math=False
    )
    grid = figure.add_gridspec(2, 2, height_ratios=[1.25, 1])
    top = figure.add_subplot(grid[0, :])
    if _has_evaluations(run):
        _draw_learning(top, run)
    left, right = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    for chosen in sorted(panels_of(run), key=lambda one: not one.leads)[:1]:
        left.set_title(chosen.title, **heading())
        draw_panel(left, run, chosen)
    right.set_title("Bytes sent so far, all nodes", **heading())
    right.plot(*run.series(BYTES.key, final=True), color=light("comm"), linewidth=2)
    right.yaxis.set_major_locator(MaxNLocator(5))
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    steps_axis(right, run)
    return figure


def _has_evaluations(run: RunData) -> bool:
    return any(run.series(f"{run.metric}/{kind}")[0] for kind in ("local_mean", "merged"))


def _draw_learning(axes: Axes, run: RunData) -> None:
    facts = facts_of(run)
    low_steps, low = run.series(f"{run.metric}/local_min")
    high_steps, high = run.series(f"{run.metric}/local_max")
    single = facts.nodes == 1
    if low_steps and low_steps == high_steps and not single:
        axes.fill_between(
            low_steps, low, high, color=light("local"), alpha=0.16, linewidth=0,
            label="local, lowest to highest",
        )  # fmt: skip
    local_steps, local = run.series(f"{run.metric}/local_mean")
    if not single:
        axes.plot(
            local_steps,
            local,
            color=light("local"),
            linewidth=1.6,
            label="local mean",
            **dots(local),
        )
    steps, merged = run.series(f"{run.metric}/merged")
    label = "the single node" if single else "average of all models"
    axes.plot(
        steps, merged, color=light("merged"), linewidth=2.8, label=label, **dots(merged)
    )
    steps_axis(axes, run)
    value_axis(axes, run.record("merged"))
    _mark_result(axes, facts, max([*steps, *local_steps]))
    legend(axes)


def _mark_result(axes: Axes, facts: Facts, step: int) -> None:
    """Mark the final merge, and write the last values at ``step``, the last
    evaluated one.
    """
    if facts.has_merge and facts.merged is not None:
        label = "final merge"
        if facts.local_mean is not None:
            axes.vlines(
                step, facts.local_mean, facts.merged, color=light("merged"), linewidth=1
            )
            label += f", {gain_text(facts)}"
        axes.plot([step], [facts.merged], **_final_dot(), label=label)
    ends = [(facts.merged, "merged"), (facts.local_mean, "local")]
    known = [(value, role) for value, role in ends if value is not None]
    _end_labels(axes, step, known, facts.score)


def _end_labels(
    axes: Axes, step: int, ends: list[tuple[float, str]], score: Record
) -> None:
    """Write the last values beside the ends of their curves, moved apart where they
    would touch.
    """
    bottom, top = axes.get_ylim()
    scale = axes.yaxis.get_transform().transform
    low, high = scale([bottom, top])
    heights = [
        ((scale([value])[0] - low) / (high - low), value, role) for value, role in ends
    ]
    if len({number_text(value, score) for value, _ in ends}) == 1:
        heights = heights[:1]
    heights.sort()
    # Of a line, in parts of the axes.
    least = 13 / 72 * axes.figure.dpi / axes.bbox.height
    shift = (
        max(0.0, least - (heights[-1][0] - heights[0][0])) / 2
        if len(heights) == 2
        else 0.0
    )
    for (height, value, role), sign in zip(heights, (-1, 1), strict=False):
        axes.annotate(
            number_text(value, score), (step, height + sign * shift), (9, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points", va="center",
            color=light(role), weight="bold", annotation_clip=False,
        )  # fmt: skip


def _final_dot() -> dict[str, Any]:
    return {
        "marker": "o", "markersize": 9, "color": light("merged"), "linestyle": "none",
        "markeredgecolor": light("card"), "markeredgewidth": 1.6, "clip_on": False, "zorder": 5,
    }  # fmt: skip


def _mark_merge(axes: Axes, run: RunData) -> None:
    before, total = run.last(BYTES.key), run.last(BYTES.key, final=True)
    if not facts_of(run).has_merge or before is None or total is None or total <= before:
        return
    axes.axvline(run.last_step, color=light("merged"), linewidth=2, clip_on=False)
    axes.annotate(
        f"final merge, {format_bytes(total - before)}", (run.last_step, 1), (-5, -2),
        xycoords=("data", "axes fraction"), textcoords="offset points", ha="right", va="top",
        color=light("merged"), fontsize=8.5,
    )  # fmt: skip


def _byte_rates(run: RunData) -> tuple[list[int], list[float]]:
    """Return at most 75 intervals, none shorter than a round, and bytes per step in
    each.
    """
    steps, total = run.series(BYTES.key)
    known = dict(zip([0, *steps], [0.0, *total], strict=True))
    local_steps = run.config.get("local_steps")
    shortest = local_steps if isinstance(local_steps, int) else 1
    shortest = max(shortest, run.last_step / _INTERVALS)
    keep = [0]
    for step in sorted(known):
        if step - keep[-1] >= shortest or step == run.last_step > keep[-1]:
            keep.append(step)
    return keep, [max(0.0, known[b] - known[a]) / (b - a) for a, b in pairwise(keep)]


# --- panels of its records --------------------------------------------------------


#: Colour and width of the curves whose name says whose they are.
_STYLES = {"local_mean": ("local", 1.6), "merged": ("merged", 2.4)}
#: Of a panel's positive values at the first step, what is below this share is
#: rounding.
_ROUNDING = 1e-4


def panels_of(run: RunData) -> list[Panel]:
    """Return the panels of what a run logged, in the order of the records that ask
    for them.

    What judges the run has a figure of its own, wide, with the final merge.
    """
    # Of the loop's own only what was logged, or says so where it was not.
    found = [
        one
        for one in run.records.declared
        if one.panel
        and one.draw != "none"
        and (one not in run.records.own or one.panel.absent or one.key in run.logged)
    ]
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
    if len({record.unit for record, _, _ in curves}) == 1:
        set_unit(axes.yaxis, curves[0][0].unit)
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
    # Of more curves the legend would leave no room; a page says which is which.
    if 1 < len(curves) <= RUN_COLOURS:
        legend(axes)
    return True


def records_in(run: RunData, chosen: Panel) -> list[Record]:
    """Return the records of the logged numbers that a panel shows."""
    found = map(run.records.of, run.logged)
    return [one for one in found if one.draw != "none" and one.figure == chosen]


def _points(run: RunData, record: Record, chosen: Panel) -> tuple[list[int], list[float]]:
    """Return the steps and values of a curve; of a logarithmic one those above
    rounding.
    """
    steps, values = run.series(record.key)
    if not chosen.log:
        return steps, values
    # Nodes that begin equal differ by rounding at step 0; the axis must not span
    # down to that.
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
