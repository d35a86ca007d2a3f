"""Drawings of what is known before a run, or as it begins: its topology, its data,
and what it does when.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, MaxNLocator

from decentral.report.drawing import MOST_LINKS, RUN_COLOURS, light, positions
from decentral.report.figures.canvas import (
    SMALL,
    TALL,
    WIDE,
    canvas,
    heading,
    legend,
    plain_log_ticks,
    steps_ticks,
    styled,
)
from decentral.report.figures.explored import set_grid, set_names, set_unit
from decentral.report.reader import RunData, Shards, Topology
from decentral.schedules.phases import METHODS, Track, phase_tracks, sample_steps
from decentral.schedules.progress import Progress
from decentral.units import format_bytes, format_seconds

# --- who sends to whom, who holds what --------------------------------------------


#: Nodes that stand in the order of their ids; more are sorted by what they hold.
_ORDERED = 64
_SHARE = "#3b86f2"  # Seen as well on a white card as on a black one; an image has no variables.


@styled
def network(topology: Topology) -> Figure | None:
    """Draw a topology; beyond 32 nodes without ids, beyond 4,000 nodes or links a
    sample of them.
    """
    if topology.nodes < 2:
        return None
    figure, axes = canvas(TALL)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.07)
    n, points = topology.nodes, positions(topology)
    links = [link for link in topology.links if link[0] != link[1]]
    if len(links) > MOST_LINKS:
        # A generator of its own, so that the picture is the same each time.
        links = random.Random(0).sample(links, MOST_LINKS)
    _draw_links(axes, points, links, arrows=topology.directed and n <= 32)
    labelled = n <= 32
    # An element of the page for each: a hundred thousand would be megabytes of SVG.
    shown = points[sorted(random.Random(0).sample(range(n), min(n, MOST_LINKS)))]
    axes.scatter(
        shown[:, 0],
        shown[:, 1],
        s=200 if labelled else max(5, 2400 / n),
        facecolor=light("card") if labelled else light("merged"),
        edgecolor=light("merged"),
        linewidth=1.5 if labelled else 0,
        zorder=2,
    )
    for node in range(n if labelled else 0):
        x, y = points[node]
        axes.text(x, y, str(node), fontsize=8, ha="center", va="center_baseline")
    return figure


@styled
def shards(data: Shards) -> Figure:
    """Draw who holds what: samples per node and, with classes, each node's share of
    each.
    """
    counts = np.asarray(data.counts, dtype=float)  # [nodes, classes]
    if data.classes is None or len(counts) == 1:
        return _sizes_only(data, counts)
    counts = counts[_reading_order(counts)]
    figure = Figure(figsize=TALL, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[1, 3.4])
    _draw_sizes(upper, counts.sum(1), "node" if len(counts) <= _ORDERED else "place")
    _draw_shares(lower, counts, data.classes)
    lower.set_xlabel(
        "node" if len(counts) <= _ORDERED else "nodes, by most frequent class"
    )
    return figure


def _draw_links(
    axes: Axes, points: Any, links: list[tuple[int, int]], *, arrows: bool
) -> None:
    if arrows:
        style = {
            "arrowstyle": "-|>",
            "color": light("link"),
            "shrinkA": 9,
            "shrinkB": 9,
            "lw": 1,
        }
        for a, b in links:
            axes.annotate("", points[b], points[a], arrowprops=style)
        return
    if not links:
        return
    vertices = points[np.asarray(links)].reshape(-1, 2)
    # One path for all links: a line for each would take a minute and megabytes of
    # SVG.
    outline = Outline(vertices, [Outline.MOVETO, Outline.LINETO] * len(links))
    width = 1.3 if len(links) <= 200 else 0.7 if len(links) <= 1200 else 0.4
    alpha = 0.9 if len(links) <= 1200 else 0.3
    axes.add_patch(
        PathPatch(
            outline, fill=False, edgecolor=light("link"), linewidth=width, alpha=alpha
        )
    )


def _reading_order(counts: Any) -> Any:
    """Keep few nodes in order; sort more by most frequent class and by its share."""
    if len(counts) <= _ORDERED:
        return np.arange(len(counts))
    return np.lexsort((-counts.max(1) / np.maximum(counts.sum(1), 1), counts.argmax(1)))


def _sizes_only(data: Shards, counts: Any) -> Figure:
    figure, axes = canvas(SMALL)
    by_class = data.classes is not None
    sizes = counts[0] if by_class else counts[:, 0]
    _draw_sizes(axes, sizes, "class" if by_class else "node")
    axes.set_xlabel("class" if by_class else "node")
    if data.classes is not None:
        _class_ticks(axes.xaxis, data.classes)
    return figure


#: Columns of a drawing: more nodes than that are shown as means of neighbours.
_MOST_COLUMNS = 512


def _means(values: Any) -> tuple[Any, Any]:
    """Return values [n, ...], or their means over neighbours where they are too
    many to be seen, and the places between which each of them stands.
    """
    every = -(-len(values) // _MOST_COLUMNS)
    begins = np.arange(0, len(values), every)
    edges = np.append(begins, len(values))
    sums = np.add.reduceat(values, begins, axis=0)
    means = (sums.T / np.diff(edges)).T if every > 1 else values
    return means, edges - 0.5


def _draw_sizes(axes: Axes, sizes: Any, unit: str = "node") -> None:
    """Draw how many samples each has.

    Args:
        axes: The axes.
        sizes: Samples of each.
        unit: Who has them.
    """
    sizes, edges = _means(sizes)
    bars: Any = {"fill": True, "color": light("comm"), "linewidth": 0}
    axes.stairs(sizes, edges, **bars, label="_samples")
    set_unit(axes.xaxis, unit)
    if len(sizes) <= 64:
        axes.vlines(edges[1:-1], 0, max(sizes), color=light("card"), linewidth=1.2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(*sizes, 1) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_title("Samples", **heading())


def _draw_shares(axes: Axes, counts: Any, classes: Sequence[str]) -> None:
    shares, edges = _means(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    shares = shares.T
    image = np.empty((*shares.shape, 4))
    image[..., :3] = to_rgb(_SHARE)
    # The root makes small shares visible without making large ones alike.
    image[..., 3] = np.sqrt(shares)
    whole = (edges[0], edges[-1], len(shares) - 0.5, -0.5)
    axes.imshow(image, aspect="auto", interpolation="none", extent=whole)
    middles = (edges[:-1] + edges[1:]) / 2
    set_grid(axes, middles, range(len(shares)), shares, "%")
    set_names(axes.yaxis, [f"class {name}" for name in classes])
    set_unit(axes.xaxis, "node" if len(counts) <= _ORDERED else "place")
    axes.grid(visible=False)
    if counts.size <= 1200:
        axes.hlines(np.arange(len(classes) - 1) + 0.5, -0.5, counts.shape[0] - 0.5,
                    color=light("card"), linewidth=1.2)  # fmt: skip
        axes.vlines(np.arange(counts.shape[0] - 1) + 0.5, -0.5, len(classes) - 0.5,
                    color=light("card"), linewidth=1.2)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _class_ticks(axes.yaxis, classes)
    axes.set_title("Share of the node's samples in each class", **heading())


def _class_ticks(axis: Any, classes: Sequence[str]) -> None:
    every = 1 if len(classes) <= 20 else -(-len(classes) // 10)
    shown = range(0, len(classes), every)
    names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
    axis.set_ticks(list(shown), [names[k] for k in shown], parse_math=False)


# --- what is on when --------------------------------------------------------------


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
    """Draw the intensity at every communication step, merges, bytes so far, and
    what else is on.
    """
    figure = Figure(
        figsize=(WIDE[0], WIDE[1] + _HIGH * len(tracks)), layout="constrained"
    )
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
    """Draw when SAM, adversarial training and label noise were on; None if they
    never were.
    """
    given = {key: run.config.get(key) for key in METHODS}
    methods = {k: METHODS[k].model_validate(v) for k, v in given.items() if v is not None}
    if not run.steps or not methods:
        return None
    points = [Progress(step, run.steps) for step in sample_steps(run.steps)]
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
    words = f"{track.name}\n" + track.text.replace(
        ", ", "\n" if len(track.text) > 30 else ", ", 1
    )
    axes.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=8)


# --- the first seconds, event by event --------------------------------------------

#: Messages beyond which arrows would cover everything.
_ARROWS = 150


@styled
def strip(event: Mapping[str, Any], size: tuple[float, float] = WIDE) -> Figure | None:
    """Draw who computes, whose messages are under way, and who is away, over
    simulated seconds; None where nobody computes.

    Args:
        event: The event ``timeline`` of a run.
        size: Width and height, in inches.
    """
    lanes = {node: place for place, node in enumerate(event["nodes"])}
    until_s = float(event["until_s"])
    if not event["computing"] or until_s <= 0:
        return None
    figure, axes = canvas(size)
    sent = [(i, j, begin, end) for i, j, begin, end in event["messages"] if i in lanes]
    spans = {
        "computing": ([*event["computing"]], "local", -0.36, 0.42),
        "message under way": ([(i, b, e) for i, _, b, e in sent], "comm", 0.12, 0.2),
        "away": ([*event["away"]], "link", -0.42, 0.84),
    }
    for name, (found, role, low, height) in spans.items():
        for node in lanes if found else ():
            bars = [(begin, end - begin) for one, begin, end in found if one == node]
            axes.broken_barh(
                bars, (lanes[node] + low, height), color=light(role), linewidth=0.3,
                edgecolor=light("card"), label=name if node == event["nodes"][0] else None,
            )  # fmt: skip
    within = [one for one in sent if one[1] in lanes]
    fit = len(within) <= _ARROWS * size[0] / WIDE[0]
    for i, j, begin, end in within if fit else ():
        ends = [lanes[i] + 0.22, lanes[j]]
        axes.plot([begin, end], ends, color=light("comm"), linewidth=0.6, alpha=0.5)
    axes.set_xlim(0, until_s)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_yticks(range(len(lanes)), [str(node) for node in lanes])
    axes.set_ylabel("node")
    axes.set_xlabel("simulated time")
    axes.xaxis.set_major_locator(MaxNLocator(4 if size != WIDE else 8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))
    legend(axes)
    return figure


# --- batches ----------------------------------------------------------------------


@styled
def batches(schedules: Mapping[str, Sequence[int]]) -> Figure:
    """Draw the batch size of every step of each schedule; the first is drawn thick."""
    figure = Figure(figsize=WIDE, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (name, sizes) in enumerate(schedules.items()):
        colour = light(f"run-{index % RUN_COLOURS}")
        line: Any = {
            "color": colour,
            "linewidth": 2.6 if index == 0 else 1.2,
            "where": "post",
        }
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
