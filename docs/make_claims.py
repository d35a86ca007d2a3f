"""Write claims.md from the outcomes in a folder: ``python docs/make_claims.py claims``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decentral.report.facts import duration_text
from decentral.report.studies import (
    measured_text,
    met_text,
    others,
    over_text,
    spoken,
)

PAGE = Path(__file__).with_name("claims.md")
HEAD = """# Claims, as measured

Written by `python docs/make_claims.py FOLDER` from what `decentral reproduce --out FOLDER` found.
Expectations were written down before the runs shown here; the first of a claim is its heart.
After first tries one was withdrawn (single-merge: what independent first models change), and those
of moe-expressivity that go by the median were given that, with inputs of another scale; label-noise
was cut from 40,000 to 24,000 steps, of which noise that is turned on and off has three pairs of
windows: with five, the last falls were 7 to 26 times what followed, where 20 were expected. The
network of late-switch-batch was given label noise after a look without: there the loss after late
switching, 0.091, is that of small batches throughout. What to expect of the network of
decentralized-can-be-faster was written after a look at one seed. What to expect of
asynchronous-stragglers and wait-free-steps was known from a prototype, not from these runs; their
times and that of divshare-slow-links are of a machine that did much else. Limits
hold for every seed unless mean or median is said. All together, `decentral reproduce --all`, took
14 minutes on two cores, two seeds at a time; the times below are added up over the seeds.

| claim | verdict | seeds | time | date | versions |
|---|---|---|--:|---|---|
"""


def head(record: dict[str, Any]) -> str:
    """Return a claim's line in the table of verdicts."""
    versions = ", ".join(
        f"{name} {number}" for name, number in record["versions"].items()
    )
    cells = [
        f"[{spoken(record['claim'])}](#{spoken(record['claim'])})",
        record["verdict"],
        ", ".join(map(str, record["seeds"])),
        duration_text(record["seconds"]),
        record["time"][:10],
        versions,
    ]
    return f"| {' | '.join(cells)} |"


def section(record: dict[str, Any]) -> Iterator[str]:
    """Yield what was expected of a claim and what was measured."""
    yield f"\n## {spoken(record['claim'])}\n"
    yield f"{record['says']} ({record['paper']})\n"
    yield f"{record['title']}\n"
    yield "| expected | figure | limit | measured | met |\n|---|---|---|--:|---|"
    for one in record["expected"]:
        over = over_text(one).removeprefix("every seed").removeprefix(", ")
        limit = one["bound"] + (f", {over}" if over else "")
        measured = measured_text(record["figures"][one["figure"]], one["over"])
        met = {"no": "**no**", "open": "**open**"}.get(met_text(one), met_text(one))
        yield f"| {one['means']} | {one['figure']} | {limit} | {measured} | {met} |"
    for name, values in others(record).items():
        yield f"| | {name} | | {measured_text(values)} | |"


def main(folder: Path) -> None:
    """Write the page."""
    found = sorted(folder.glob("*/outcome.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    records = [record for record in records if "error" not in record]
    lines = [HEAD + "\n".join(map(head, records))]
    lines += [line for record in records for line in section(record)]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
