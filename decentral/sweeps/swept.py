"""A sweep from Python: over values and objects, and what came out as records."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Unpack

from decentral.api import Run
from decentral.api.display import Several
from decentral.api.tables import Table, table_html, table_text
from decentral.config import LISTS, PARTS, read_settings
from decentral.config.schema import Settings
from decentral.engines.ranks import refuse_ranks
from decentral.errors import ConfigError, Interrupted, RunError, nearest
from decentral.limits import named_folder
from decentral.report.compare import SWEPT, Group, cells, columns
from decentral.report.pages import cell_drawing
from decentral.run.lock import WriterLock
from decentral.sweeps.points import Sweep, make_sweep
from decentral.sweeps.running import (
    read_measured,
    run_points,
    write_results,
)
from decentral.trust import Given, Trust


@dataclass(frozen=True, repr=False)
class SweepResults(Table):
    """What a sweep gave: a record for every run that finished, with its values on
    the axes, its folder, and every number by its key.

    ``runs`` are the runs in the same order, and ``labels`` what their values are
    called; ``failures`` says why others failed, ``page`` is the report.
    """

    folder: Path
    page: Path
    runs: Sequence[Run]
    failures: Mapping[str, str]
    labels: Sequence[Mapping[str, str]]
    groups: Sequence[Group]

    @property
    def means(self) -> Table:
        """A record for every combination of values: means over seeds, and after
        each its standard deviation, as ``accuracy/merged std``, where there are
        several.
        """
        found: list[Mapping[str, Any]] = []
        for group in self.groups:
            members = [
                one
                for one, labels in zip(self, self.labels, strict=True)
                if group.labels.items() <= labels.items()
            ]
            record = {axis: one[axis] for one in members[:1] for axis in group.labels}
            record["runs"] = len(members)
            for key in self._keys:
                values = [one[key] for one in members if key in one]
                record |= {key: fmean(values)} if values else {}
                record |= {f"{key} std": stdev(values)} if len(values) > 1 else {}
            found += [record] if members else []
        return Table(found)

    def best(self, metric: str = "") -> dict[str, Any]:
        """Return the record among ``means`` that is best.

        Args:
            metric: A key, such as ``"loss/merged"``, or its group, for the merged
                model; unless given, what judges the runs.
        """
        means = self.means
        facts = next(group.facts[0] for group in self.groups if group.facts)
        wanted = metric or facts.metric
        key = wanted if wanted in self._keys else f"{wanted}/merged"
        if key not in self._keys:
            raise ConfigError(
                f"sweep {self.folder}: nothing is called {metric!r}."
                f"{nearest(metric, self._keys)}"
            )
        sign = facts.records.of(key).sign
        judged = [one for one in means if key in one]
        return max(judged, key=lambda one: sign * one[key])

    @property
    def _keys(self) -> list[str]:
        numbers = [
            key for group in self.groups for one in group.facts for key in one.values
        ]
        return list(dict.fromkeys(numbers))

    def _cells(self) -> list[dict[str, Any]]:
        """Return what is shown of every combination, as the report does."""
        listed = columns(self.groups)
        return [{**group.labels, **cells(group, listed)} for group in self.groups]

    def __str__(self) -> str:
        """Return the table of means in text, and what failed."""
        rows = self._cells()
        failed = [f"{name} failed: {why}" for name, why in self.failures.items()]
        head = f"{len(self)} runs in {self.folder}"
        return "\n".join(
            [head, *([table_text(list(rows[0]), rows)] if rows else []), *failed]
        )

    def _repr_html_(self) -> str:
        from decentral.report import figures

        rows = self._cells()
        known = [one.score for group in self.groups for one in group.facts]
        local, merged = SWEPT.values()
        drawn = [(one.name, one.score(local), one.score(merged)) for one in self.groups]
        picture = figures.draw_sweep(drawn, known[0], 8.2) if known else None
        failed = "".join(
            f"<p>{escape(name)} failed: {escape(why)}</p>"
            for name, why in self.failures.items()
        )
        svg = cell_drawing(picture, "Results of the groups of a sweep") if picture else ""
        head = f"<b>{len(self)} runs</b> in {escape(str(self.folder))}"
        return f"{head}{svg}{table_html(list(rows[0]), rows)}{failed}"


def sweep(
    axes: Mapping[str, Any],
    *,
    config: str | Path | None = None,
    quiet: bool = False,
    trust: Given = False,
    **settings: Unpack[Settings],
) -> SweepResults:
    """Run all combinations of some settings, each once, and return what came out.

    What is done is kept in the folder ``out``: called again, the sweep runs what is
    missing or failed. A point is what it computes. Objects of Python are known
    again by their code and data; one that has nothing to be known by runs anew in
    every process.

    Args:
        axes: Values by setting,
            ``{"lr": [0.1, 0.2], "topology": {"mine": graph}}``: a list, or a
            mapping from labels to values; of ``seed`` also how many.
        config: A YAML file of settings that are the same everywhere.
        quiet: Show nothing while it runs.
        trust: Digests of code that ``config`` names and that is not your own, as
            the refusal shows them; True for all of it.
        settings: The same as keywords, as for ``launch``; they win over the file.

    Raises:
        ConfigError: A setting is wrong.
        RunError: Every run has failed; where some have, the others are returned.
        Interrupted: The user has stopped it.

    >>> found = sweep(
    ...     {"lr": [0.01, 0.2]}, task="quadratic", nodes=4, steps=40, out="sweeps/doc"
    ... )
    >>> found.best("loss")["lr"]
    0.2
    """
    given: dict[str, Any] = {**settings}
    allowed = Trust.of(trust, axes, given)
    below = {} if config is None else read_settings(config, "sweep", trust=allowed)
    written: Any = below.pop("sweep", {})
    folder = named_folder(str(given.pop("out", None) or "sweeps/sweep"))
    found = make_sweep(below, given, {**written, **axes})
    for point in found.points:
        refuse_ranks(point.config)
    # Two sweeps in one folder would both begin what is missing.
    with WriterLock(folder, "sweep folder"):
        failures = _run(found, folder, quiet)
        if len(failures) == len(found.points):
            why = next(iter(failures.values()))
            raise RunError(f"sweep: every run failed, the first by: {why}")
        groups, page = write_results(
            found, folder, [f"{name}: {why}" for name, why in failures.items()]
        )
    return _swept(found, folder, page, failures, groups)


def _run(found: Sweep, folder: Path, quiet: bool) -> dict[str, str]:
    """Run the points; return why some failed."""
    names = [", ".join(f"{k}={v}" for k, v in one.labels.items()) for one in found.points]
    failures: dict[str, str] = {}
    done = 0
    with Several(quiet) as display:

        def running(places: Sequence[int]) -> None:
            display.show("; ".join(names[place] for place in places), done, len(names))

        try:
            for place, outcome in run_points(found.points, folder, running):
                done += 1
                if outcome.state == "failed":
                    failures[names[place]] = outcome.reason
        except Interrupted as error:
            raise Interrupted(
                "sweep: interrupted; everything is saved. The same call goes on."
            ) from error
    for name, why in failures.items() if not quiet else ():
        print(f"sweep: {name} failed: {why}", file=sys.stderr)
    return failures


def _swept(
    found: Sweep,
    folder: Path,
    page: Path,
    failures: Mapping[str, str],
    groups: Sequence[Group],
) -> SweepResults:
    """Return what a sweep gave.

    Args:
        found: The sweep.
        folder: Its folder.
        page: Its report.
        failures: Why points failed.
        groups: What was measured.
    """
    measured = read_measured(found, folder)
    done = [point for point in found.points if point.digest in measured]
    records = [
        {
            **point.values,
            "run": point.folder(folder).name,
            **measured[point.digest].values,
        }
        for point in done
    ]
    runs = [
        Run(
            point.folder(folder),
            {key: getattr(point.config, key) for key in (*PARTS, *LISTS)},
        )
        for point in done
    ]
    labels = [point.labels for point in done]
    return SweepResults(records, folder, page, runs, failures, labels, groups)
