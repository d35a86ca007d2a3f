"""A sweep: for every group of runs the mean over seeds, its spread, and each run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from decentral.records import Record
from decentral.report.facts import percent_text
from decentral.report.figures.canvas import WIDE, legend, styled
from decentral.report.palette import light

#: A group as it is drawn: its name, and the values of its local and merged models.
Swept = tuple[str, Sequence[float], Sequence[float]]
_LONGEST = 34


@styled
def swept(groups: Sequence[Swept], record: Record, width: float = WIDE[0]) -> Figure | None:
    """Draw a row per group: every run a dot, the mean a mark, one standard deviation a bar."""
    if not any(local or merged for _, local, merged in groups):
        return None
    figure = Figure(figsize=(width, 1.1 + 0.5 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, *both) in enumerate(groups):
        for role, values, offset in zip(("local", "merged"), both, (0.14, -0.14), strict=True):
            label = _LABELS[role] if place == 0 else None
            y = [place + offset] * len(values)
            axes.plot(values, y, "o", color=light(role), ms=4, alpha=0.35, mew=0)
            mean = [fmean(values)] if values else []
            spread = [stdev(values)] if len(values) > 1 else None
            axes.errorbar(
                mean, y[:1], xerr=spread, fmt="D", color=light(role), ms=6, capsize=3, label=label
            )
    axes.set_yticks(range(len(groups)), [_short(name) for name, *_ in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if width < WIDE[0] else 9))
    if record.unit == "%":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent_text(value, 0)))
    axes.set_xlabel(record.group)
    legend(axes)
    return figure


_LABELS = {"local": "mean of the local models", "merged": "merged model"}


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
