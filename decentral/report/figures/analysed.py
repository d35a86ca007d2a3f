"""Drawings of an analysis: losses on lines and planes, and what layers have in
common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from decentral.report.drawing import light
from decentral.report.facts import loss_text, percent_text
from decentral.report.figures.canvas import TALL, WIDE, canvas, heading, legend, styled
from decentral.report.figures.explored import set_grid, set_names, set_unit

Record = Mapping[str, Any]

#: Losses above so many times the least span of what is marked are drawn as one.
_STEEP = 12
_LEVELS = 9
#: Layers whose names fit below an axis.
_MOST_NAMES = 12
_KINDS = {
    "nodes": ("local", "between two nodes"),
    "merged": ("merged", "from a node to the merge"),
}


@styled
def lines(record: Record, size: tuple[float, float] = WIDE) -> Figure:
    """Draw the training loss, and the test accuracy if there is one, on lines
    between models.
    """
    measured = [("train_loss", "Training loss")]
    if "accuracy" in record["scores"]:
        measured.append(("accuracy", "Test accuracy"))
    figure = Figure(figsize=size, layout="constrained")
    wide = size[0] > TALL[0]
    shape = (1, len(measured)) if wide else (len(measured), 1)
    for axes, (key, title) in zip(
        figure.subplots(*shape, squeeze=False).flat, measured, strict=True
    ):
        _along(axes, record, key)
        axes.set_title(title, **heading())
    legend(figure.axes[0])
    figure.axes[0].set_title("", loc="left")
    figure.axes[0].set_ylabel("training loss")
    return figure


def _along(axes: Axes, record: Record, key: str) -> None:
    places = record["lines"]["positions"]
    for kind, (colour, label) in _KINDS.items():
        for index, line in enumerate(record["lines"][kind]):
            name = label if index == 0 else f"_{label}"
            axes.plot(
                places,
                _numbers(line[key]),
                color=light(colour),
                lw=1.2,
                alpha=0.75,
                label=name,
            )
    for end in (0, 1):
        axes.axvline(end, color=light("link"), linewidth=0.8, linestyle=(0, (2, 2)))
    set_unit(axes.yaxis, "%" if key == "accuracy" else "loss")
    axes.set_xlim(places[0], places[-1])
    axes.set_xticks([0, 0.5, 1], ["0\na node", "0.5", "1\nthe other"])
    if key == "accuracy":
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: percent_text(value, 0))
        )


@styled
def plane(
    part: Record | None, labels: tuple[str, str], size: tuple[float, float] = TALL
) -> Figure | None:
    """Draw contours of the training loss on a plane, and the models on it."""
    if part is None:
        return None
    figure, axes = canvas(size)
    contours(axes, part)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return figure


def contours(axes: Axes, part: Record) -> None:
    """Draw the contours of a plane into axes; models beside it are open marks at
    their nearest.
    """
    losses = np.array([_numbers(row) for row in part["loss"]])
    levels = _levels(losses)
    set_grid(axes, part["u"], part["v"], losses, "loss")
    axes.grid(visible=False)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    if len(levels) > 1:
        # Contours break at a NaN; beyond the last level all heights look the same.
        shown = np.where(np.isfinite(losses), losses, levels[-1]).clip(max=levels[-1])
        for level in levels:  # darker, the lower the loss
            below: Any = {"levels": [shown.min() - 1, level], "colors": [light("merged")]}
            axes.contourf(part["u"], part["v"], shown, **below, alpha=0.10)
        drawn = axes.contour(
            part["u"],
            part["v"],
            shown,
            levels=levels[:-1],
            colors=[light("link")],
            linewidths=0.7,
        )
        labels = axes.clabel(
            drawn, levels[:-1:2], fmt=loss_text, fontsize=6.5, colors=[light("muted")]
        )
        _clear_names(axes, part, labels)
        _draw_scale(axes, [shown.min(), *levels])
    for mark in part["marks"]:
        merged = mark["name"] == "merged"
        colour = light("merged" if merged else "local")
        face, edge = (colour, light("card")) if mark["on"] else (light("card"), colour)
        axes.plot(*mark["at"], "D" if merged else "o", color=face, ms=6, mec=edge)
        axes.annotate(
            mark["name"], mark["at"], (0, 7), textcoords="offset points", ha="center", fontsize=8,
            path_effects=[withStroke(linewidth=2.5, foreground=light("card"))], zorder=6,
        )  # fmt: skip


def _clear_names(axes: Axes, part: Record, labels: Sequence[Text]) -> None:
    """Take away the heights of contours that stand where a model's name will.

    Args:
        axes: What the contours are drawn into.
        part: The plane, with its models.
        labels: The heights.
    """
    spans = np.array([np.ptp(part["u"]), np.ptp(part["v"])])
    for label in labels:
        for mark in part["marks"]:
            across, up = (np.array(label.get_position()) - mark["at"]) / spans
            # Half of both words, in parts of the plane; a name stands above its mark.
            if abs(across) < 0.2 and -0.05 < up < 0.12:
                label.set_visible(False)


def _draw_scale(axes: Axes, ends: Sequence[float]) -> None:
    """Draw beside contours which loss has which colour, a step for each level.

    Args:
        axes: What the contours are drawn into.
        ends: The least loss, and all levels.
    """
    scale = axes.inset_axes((1.05, 0.0, 0.05, 1.0))
    count = len(ends) - 1
    for level in range(1, count + 1):  # layers on layers, as in the contours
        scale.axhspan(0, level, color=light("merged"), alpha=0.10, linewidth=0)
    scale.set_ylim(0, count)
    scale.set_xticks([])
    scale.yaxis.tick_right()
    shown = range(0, count + 1, 3)
    words = [loss_text(ends[place]) for place in shown]
    words[-1] = f"≥ {words[-1]}" if shown[-1] == count else words[-1]
    scale.set_yticks(shown, words, fontsize=7)
    scale.tick_params(axis="y", length=0)
    scale.grid(visible=False)
    scale.set_title("loss", fontsize=7.5, color=light("muted"), loc="left")


def _levels(losses: Any) -> list[float]:
    """Return ascending levels of loss: as far apart, the further from the least, as
    a square is.
    """
    known = losses[np.isfinite(losses)]
    if not known.size or known.max() <= known.min():
        return []
    least = known.min()
    # Far out the loss may be thousands of times as large: its levels would hide the
    # basin.
    reach = (
        min(known.max(), least + _STEEP * max(np.quantile(known, 0.25) - least, 1e-12))
        - least
    )
    return [least + reach * (k / _LEVELS) ** 2 for k in range(1, _LEVELS + 1)]


@styled
def layers(record: Record, size: tuple[float, float] = WIDE) -> Figure | None:
    """Draw, layer by layer, how far models are apart and how much their features
    agree.
    """
    found = record["layers"]
    if not found:
        return None
    figure = Figure(figsize=size, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    places = range(len(found))
    apart = _numbers([layer["relative"] for layer in found])
    upper.bar(places, apart, width=0.6, color=light("comm"), label="_from the mean")
    set_names(lower.xaxis, [layer["name"] or "model" for layer in found])
    set_names(upper.xaxis, [layer["name"] or "model" for layer in found])
    upper.set_title("Distance from the mean, of the length of the mean", **heading())
    for key, colour, label in (
        ("cka_nodes", "local", "two nodes"), ("cka_merged", "merged", "a node and the merge"),
    ):  # fmt: skip
        values = _numbers([layer[key] for layer in found])
        lower.plot(places, values, "o-", color=light(colour), lw=1.6, ms=4, label=label)
    lower.set_title("Linear CKA of features", **heading())
    lower.legend(loc="best", fontsize=8)
    if len(found) <= _MOST_NAMES:
        lower.set_xticks(
            places, [layer["name"] or "model" for layer in found], fontsize=8
        )
    else:
        lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    lower.set_xlabel("layer, from the input")
    return figure


@styled
def draw_analysis(record: Record) -> Figure:
    """Draw an analysis as one picture: losses on lines, and both planes."""
    planes = [(key, part) for key, part in record["planes"].items() if part is not None]
    figure = Figure(figsize=(10.6, 3.6), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(planes), squeeze=False)[0]
    _along(first, record, "train_loss")
    first.legend(loc="upper center", fontsize=8)
    first.set_title("Training loss on lines", **heading())
    titles = {"through": "Through three models", "around": "Around the merged model"}
    for axes, (key, part) in zip(others, planes, strict=True):
        contours(axes, part)
        axes.set_title(titles[key], **heading())
    return figure


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
