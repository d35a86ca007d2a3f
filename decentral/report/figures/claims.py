"""The drawings of claims: one panel, its curves over all seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from decentral.report.figures.canvas import WIDE, canvas, legend, styled
from decentral.report.figures.compared import run_colour


@styled
def claim_panel(panel: Mapping[str, Any], size: tuple[float, float] = WIDE) -> Figure:
    """Draw a panel: a line per label, the mean over seeds, and a band from least to greatest."""
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
    if any(other != x for other, _ in lines):  # seeds that were looked at elsewhere stay apart
        for place, (own, y) in enumerate(lines):
            label = curve["label"] if place == 0 else None
            axes.plot(own, y, color=colour, linewidth=1.2, label=label)
        return
    values = np.array([y for _, y in lines], dtype=np.float64)
    axes.plot(x, values.mean(0), color=colour, linewidth=2.0, label=curve["label"])
    if len(values) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
