"""What a run does when, before it runs: when it talks, what that adds up to, and its phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from decentral.report.figures.canvas import (
    SMALL,
    WIDE,
    heading,
    plain_log_ticks,
    steps_ticks,
    styled,
)
from decentral.report.palette import RUN_COLOURS, light
from decentral.report.reader import RunData
from decentral.schedules.methods import METHODS, Track, phase_tracks, sampled
from decentral.schedules.progress import Progress
from decentral.units import format_bytes

#: Inches of one track.
_HIGH = 0.42


@styled
def schedule(
    steps: Sequence[int],
    intensities: Sequence[float],
    merges: Sequence[int],
    sent: Sequence[float],
    tracks: Sequence[Track] = (),
) -> Figure:
    """Draw the intensity at every communication step, merges, bytes so far, and what else is on."""
    figure = Figure(figsize=(WIDE[0], WIDE[1] + _HIGH * len(tracks)), layout="constrained")
    ratios = [4, *[1] * len(tracks), 4]
    axes: Sequence[Axes] = figure.subplots(len(ratios), sharex=True, height_ratios=ratios)
    upper, lower = axes[0], axes[-1]
    edges = [0, *steps]
    upper.stairs(intensities, edges, fill=True, color=light("comm"), linewidth=0)
    upper.set_xlim(0, edges[-1])
    if merges:
        upper.plot(merges, [1.0] * len(merges), "D", color=light("merged"), clip_on=False)
    upper.set_ylim(0, 1.08)
    upper.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    title = "Intensity" + (" and global merges (diamonds)" if merges else "")
    upper.set_title(title, **heading())
    for place, track in zip(axes[1:-1], tracks, strict=True):
        _draw_track(place, track, edges[-1])
    lower.step(edges, [0, *sent], where="post", color=light("comm"), linewidth=2)
    lower.set_ylim(0, max(*sent, 1) * 1.08)
    lower.yaxis.set_major_locator(MaxNLocator(4))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    lower.set_title("Bytes sent so far, all nodes", **heading())
    steps_ticks(lower)
    return figure


def phases(run: RunData) -> Figure | None:
    """Draw when SAM, adversarial training and label noise were on; None if they never were."""
    given = {key: run.config.get(key) for key in METHODS}
    methods = {k: METHODS[k].model_validate(v) for k, v in given.items() if v is not None}
    if not run.steps or not methods:
        return None
    points = [Progress(step, run.steps) for step in sampled(run.steps)]
    return _phases(phase_tracks(methods, points), run.steps)


@styled
def _phases(tracks: Sequence[Track], steps: int) -> Figure:
    figure = Figure(figsize=(SMALL[0], 0.8 + 0.6 * len(tracks)), layout="constrained")
    axes = figure.subplots(len(tracks), sharex=True, squeeze=False)[:, 0]
    for place, track in zip(axes, tracks, strict=True):
        _draw_track(place, track, steps)
    axes[-1].set_xlim(0, steps)
    steps_ticks(axes[-1])
    return figure


def _draw_track(axes: Axes, track: Track, end: float) -> None:
    """Draw one line of the timeline, its words on the left."""
    edges = [end * k / len(track.values) for k in range(len(track.values) + 1)]
    colour = light("merged") if track.phased else light("local")
    axes.stairs(track.values, edges, fill=True, color=colour, linewidth=0)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([])
    words = f"{track.name}\n" + track.text.replace(", ", "\n" if len(track.text) > 30 else ", ", 1)
    axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)


# --- batches --------------------------------------------------------------------------------------


@styled
def batches(schedules: Mapping[str, Sequence[int]]) -> Figure:
    """Draw the batch size of every step of each schedule; the first is drawn thick."""
    figure = Figure(figsize=WIDE, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (name, sizes) in enumerate(schedules.items()):
        colour = light(f"run-{index % RUN_COLOURS}")
        line: Any = {"color": colour, "linewidth": 2.6 if index == 0 else 1.2, "where": "post"}
        left.step([0, *accumulate(sizes)], [*sizes, sizes[-1]], label=name, **line)
        right.step(range(len(sizes) + 1), [*sizes, sizes[-1]], **line)
    everything = [size for sizes in schedules.values() for size in sizes]
    left.set_yscale("log")
    if max(everything) > min(everything):
        plain_log_ticks(left, everything)
    left.set_title("Batch of a node, over its samples", **heading())
    steps_ticks(left)
    left.set_xlabel("sample")
    right.set_title("The same over steps", **heading())
    steps_ticks(right)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
