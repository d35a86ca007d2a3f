"""Several runs side by side: a table and a page with their curves; a sweep, with
its spread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from decentral.errors import ConfigError
from decentral.records import QUANTITIES, SIMULATED, Record
from decentral.report.drawing import RUN_COLOURS
from decentral.report.facts import (
    ABSENT,
    Facts,
    facts_of,
    flatten,
    number_text,
    plugin_text,
    relative_text,
)
from decentral.report.pages import Card, drawings, page, write_page
from decentral.report.reader import RunData, read_run

# --- runs -------------------------------------------------------------------------


#: Columns of what judges the runs: label and role.
SCORES = {"local mean": "local_mean", "merged": "merged"}
_SHOWN = ("topology", "communication")  # Settings that have a column of their own.
# Differ in every run, say nothing.
_WHERE = frozenset({"name", "run", "out", "output", "run_dir"})
_GLYPHS = "●■▲◆▼★○□△◇▽☆"


@dataclass(frozen=True)
class Comparison:
    """Runs in the order given, as rows of text; ``differing`` names the settings
    that vary.

    ``listed`` are the records that have a column beside the scores.
    """

    runs: tuple[RunData, ...]
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    differing: tuple[str, ...]
    listed: tuple[Record, ...]

    @property
    def numeric(self) -> tuple[str, ...]:
        """The columns that hold numbers, in their order."""
        return (*SCORES, *(record.title for record in self.listed))

    @property
    def warning(self) -> str:
        """What makes the runs hard to compare; empty where nothing does.

        In rounds the mean model goes as far as its updates say: a gain of 1.
        """
        found = [(run.summary or {}).get("counters", {}) for run in self.runs]
        gains = [float(one.get("simulation/gain", 1.0)) for one in found if one]
        if not gains or max(gains) <= 1.05 * min(gains):
            return ""
        return (
            f"gains from {min(gains):.2f} to {max(gains):.2f}: at one learning rate the mean "
            "models take steps of unlike length; compare at rates over the gain"
        )

    def text(self) -> str:
        """Return the table aligned for a terminal."""
        width = {
            c: max(len(c), *(len(row[c]) for row in self.rows)) for c in self.columns
        }

        def line(cells: Mapping[str, str]) -> str:
            parts = (
                cells[c].rjust(width[c])
                if c in self.numeric
                else cells[c].ljust(width[c])
                for c in self.columns
            )
            return "  ".join(parts).rstrip()

        return "\n".join([line({c: c for c in self.columns}), *map(line, self.rows)])


def compare(paths: Sequence[str | Path]) -> Comparison:
    """Read runs and put their results and the settings in which they differ into
    rows.

    Raises:
        ConfigError: No folder was given, or one of them is not a run.
    """
    if not paths:
        raise ConfigError("compare: no run given; name the folders of two or more runs.")
    runs = tuple(read_run(path) for path in paths)
    settings = [flatten(run.config) for run in runs]
    differing = _differing(settings)
    listed = _list_records([facts_of(run) for run in runs])
    rows = tuple(
        {"run": name, **_results(run, listed)}
        | {key: _setting(found, key) for key in differing}
        for name, run, found in zip(_names(runs), runs, settings, strict=True)
    )
    return Comparison(runs, tuple(rows[0]), rows, differing, listed)


def write_comparison(comparison: Comparison, out: str | Path) -> Path:
    """Write the comparison of runs as one HTML file and return its path.

    Raises:
        ConfigError: The folder of ``out`` is missing.
    """
    target = Path(out)
    if not target.parent.is_dir():
        raise ConfigError(
            f"{target}: the folder {target.parent} does not exist; create it first."
        )
    return write_page(target, comparison_html(comparison))


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as one HTML document."""
    from decentral.report import figures

    runs = comparison.runs
    score = figures.common_score(runs)
    return page(
        "compare",
        title=f"{len(runs)} runs compared",
        over="decentral",
        verdict=_verdict(comparison),
        figures=list(_figures(comparison, score)),
        legend=_legend(comparison),
        columns=comparison.columns,
        numeric=comparison.numeric,
        rows=[[row[column] for column in comparison.columns] for row in comparison.rows],
        best=_best([facts_of(run) for run in runs], score),
        unfinished=any("*" in row["merged"] for row in comparison.rows),
    )


