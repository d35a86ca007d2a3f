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

from decentral.claims.long import ARMS, WITH_EXPERTS
from decentral.claims.trials import claim_of
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

Written by `python docs/make_claims.py FOLDER` from what `decentral reproduce --out FOLDER` found;
claims that are not in the folder stay as they are. Expectations were written down before the runs
shown here, but for what is said below. The first that is evidence is the heart of a claim: the
claim holds in part with the heart and at least half of the rest. Limits hold for every seed unless
mean, median or interval is said: over the 95 % interval of Student's t, a claim holds where the
interval lies beyond the limit, does not reproduce where it excludes what the paper found, and is
not separable between. A condition that is not met (nothing to gain, a best rate at the edge of
those tried) leaves nothing to judge; what is so by design judges nothing. Each claim has a
setting that takes its method away; its heart is then lost (`pytest -m claims`).

Sections of 2026-11-25, and those of the asynchronous claims, show the expectations of their day;
since then hearts have got intervals, and some were moved: that of change-captioning from side by
side to subtraction, that of gradpower from a closed form to a language model, that of
decentralized-can-be-faster from a loop of numpy to unlike data in runs, that of single-merge from 5
points to 1, with data drawn as its authors do. Times of 2026-11-28 are of one thread of a machine
whose two cores up to twenty processes shared. The least by which local models must look poorer in
single-merge, a point, was set after a look at three seeds. The rates that gradpower and blockwise
try were moved down by a factor of 2 after three seeds of 400 steps whose best lay at their lower
edge: gradpower is shown so; rates by block were 0.044 ± 0.037 better there, which is no answer.
Change-captioning is shown at a third of its size; at that of 2026-11-25 the module was 18.7 points
(15.6 to 23.6) below subtraction.
After first tries one was withdrawn (single-merge: what independent first models change), and those
of moe-expressivity that go by the median were given that, with inputs of another scale; label-noise
was cut from 40,000 to 24,000 steps, of which noise that is turned on and off has three pairs of
windows: with five, the last falls were 7 to 26 times what followed, where 20 were expected. The
network of late-switch-batch was given label noise after a look without: there the loss after late
switching, 0.091, is that of small batches throughout; that it catches up is no longer asked of it,
as there is no gap before the switch. The generalised head of induction-heads was given p = 14 after
a look at p = 8, where the error of its first layer hid that of the neurons (their power was 1.66 to
1.71). That the loss of late-sam grows exponentially was first asked of the loss without label
smoothing, whose rise is within its noise; it is asked of the smoothed loss now, which is what is
trained, and that was not run yet. That open lines leave open what they would decide, and do not
count as lost, was set after decentralized-can-be-faster had ended with two of them. What to expect
of asynchronous-stragglers and wait-free-steps was known from a prototype, not from these runs;
their times and that of divshare-slow-links are of a machine that did much else, as are those of
2026-11-28. What slow links add to fragments, the last line of that claim, was written after a look
at the two above it.

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
    known = claim_of(record["claim"], record.get("size", "small")).settings
    settings = {
        key: value
        for key, value in record.get("settings", {}).items()
        if key in known and value != known[key].default
    }
    if settings:
        given = ", ".join(f"{key}={value}" for key, value in settings.items())
        yield f"Measured with `{given}`.\n"
    yield "| expected | figure | limit | measured | met |\n|---|---|---|--:|---|"
    for one in record["expected"]:
        over = over_text(one).removeprefix("every seed").removeprefix(", ")
        limit = one["bound"] + (f", {over}" if over else "")
        values = record["figures"].get(one["figure"], [])
        measured = measured_text(values, one["over"]) if values else "not run"
        said = met_text(one) if values else ""
        met = {"no": "**no**", "open": "**open**"}.get(said, said)
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
    """Return the name of a claim, with the size at which it was tried unless small, and
    the model of that size unless dense.
    """
    size = record.get("size", "small")
    model = record.get("settings", {}).get("model", "gpt") if size == "long" else "gpt"
    return spoken(record["claim"]) + "".join(
        f"-{spoken(part)}" for part in (size, model) if part not in ("small", "gpt")
    )


def parts(page: str) -> dict[str, tuple[str, str]]:
    """Return line and section of every claim of a page that was written before."""
    before, *rest = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    sections = {text.split("\n")[0].removeprefix("## "): text.strip() for text in rest}
    lines = dict(re.findall(r"^(?=\| \[([^\]]+)\])(.*)$", before, flags=re.MULTILINE))
    return {name: (lines[name], "\n" + text) for name, text in sections.items()}


def not_run(known: set[str]) -> list[str]:
    """Return a line for every claim of the size long that nobody has tried."""
    names = [f"{spoken(name)}-long" for name in ARMS]
    names += [f"{spoken(name)}-long-qwen2-moe" for name in WITH_EXPERTS]
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
