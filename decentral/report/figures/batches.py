"""Batch schedules before anything runs: their sizes over the data, and over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.figure import Figure

from decentral.report.figures.canvas import WIDE, heading, plain_log_ticks, steps_ticks, styled
from decentral.report.palette import RUN_COLOURS, light


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