def _figures(comparison: Comparison, score: Record) -> Iterator[Card]:
    from decentral.report import figures

    name, said = score.group.capitalize(), _verdict(comparison)
    none = "Nothing to show: these runs logged none of it."
    timed = any(
        facts_of(run).values.get(SIMULATED.key) is not None for run in comparison.runs
    )
    seconds = (
        ("seconds", figures.draw_seconds, f"{name} against simulated time",
         "Solid: the average of all models. Dashed: the mean of the local models. In rounds a "
         "point stands where the last node is done, event by event where all updates until then "
         "are made; dsgd(wait=neighbours) is gossip in rounds, event by event."),
    )  # fmt: skip
    for key, draw, title, caption in (
        ("learning", figures.draw_learning, f"{name} over steps",
         "Solid: the average of all models. Dashed: the mean of the local models."),
        ("bytes", figures.draw_cost, f"{name} against bytes",
         "Marker: the merged model. Bar: the mean of the local models before the merge."),
        *(seconds if timed else ()),
    ):  # fmt: skip
        drawn = [draw(comparison.runs, size) for size in (figures.WIDE, figures.TALL)]
        yield Card(title, caption, drawings(drawn, key, said), none, full=True)


def _list_records(facts: Sequence[Facts]) -> tuple[Record, ...]:
    """Return the records that some run lists: those of metrics, then the loop's
    own.

    What runs cost has its columns even where no run has logged it yet.
    """
    costs = [one for one in QUANTITIES if "compare" in one.tables and not one.panel]
    # By key: two runs that measured the same have one column.
    found = {
        record.key: record for one in facts for record in one.list_records("compare")
    }
    return (*(one for one in found.values() if one not in costs), *costs)


def _results(run: RunData, listed: Sequence[Record]) -> dict[str, str]:
    facts = facts_of(run)
    found = {
        key: ABSENT if run.config.get(key) is None else plugin_text(run.config[key])
        for key in _SHOWN
    }
    scores = {
        label: number_text(facts.values.get(f"{facts.metric}/{role}"), facts.score)
        for label, role in SCORES.items()
    }
    scores["merged"] += "" if facts.finished else " *"
    numbers = {one.title: number_text(facts.values.get(one.key), one) for one in listed}
    return {**found, **scores, **numbers}


def _differing(settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for found in settings for key in found)
    return tuple(
        key
        for key in keys
        if key.split(".")[0] not in {*_SHOWN, *_WHERE}
        and len({_setting(found, key) for found in settings}) > 1
        # What one engine takes and another does not says no more than their names.
        and (not key.startswith("engine.") or all(key in found for found in settings))
    )


def _setting(found: Mapping[str, Any], key: str) -> str:
    return plugin_text(found[key]) if key in found else ABSENT


def _names(runs: Sequence[RunData]) -> list[str]:
    """Return the runs' names, with their parent folder where two are the same."""
    count = Counter(run.name for run in runs)
    return [
        run.name if count[run.name] == 1 else f"{run.path.parent.name}/{run.path.name}"
        for run in runs
    ]


def _best(facts: Sequence[Facts], score: Record) -> int | None:
    """Return the index of the run with the best merged model."""
    known = [
        # Of equals the first run that was named.
        (score.sign * one.merged, -index)
        for index, one in enumerate(facts)
        if one.merged is not None and one.metric == score.group
    ]
    return -max(known)[1] if known else None


