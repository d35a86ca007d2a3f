"""Write claims.md, and against-the-papers.md, from the outcomes in a folder:
``python docs/make_claims.py claims``.

Outcomes are kept in docs/claims, so that one claim that is tried again changes its own
lines only.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decentral.claims.long import ARMS
from decentral.report.facts import duration_text
from decentral.report.studies import (
    measured_text,
    met_text,
    others,
    over_text,
    spoken,
)

PAGE = Path(__file__).with_name("claims.md")
KEPT = Path(__file__).with_name("claims")
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
        f"[{called(record)}](#{called(record)})",
        record["verdict"],
        ", ".join(map(str, record["seeds"])),
        duration_text(record["seconds"]),
        record["time"][:10],
        versions,
    ]
    return f"| {' | '.join(cells)} |"


def section(record: dict[str, Any]) -> Iterator[str]:
    """Yield what was expected of a claim and what was measured."""
    yield f"\n## {called(record)}\n"
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


def keep(folder: Path) -> None:
    """Keep what was found in a folder beside this page, without curves."""
    for path in sorted(folder.glob("*/outcome.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "error" in record:
            continue
        del record["panels"]
        KEPT.mkdir(exist_ok=True)
        text = json.dumps(record, indent=1, sort_keys=True)
        (KEPT / f"{called(record)}.json").write_text(text + "\n", encoding="utf-8")


def called(record: dict[str, Any]) -> str:
    """Return the name of a claim, with the size at which it was tried unless small."""
    size = record.get("size", "small")
    return spoken(record["claim"]) + ("" if size == "small" else f"-{size}")


def parts(page: str) -> dict[str, tuple[str, str]]:
    """Return line and section of every claim of a page that was written before."""
    before, *rest = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    sections = {text.split("\n")[0].removeprefix("## "): text.strip() for text in rest}
    lines = dict(re.findall(r"^(?=\| \[([^\]]+)\])(.*)$", before, flags=re.MULTILINE))
    return {name: (lines[name], "\n" + text) for name, text in sections.items()}


def not_run(known: set[str]) -> list[str]:
    """Return a line for every claim of the size long that nobody has tried."""
    names = (f"{spoken(name)}-long" for name in ARMS)
    return [f"| {name} | not run | | | | |" for name in names if name not in known]


def write(page: Path = PAGE, kept: Path = KEPT) -> None:
    """Write the page from what is kept, and from itself what is not."""
    found = parts(page.read_text(encoding="utf-8"))
    for path in sorted(kept.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[called(record)] = head(record), "\n".join(section(record))
    lines = [found[name][0] for name in sorted(found)] + not_run({*found})
    text = HEAD + "\n".join([*lines, *(found[name][1] for name in sorted(found))])
    page.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def main(folder: Path) -> None:
    """Keep what a folder holds, and write the pages that tell of claims."""
    keep(folder)
    write()
    sys.path.insert(0, str(PAGE.parent))
    make_papers = importlib.import_module("make_papers")
    make_papers.write()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
