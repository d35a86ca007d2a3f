"""The command that asks whether the science holds: reproduce."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from decentral.claims.base import FAILS, HOLDS, OPEN, PARTLY, UNFIT
from decentral.claims.long import ARMS
from decentral.claims.trials import BROKEN, SEEDS, Ahead, Record, Size, Trial, trial
from decentral.cli.options import SHOWN, Shown
from decentral.cli.output import console_of, print_json
from decentral.cli.words import QUIET, facts, make_columns
from decentral.config import parse_assignments
from decentral.engines.ranks import refuse_ranks
from decentral.errors import ConfigError, RunError
from decentral.registry import members, unknown
from decentral.report.facts import duration_text
from decentral.report.studies import (
    measured_text,
    met_text,
    others,
    spoken,
    summary_text,
    write_claims,
)
from decentral.run.lock import WriterLock
from decentral.traits import ClaimTraits, traits_of

_COLOURS = {
    HOLDS: "green", PARTLY: "yellow", OPEN: "yellow", UNFIT: "yellow", FAILS: "red",
    BROKEN: "bold red",
}  # fmt: skip
_MET = {"yes": Text("met", "green"), "no": Text("not met", "red")}


def reproduce(
    words: Sequence[str],
    *,
    every: bool,
    out: str,
    seeds: str | None,
    size: str,
    device: str | None,
    jobs: int | None,
) -> None:
    """Try claims, print what was found, and write a page about all that were ever
    tried there.

    Args:
        words: Names of claims, and settings.
        every: Whether all are tried.
        out: Folder of runs and results.
        seeds: Seeds, with commas between; none: as the size needs.
        size: The size by name.
        device: The device.
        jobs: Seeds at a time; none: one per core.
    """
    console, asked = console_of(), SHOWN.get()
    claims = [word for word in words if "=" not in word]
    if not claims and not every:
        _list(console)
        return
    refuse_ranks()
    at = _size(size, jobs)
    settings = parse_assignments([word for word in words if "=" in word])
    if settings and (every or len(claims) > 1):
        raise ConfigError(
            "reproduce: settings belong to one claim; name just one, or leave them."
        )
    # Dashes in the path of a plug-in file are part of the path.
    chosen = [name if ".py:" in name else name.replace("-", "_") for name in claims]
    if every:
        chosen = _all_claims(console, at)
    trials = [
        trial(
            name, Path(out), partial(_aside, spoken(name), asked),
            seeds=None if seeds is None else _seeds(seeds), size=at, device=device or "auto",
            settings=settings,
        )
        for name in chosen
    ]  # fmt: skip
    began = time.perf_counter()
    # One command at a time: two would write the same runs and the same page.
    with WriterLock(Path(out), "claims folder"):
        many = 1 if at == "long" else jobs or _jobs(device or "auto")
        records = _all_tried(console, trials, many)
        page = write_claims(records, Path(out) / "claims.html")
    console.print()
    took = ("time", duration_text(time.perf_counter() - began))
    link = Text(str(page), f"bold link {page.resolve().as_uri()}")
    console.print(facts([("in all", summary_text(records)), took, ("page", link)]))
    print_json(records)
    # Raised last: the page and the verdicts of all other claims stand by then.
    if broken := [record["claim"] for record in records if record["verdict"] == BROKEN]:
        raise RunError(
            f"{', '.join(map(spoken, broken))} could not be run; the page says why."
        )


def _all_claims(console: Console, size: Size) -> list[str]:
    """Return the claims that have a size, and say which could not be loaded."""
    usable, broken = members("claim")
    for reason in broken.values():
        console.print(Text(f"left out: {reason}", QUIET))
    return [found.name for found in usable if size != "long" or found.name in ARMS]


def _size(text: str, jobs: int | None) -> Size:
    """Return the size of that name; seeds of the long one share runs."""
    if text not in SEEDS:
        raise unknown("size", text, SEEDS)
    if text == "long" and (jobs or 1) > 1:
        raise ConfigError(
            "--jobs: seeds of the size long share the runs that tune their rates, and are tried "
            "one after the other; leave it out."
        )
    return cast("Size", text)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"seeds: cannot read {text!r}; write different whole numbers from 0 on, as 0,1,2."
        )
    return seeds


def _list(console: Console) -> None:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    usable, broken = members("claim")
    for found in usable:
        grid.add_row(spoken(found.name), traits_of(found, ClaimTraits).says)
    for name, reason in broken.items():
        grid.add_row(spoken(name), Text(reason, QUIET))
    console.print(grid)
    print_json({spoken(one.name): traits_of(one, ClaimTraits).says for one in usable})
    console.print()
    console.print(Text("`decentral reproduce NAME` tries one, `--all` every one.", QUIET))


def _aside(claim: str, asked: Shown, text: str) -> None:
    """Say what is being done, in whatever process it is done.

    Args:
        claim: The claim.
        asked: What the command was asked to show.
        text: What is being done.
    """
    console_of(asked.json, asked.quiet).print(Text(f"  {claim}, {text}", QUIET))


def _jobs(device: str) -> int:
    """Return how many seeds to try at a time: one per core, but one where there is
    one GPU.
    """
    from decentral.loop.preparing import device_of

    # What this process may use, which under taskset or in a container may be less
    # than the machine has; not every system can say.
    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    return cores or 1 if device_of(device).type == "cpu" else 1


def _all_tried(
    console: Console, trials: Sequence[Trial], jobs: int
) -> list[dict[str, Any]]:
    """Return the records of all claims, of which several seeds are tried at a time."""
    jobs = min(jobs, sum(len(one.seeds) for one in trials))
    if jobs == 1:
        return [_run_trial(console, one) for one in trials]
    with Ahead(trials, jobs) as ahead:
        return [_run_trial(console, one, ahead.findings(one)) for one in trials]


def _run_trial(
    console: Console, one: Trial, findings: Callable[[int], Record] | None = None
) -> dict[str, Any]:
    name = spoken(one.rule.name)
    console.print(Text(name, "bold"))
    console.print(_indent("claim", one.traits.says))
    record = one.outcome(findings)
    if "error" not in record:
        console.print(Padding(_table(record), (0, 0, 0, 2)))
    took = f", {duration_text(record['seconds'])}" if "seconds" in record else ""
    verdict = Text.assemble(
        (record["verdict"], _COLOURS[record["verdict"]]), (took, QUIET)
    )
    console.print(_indent("verdict", verdict))
    if "error" in record:
        console.print(_indent("why", record["error"]))
    console.print()
    return record


def _indent(label: str, text: Text | str) -> Padding:
    return Padding(facts([(label, text)]), (0, 0, 0, 2))


def _table(record: dict[str, Any]) -> Table:
    table = make_columns(gap=2)
    table.add_column("figure", overflow="fold")
    for head in ("expected", "measured"):
        table.add_column(head, justify="right")
    table.add_column("")
    for one in record["expected"]:
        measured = measured_text(record["figures"].get(one["figure"], []), one["over"])
        met = _MET.get(met_text(one), Text(met_text(one), "yellow"))
        table.add_row(one["figure"], one["bound"], measured, met)
    for name, values in others(record).items():
        table.add_row(name, "", measured_text(values), "")
    return table