def _verdict(comparison: Comparison) -> str:
    from decentral.report import figures

    facts = [facts_of(run) for run in comparison.runs]
    score = figures.common_score(comparison.runs)
    best = _best(facts, score)
    if best is None:
        return "None of these runs has evaluated a merged model."
    one = facts[best]
    reached = f"{comparison.rows[best]['run']} has the best merged model: "
    text = f"{reached}{score.group} {number_text(one.merged, score)}"
    if one.relative is not None:
        text += f" with {relative_text(one.relative)} of all-reduce's bytes"
    if warning := comparison.warning:
        text += f". {warning[0].upper()}{warning[1:]}"
    return text + "."


def _legend(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return the name, the colour and the marker of every run."""
    return [
        (row["run"], f"run-{index % RUN_COLOURS}", _GLYPHS[index % len(_GLYPHS)])
        for index, row in enumerate(comparison.rows)
    ]


# --- sweeps -----------------------------------------------------------------------


#: Columns of what judges the runs: label and role.
SWEPT = {"local before": "local_mean", "merged": "merged"}


@dataclass(frozen=True)
class Group:
    """Points with the same ``labels``, the seed left out; ``facts`` of those that
    finished.
    """

    labels: Mapping[str, str]
    points: int
    facts: tuple[Facts, ...]

    @property
    def name(self) -> str:
        """The values on all axes, in words; of a single group, what it is."""
        return ", ".join(self.labels.values()) or "all seeds"

    @property
    def metric(self) -> str:
        """Return the name of what judges the runs, empty before the first has
        finished.
        """
        return self.facts[0].metric if self.facts else ""

    def values(self, key: str) -> list[float]:
        """Return one number per finished point in which a key was measured."""
        return [one.values[key] for one in self.facts if key in one.values]

    def score(self, role: str) -> list[float]:
        """Return the score of the ``merged`` model or of the ``local_mean`` per
        finished point.
        """
        return self.values(f"{self.metric}/{role}")


def columns(groups: Sequence[Group]) -> list[Record]:
    """Return the records that a table of these groups lists beside the scores."""
    found = [
        record
        for group in groups
        for one in group.facts
        for record in one.list_records("sweep")
    ]
    return list({record.key: record for record in found}.values())


def cells(group: Group, listed: Sequence[Record]) -> dict[str, str]:
    """Write the results of a group: runs that finished, and means with their
    spread.
    """
    finished = len(group.facts)
    found = {
        "runs": f"{finished}"
        if finished == group.points
        else f"{finished} of {group.points}"
    }
    for label, role in SWEPT.items():
        score = group.facts[0].score if finished else None
        found[label] = mean_text(group.score(role), score)
    for record in listed:
        found[record.title] = mean_text(group.values(record.key), record)
    return found


def mean_text(values: Sequence[float], record: Record | None) -> str:
    """Write the mean over runs, with the sample standard deviation where there are
    several.

    >>> mean_text([0.93, 0.95], Record("accuracy/merged", unit="%"))
    '94.0 % ± 1.4'
    """
    if record is None or not values:
        return ABSENT
    mean = number_text(fmean(values), record)
    exact = record.unit == "share"  # of bytes, which the settings fix
    return (
        mean
        if exact or len(values) < 2
        else f"{mean} ± {spread_text(stdev(values), record)}"
    )


def spread_text(spread: float, record: Record) -> str:
    """Write a standard deviation: in points of percent, or in the unit of the
    number.

    >>> spread_text(0.0123, Record("accuracy/merged", unit="%"))
    '1.2'
    """
    return f"{100 * spread:.1f}" if record.unit == "%" else number_text(spread, record)


def write_sweep(folder: Path, groups: Sequence[Group], failures: Sequence[str]) -> Path:
    """Write ``sweep.html`` and ``sweep.png`` into a sweep's folder and return the
    page's path.
    """
    from decentral.report import figures

    drawn = [(g.name, g.score("local_mean"), g.score("merged")) for g in groups]
    known = [one.score for group in groups for one in group.facts]
    sizes = (figures.WIDE[0], figures.TALL[0])
    pictures = (
        [figures.draw_sweep(drawn, known[0], width) for width in sizes]
        if known
        else [None, None]
    )
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
