"""Drawings of what a run is made of: who may talk to whom, and who holds which data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator

from decentral.report.figures.canvas import SMALL, TALL, canvas, heading, styled
from decentral.report.layout import MOST_LINKS, positions
from decentral.report.palette import light
from decentral.report.reader import Shards, Topology

_SHARE = "#3b86f2"  # Seen as well on a white card as on a black one; an image has no variables.


@styled
def network(topology: Topology) -> Figure | None:
    """Draw a topology; beyond 32 nodes without ids, beyond 4,000 links a sample of them."""
    if topology.nodes < 2:
        return None
    figure, axes = canvas(TALL)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.07)
    n, points = topology.nodes, positions(topology)
    links = [link for link in topology.links if link[0] != link[1]]
    if len(links) > MOST_LINKS:
        links = random.Random(0).sample(links, MOST_LINKS)
    _draw_links(axes, points, links, arrows=topology.directed and n <= 32)
    labelled = n <= 32
    axes.scatter(
        points[:, 0],
        points[:, 1],
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
    """Draw who holds what: samples per node and, with classes, each node's share of each."""
    counts = np.asarray(data.counts, dtype=float)  # [nodes, classes]
    if data.classes is None or len(counts) == 1:
        return _sizes_only(data, counts)
    counts = counts[_reading_order(counts)]
    figure = Figure(figsize=TALL, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[1, 3.4])
    _draw_sizes(upper, counts.sum(1))
    _draw_shares(lower, counts, data.classes)
    lower.set_xlabel("node" if len(counts) <= 64 else "nodes, by most frequent class")
    return figure


def _draw_links(axes: Axes, points: Any, links: list[tuple[int, int]], *, arrows: bool) -> None:
    if arrows:
        style = {"arrowstyle": "-|>", "color": light("link"), "shrinkA": 9, "shrinkB": 9, "lw": 1}
        for a, b in links:
            axes.annotate("", points[b], points[a], arrowprops=style)
        return
    if not links:
        return
    vertices = points[np.asarray(links)].reshape(-1, 2)
    outline = Outline(vertices, [Outline.MOVETO, Outline.LINETO] * len(links))
    width = 1.3 if len(links) <= 200 else 0.7 if len(links) <= 1200 else 0.4
    alpha = 0.9 if len(links) <= 1200 else 0.3
    axes.add_patch(
        PathPatch(outline, fill=False, edgecolor=light("link"), linewidth=width, alpha=alpha)
    )


def _reading_order(counts: Any) -> Any:
    """Keep up to 64 nodes in order; sort more by most frequent class and by its share."""
    if len(counts) <= 64:
        return np.arange(len(counts))
    return np.lexsort((-counts.max(1) / np.maximum(counts.sum(1), 1), counts.argmax(1)))


def _sizes_only(data: Shards, counts: Any) -> Figure:
    figure, axes = canvas(SMALL)
    by_class = data.classes is not None
    _draw_sizes(axes, counts[0] if by_class else counts[:, 0])
    axes.set_xlabel("class" if by_class else "node")
    if data.classes is not None:
        _class_ticks(axes.xaxis, data.classes)
    return figure


def _draw_sizes(axes: Axes, sizes: Any) -> None:
    edges = np.arange(len(sizes) + 1) - 0.5
    edge = light("card") if len(sizes) <= 64 else "none"
    axes.stairs(sizes, edges, fill=True, color=light("comm"), linewidth=0)
    axes.vlines(edges[1:-1], 0, max(sizes), color=edge, linewidth=1.2 if edge != "none" else 0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(*sizes, 1) * 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_title("Samples", **heading())


def _draw_shares(axes: Axes, counts: Any, classes: Sequence[str]) -> None:
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).T
    image = np.empty((*shares.shape, 4))
    image[..., :3] = to_rgb(_SHARE)
    image[..., 3] = np.sqrt(shares)
    axes.imshow(image, aspect="auto", interpolation="none")
    axes.grid(visible=False)
    if shares.size <= 1200:
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
