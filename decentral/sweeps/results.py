"""What came out: one row per group of points that differ only in their seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from decentral.report.facts import Facts, facts_of
from decentral.report.reader import read_run
from decentral.report.sweep import Group
from decentral.sweeps.points import Point, Sweep

SEED = "seed"


def grouped(sweep: Sweep, folder: Path) -> list[Group]:
    """Gather the finished points of a sweep, in its order."""
    members: dict[tuple[str, ...], list[Point]] = {}
    axes = [axis for axis in sweep.axes if axis != SEED]
    for point in sweep.points:
        members.setdefault(tuple(point.labels[axis] for axis in axes), []).append(point)
    return [
        Group(dict(zip(axes, labels, strict=True)), len(points), tuple(_finished(points, folder)))
        for labels, points in members.items()
    ]


def _finished(points: Sequence[Point], folder: Path) -> list[Facts]:
    done = [point.folder(folder) for point in points if point.finished(folder)]
    return [facts_of(read_run(path)) for path in done]


def csv_text(sweep: Sweep, folder: Path) -> str:
    """Return one line per finished point, for other programs."""
    names = ("local_mean", "local_min", "local_max", "merged", "bytes", "relative", "wall_s")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*sweep.axes, "run", "metric", *names])
    for point in sweep.points:
        for facts in _finished([point], folder):
            numbers = [getattr(facts, name) for name in names]
            writer.writerow(
                [*point.labels.values(), point.folder(folder).name, facts.metric, *numbers]
            )
    return buffer.getvalue()
