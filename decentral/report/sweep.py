"""The page of a sweep: a table and a drawing, with mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from decentral.records import Record
from decentral.report.facts import ABSENT, Facts, number_text
from decentral.report.pages import Card, drawings, page, write_page

#: Columns of what judges the runs: label and role.
SCORES = {"local before": "local_mean", "merged": "merged"}


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
        """Return the name of what judges the runs, empty before the first has finished."""
        return self.facts[0].metric if self.facts else ""

    def values(self, key: str) -> list[float]:
        """Return one number per finished point in which a key was measured."""
        return [one.values[key] for one in self.facts if key in one.values]

    def score(self, role: str) -> list[float]:
        """Return the score of the ``merged`` model or of the ``local_mean`` per finished point."""
        return self.values(f"{self.metric}/{role}")


def columns(groups: Sequence[Group]) -> list[Record]:
    """Return the records that a table of these groups lists beside the scores."""
    found = [record for group in groups for one in group.facts for record in one.listed("sweep")]
    return list({record.key: record for record in found}.values())


def cells(group: Group, listed: Sequence[Record]) -> dict[str, str]:
    """Write the results of a group: runs that finished, and means with their spread."""
    finished = len(group.facts)
    found = {"runs": f"{finished}" if finished == group.points else f"{finished} of {group.points}"}
    for label, role in SCORES.items():
        score = group.facts[0].score if finished else None
        found[label] = mean_text(group.score(role), score)
    for record in listed:
        found[record.title] = mean_text(group.values(record.key), record)
    return found


def mean_text(values: Sequence[float], record: Record | None) -> str:
    """Write the mean over runs, with the sample standard deviation where there are several.

    >>> mean_text([0.93, 0.95], Record("accuracy/merged", unit="%"))
    '94.0 % ± 1.4'
    """
    if record is None or not values:
        return ABSENT
    mean = number_text(fmean(values), record)
    exact = record.unit == "share"  # of bytes, which the settings fix
    return mean if exact or len(values) < 2 else f"{mean} ± {spread_text(stdev(values), record)}"


def spread_text(spread: float, record: Record) -> str:
    """Write a standard deviation: in points of percent, or in the unit of the number.

    >>> spread_text(0.0123, Record("accuracy/merged", unit="%"))
    '1.2'
    """
    return f"{100 * spread:.1f}" if record.unit == "%" else number_text(spread, record)


def write_sweep(folder: Path, groups: Sequence[Group], failures: Sequence[str]) -> Path:
    """Write ``sweep.html`` and ``sweep.png`` into a sweep's folder and return the page's path."""
    from decentral.report import figures

    drawn = [(g.name, g.score("local_mean"), g.score("merged")) for g in groups]
    known = [one.score for group in groups for one in group.facts]
    sizes = (figures.WIDE[0], figures.TALL[0])
    pictures = [figures.swept(drawn, known[0], width) for width in sizes] if known else [None, None]
    if pictures[0] is not None:
        figures.save_png(pictures[0], folder / "sweep.png")
    runs = sum(len(group.facts) for group in groups)
    listed = columns(groups)
    results = [cells(group, listed) for group in groups]
    html = page(
        "sweep",
        title=folder.name,
        over="decentral",
        verdict=f"{runs} runs in {len(groups)} groups.",
        drawn=Card(
            f"{known[0].group.capitalize() if known else 'Results'} by group",
            "Dots: single runs. Diamonds and bars: mean and one standard deviation.",
            drawings(pictures, "sweep", "Results of the groups of a sweep"),
            "No run has finished.",
            full=True,
        ),
        columns=[*groups[0].labels, *results[0]],
        numeric=list(results[0]),
        rows=[
            [*group.labels.values(), *found.values()]
            for group, found in zip(groups, results, strict=True)
        ],
        failures=failures,
    )
    return write_page(folder / "sweep.html", html)
