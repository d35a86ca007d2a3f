"""A schedule before anything runs: when it talks, and what that adds up to."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from decentral.report.figures.canvas import WIDE, heading, steps_ticks, styled
from decentral.report.palette import light
from decentral.units import format_bytes


@styled
def schedule(
    steps: Sequence[int],
    intensities: Sequence[float],
    merges: Sequence[int],
    sent: Sequence[float],
) -> Figure:
    """Draw the intensity at every slot, the steps of global merges, and the bytes sent by then."""
    figure = Figure(figsize=WIDE, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    edges = [0, *steps]
    upper.stairs(intensities, edges, fill=True, color=light("comm"), linewidth=0)
    upper.set_xlim(0, edges[-1])
    if merges:
        upper.plot(merges, [1.0] * len(merges), "D", color=light("merged"), clip_on=False)
    upper.set_ylim(0, 1.08)
    upper.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    title = "Intensity" + (" and global merges (diamonds)" if merges else "")
    upper.set_title(title, **heading())
    lower.step(edges, [0, *sent], where="post", color=light("comm"), linewidth=2)
    lower.set_ylim(0, max(*sent, 1) * 1.08)
    lower.yaxis.set_major_locator(MaxNLocator(4))
    lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    lower.set_title("Bytes sent so far, all nodes", **heading())
    steps_ticks(lower)
    return figure
