"""What came out: one row per group of points that differ only in their seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from decentral.report.facts import Facts, facts_of
from decentral.report.reader import read_run
from decentral.report.sweep import Group
from decentral.sweeps.points import Point, Sweep

SEED = "seed"


def measured(sweep: Sweep, folder: Path) -> dict[str, Facts]:
    """Read what the finished points of a sweep gave, by their digests."""
    done = {point.digest: point.folder(folder) for point in sweep.points if point.finished(folder)}
    return {digest: facts_of(read_run(path)) for digest, path in done.items()}


def grouped(sweep: Sweep, found: Mapping[str, Facts]) -> list[Group]:
    """Gather what was measured, in the order of the sweep."""
    members: dict[tuple[str, ...], list[Point]] = {}
    axes = [axis for axis in sweep.axes if axis != SEED]
    for point in sweep.points:
        members.setdefault(tuple(point.labels[axis] for axis in axes), []).append(point)
    return [
        Group(
            dict(zip(axes, labels, strict=True)),
            len(points),
            tuple(found[point.digest] for point in points if point.digest in found),
        )
        for labels, points in members.items()
    ]


def csv_text(sweep: Sweep, found: Mapping[str, Facts], folder: Path) -> str:
    """Return one line per finished point, for other programs: every number by its key.

    What only local models have (``local_mean``, a distance) is that before the final merge.

    Args:
        sweep: The sweep.
        found: What is known of each finished point, by its digest.
        folder: Folder of the sweep.
    """
    keys = list(dict.fromkeys(key for facts in found.values() for key in facts.values))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*sweep.axes, "run", "metric", *keys])
    for point in sweep.points:
        facts = found.get(point.digest)
        if facts is not None:
            numbers = [facts.values.get(key) for key in keys]
            writer.writerow(
                [*point.labels.values(), point.folder(folder).name, facts.metric, *numbers]
            )
    return buffer.getvalue()
