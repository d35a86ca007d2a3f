"""The look of every drawing: style, axes, legends, and how a figure becomes a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Transform, blended_transform_factory

from decentral.records import Record
from decentral.report.drawing import light
from decentral.report.facts import percent_text
from decentral.report.figures.explored import set_unit
from decentral.report.reader import RunData
from decentral.units import format_bytes, format_seconds

SMALL = (4.9, 3.1)  # Inches; half of the page.
WIDE = (10.6, 3.9)  # Inches; the whole page.
TALL = (4.9, 3.9)  # Inches; the whole page of a phone.

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": light("ink"),
    "axes.edgecolor": light("line"),
    "axes.labelcolor": light("muted"),
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": light("line"),
    "grid.linewidth": 0.8,
    "xtick.color": light("line"),
    "xtick.labelcolor": light("muted"),
    "xtick.major.size": 4,
    "ytick.color": light("line"),
    "ytick.labelcolor": light("muted"),
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.labelcolor": light("ink"),
    "figure.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "decentral",
}
styled = mpl.rc_context(_STYLE)


@styled
def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG document, the same bytes for the same figure."""
    buffer = io.StringIO()
    # They hold the time and matplotlib's version: the same figure, the same bytes.
    without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # A class name in a script that the measuring font lacks is still shown by
        # the browser.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata=without)
    return buffer.getvalue()


@styled
def save_png(figure: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Write a figure as a PNG file and return its path."""
    figure.savefig(path, format="png", dpi=dpi, facecolor=light("card"))
    return Path(path)


class Picture(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        """Return the picture as IPython asks for it."""
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=100)
        return data.getvalue()


def canvas(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return an empty figure of ``size`` inches and its axes."""
    # Not through pyplot, which keeps every figure and depends on a backend.
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def thin(
    steps: list[int], values: list[float], most: int = 400
) -> tuple[list[int], list[float]]:
    """Return at most ``most`` points of a curve, its last one included."""
    every = -(-len(steps) // most) or 1
    if every == 1:
        return steps, values
    # The end is what a reader looks at first, and must not be thinned out.
    return [*steps[::every], steps[-1]], [*values[::every], values[-1]]


def dots(values: Sequence[Any]) -> dict[str, Any]:
    """Return the keywords that show where a curve was measured, if that was seldom."""
    return {"marker": "o", "markersize": 4, "clip_on": False} if len(values) <= 12 else {}


def heading() -> dict[str, Any]:
    """Return the keywords of a small heading above axes."""
    return {"loc": "left", "fontsize": 9, "color": light("muted"), "pad": 8}


def legend(axes: Axes, x: float = -0.01, across: Transform | None = None) -> None:
    """Put the legend above the axes, where no curve can run through it.

    Args:
        axes: The axes.
        x: Where it begins.
        across: What ``x`` is a part of; none: of the axes.
    """
    place = blended_transform_factory(across or axes.transAxes, axes.transAxes)
    labels = axes.get_legend_handles_labels()[1]
    fits = sum(map(len, labels)) <= (36 if is_narrow(axes) else 90)
    axes.legend(
        loc="lower left", bbox_to_anchor=(x, 1.0), bbox_transform=place,
        ncols=len(labels) if fits else 2,
        borderaxespad=0.2, handlelength=1.4, columnspacing=1.6, handletextpad=0.6,
    )  # fmt: skip


def is_narrow(axes: Axes) -> bool:
    """Tell whether axes have less than the whole width of a page."""
    return axes.bbox.width / axes.figure.dpi < 0.5 * WIDE[0]


def steps_axis(axes: Axes, run: RunData) -> None:
    """Let x run over all planned steps of a run."""
    axes.set_xlim(0, max(run.last_step, run.steps or 0, 1))
    steps_ticks(axes)


def steps_ticks(axes: Axes) -> None:
    """Label x as steps."""
    set_unit(axes.xaxis, "step")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6 if is_narrow(axes) else 10, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def bytes_axis(axes: Axes) -> None:
    """Label x as bytes."""
    set_unit(axes.xaxis, "B")
    axes.set_xlabel("bytes sent, all nodes together")
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(4 if is_narrow(axes) else 8))
        axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))


def seconds_axis(axes: Axes) -> None:
    """Label x as simulated seconds."""
    set_unit(axes.xaxis, "s")
    axes.set_xlabel("simulated time, until the last node is done")
    axes.xaxis.set_major_locator(MaxNLocator(4 if is_narrow(axes) else 8))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))


def value_axis(axes: Axes, record: Record) -> None:
    """Label y in percent where that is the unit, else logarithmic where it spans
    much.
    """
    set_unit(axes.yaxis, record.unit)
    if record.unit == "%":
        # Whole percent would label several ticks alike on a short axis.
        digits = 0 if np.ptp(axes.get_ylim()) > 0.05 else 1
        show = FuncFormatter(lambda value, _: percent_text(value, digits))
        axes.set_ylim(max(axes.get_ylim()[0], 0), min(axes.get_ylim()[1], 1))
        axes.yaxis.set_major_formatter(show)
        return
    spread_axis(axes)


def spread_axis(axes: Axes) -> None:
    """Make y logarithmic where what is drawn spans much."""
    values = [value for line in axes.lines for value in np.asarray(line.get_ydata())]
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        plain_log_ticks(axes, values)


def plain_log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Label a logarithmic axis in plain numbers, between the powers of ten where
    they are few.
    """
    spread = max(values) / min(values)
    subs = (1.0,) if spread > 300 else (1.0, 3.0) if spread > 20 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
