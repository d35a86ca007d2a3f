"""The page of a sweep: a table and a drawing, with mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean, stdev

from decentral.report.facts import ABSENT, Facts, number_text, relative_text
from decentral.report.html import responsive
from decentral.report.page import figure, page, sentence, table, write_page

#: Columns of results: label, name of the fact, and whether a spread is shown.
COLUMNS = {
    "local before": ("local_mean", True),
    "merged": ("merged", True),
    "of all-reduce": ("relative", False),
}


@dataclass(frozen=True)
class Group:
    """Points with the same ``labels``, the seed left out; ``facts`` of those that finished."""

    labels: Mapping[str, str]
    points: int
    facts: tuple[Facts, ...]

    @property
    def name(self) -> str:
        """The values on all axes, in words; of a single group, what it is."""
        return ", ".join(self.labels.values()) or "all seeds"

    @property
    def metric(self) -> str:
        """Return ``accuracy`` or ``loss``."""
        return self.facts[0].metric if self.facts else "accuracy"

    def values(self, name: str) -> list[float]:
        """Return one number per finished point: ``local_mean``, ``merged``, ``relative``, ..."""
        found = (getattr(one, name) for one in self.facts)
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        """Return the mean over the points, None where nothing was measured."""
        values = self.values(name)
        return fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Return the sample standard deviation over the points, None for fewer than two."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None


def cells(group: Group) -> dict[str, str]:
    """Write the results of a group: runs that finished, and means with their spread."""
    finished = len(group.facts)
    runs = f"{finished}" if finished == group.points else f"{finished} of {group.points}"
    found = {"runs": runs}
    for label, (name, spreads) in COLUMNS.items():
        mean, spread = group.mean(name), group.spread(name)
        if name == "relative":
            found[label] = ABSENT if mean is None else relative_text(mean)
        else:
            found[label] = number_text(mean, group.metric)
            if spreads and spread is not None:
                found[label] += f" ± {spread_text(spread, group.metric)}"
    return found


def spread_text(spread: float, metric: str) -> str:
    """Write a standard deviation: in points of accuracy, or as a loss.

    >>> spread_text(0.0123, "accuracy")
    '1.2'
    """
    return f"{100 * spread:.1f}" if metric == "accuracy" else number_text(spread, metric)


def write_sweep(folder: Path, groups: Sequence[Group], failures: Sequence[str]) -> Path:
    """Write ``sweep.html`` and ``sweep.png`` into a sweep's folder and return the page's path."""
    from decentral.report import figures

    metric = next((group.metric for group in groups if group.facts), "accuracy")
    drawn = [(g.name, g.values("local_mean"), g.values("merged")) for g in groups]
    pictures = [figures.swept(drawn, metric, width) for width in (figures.WIDE[0], figures.TALL[0])]
    if pictures[0] is not None:
        figures.save_png(pictures[0], folder / "sweep.png")
    none = '<p class="none">No run has finished.</p>'
    runs = sum(len(group.facts) for group in groups)
    body = (
        f'<header><p class="over">decentral</p><h1>{escape(folder.name)}</h1>'
        f'<p class="verdict">{sentence(f"{runs} runs in {len(groups)} groups.")}</p></header>'
        '<div class="grid">'
        + figure(
            f"{metric.capitalize()} by group",
            "Dots: single runs. Diamonds and bars: mean and one standard deviation.",
            responsive(pictures, "sweep", "Results of the groups of a sweep") or none,
            full=True,
        )
        + f'</div><section class="card results"><h2>Results</h2>{_table(groups)}</section>'
        + _failures(failures)
    )
    return write_page(folder / "sweep.html", page(f"{folder.name} · decentral", body))


def _table(groups: Sequence[Group]) -> str:
    axes = list(groups[0].labels)
    results = ["runs", *COLUMNS]
    rows = [
        [escape(text) for text in [*group.labels.values(), *cells(group).values()]]
        for group in groups
    ]
    return table([*map(escape, axes), *results], rows, numeric=frozenset(results), label="Results")


def _failures(failures: Sequence[str]) -> str:
    if not failures:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in failures)
    return f'<section class="card"><h2>Failed</h2><ul>{items}</ul></section>'
