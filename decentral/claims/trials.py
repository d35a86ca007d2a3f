"""Trying claims, seed by seed or several seeds at a time, and judging what they
gave.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any, Literal, cast

import torch

from decentral.blame import explain, reraise
from decentral.claims.base import Findings, Lab, verdict
from decentral.claims.long import long_claim
from decentral.errors import Interrupted, RunError
from decentral.plugins import Plugin, describe, wrong
from decentral.registry import ConfiguredPlugin, bind, build, find
from decentral.run.folder import RunFolder, environment, explain_disk_errors
from decentral.traits import ClaimTraits, traits_of
from decentral.units import time_text
from decentral.userfile import sources

#: What a claim that could not be finished gets instead of a verdict.
BROKEN = "could not be run"

Record = dict[str, Any]

#: What fits a core in minutes, a core in hours, and a GPU.
Size = Literal["small", "long", "gpu"]
#: Paired deviations of language models are of the order of what is looked for: fewer
#: seeds cannot tell.
SEEDS: Mapping[Size, tuple[int, ...]] = {
    "small": (0, 1, 2), "long": (0, 1, 2, 3, 4, 5), "gpu": (0, 1, 2)
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A claim to be tried: with which settings, over which seeds, in which folder."""

    rule: ConfiguredPlugin
    seeds: tuple[int, ...]
    folder: Path
    say: Callable[[str], None]
    device: str = "auto"
    size: Size = "small"

    @property
    def traits(self) -> ClaimTraits:
        """What the claim wrote down beforehand."""
        return traits_of(self.rule, ClaimTraits)

    def _prepare(self) -> None:
        with explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def _key(self) -> str:
        """What the findings of a seed depend on, beside the seed."""
        # A claim whose text has changed is another claim: what was found before
        # does not count.
        code = "".join(file.read_text(encoding="utf-8") for file in self._files())
        said = json.dumps([self.rule.spec(), code, self.device], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def _files(self) -> list[Path]:
        """Return the files that the claim is written in: a user's, with those
        beside it.
        """
        file = self.rule.plugin.origin.rpartition(":")[0]
        return (
            sources(Path(file))
            if file
            else [Path(inspect.getfile(self.rule.plugin.target))]
        )

    def read_findings(self, seed: int) -> Record | None:
        """Return what one seed gave, as found in the folder, or None."""
        file = self._file(seed)
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return record if record and record["key"] == self._key else None

    def _file(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}.json"

    def findings(self, seed: int) -> Record:
        """Return what one seed gives, as found in the folder or tried now."""
        if found := self.read_findings(seed):
            return found
        self._prepare()
        began = time.perf_counter()
        lab = Lab(self.folder, lambda text: self.say(f"seed {seed}: {text}"), self.device)
        found = self.rule(lab, seed)
        self._check(found)
        # What a try took in all, also where it found runs that an earlier one had
        # made.
        seconds = time.perf_counter() - began + lab.spared_s
        record = {"key": self._key, "seconds": seconds, **asdict(found)}
        RunFolder(self.folder).write_json(self._file(seed).name, record)
        return record

    def _check(self, found: Any) -> None:
        """Refuse what is no findings, or whose figures are none."""
        if not isinstance(found, Findings):
            raise wrong(self.rule, describe(found), "decentral.claims.Findings")
        figures = cast("Mapping[str, object]", found.figures)  # what a user's claim holds
        for name, value in figures.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise wrong(
                    self.rule, f"{describe(value)} for {name!r}", "a number per figure"
                )

    def outcome(self, findings: Callable[[int], Record] | None = None) -> Record:
        """Try the claim over all seeds and judge it; what goes wrong becomes part
        of the record.

        ``findings`` returns what a seed gives, where somebody else tries it.
        """
        self._prepare()
        try:
            judged = self._judge(
                [(findings or self.findings)(seed) for seed in self.seeds]
            )
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted(
                "interrupted; what is done is kept, and the same command goes on from there."
            ) from error
        except Exception as error:
            judged = {"verdict": BROKEN, "error": explain(error, self.folder)}
        record = {**self._describe(), **judged}
        RunFolder(self.folder).write_json("outcome.json", record)
        return record

    def _describe(self) -> Record:
        paragraph = self.rule.plugin.help.partition("\n\n")[0]
        found = environment(self.device, threads=0)
        return {
            "claim": self.rule.name,
            "size": self.size,
            "title": " ".join(paragraph.replace("``", "").split()),
            "says": self.traits.says,
            "paper": self.traits.paper,
            "settings": self.rule.spec(),
            "seeds": list(self.seeds),
            "time": time_text(),
            "versions": {
                name: found["versions"][name] for name in ("decentral", "torch")
            },
        }

    def _judge(self, per_seed: Sequence[Record]) -> Record:
        figures = {
            name: [record["figures"][name] for record in per_seed]
            for name in per_seed[0]["figures"]
        }
        expected = self.traits.expect
        return {
            "verdict": verdict(expected, figures),
            "seconds": sum(record["seconds"] for record in per_seed),
            "figures": figures,
            "expected": [
                {
                    "figure": one.figure,
                    "means": one.means,
                    "bound": one.bound,
                    "over": one.over,
                    "role": one.role,
                    "met": one.judge(figures.get(one.figure, [])),
                }
                for one in expected
            ],
            "panels": join_panels([record["panels"] for record in per_seed]),
        }


def join_panels(per_seed: Sequence[Sequence[Record]]) -> list[Record]:
    """Put the panels of several seeds together: curves of one label side by side."""
    panels: list[Record] = []
    for same in zip(*per_seed, strict=True):
        curves: dict[str, Record] = {}
        for curve in (curve for panel in same for curve in panel["curves"]):
            found = curves.setdefault(
                curve["label"], {"label": curve["label"], "lines": []}
            )
            found["lines"].append([curve["x"], curve["y"]])
        panels.append({**same[0], "curves": list(curves.values())})
    return panels


def claim_of(name: str, size: str) -> Plugin:
    """Return a claim as it is tried at a size, which decides what its settings are.

    Args:
        name: Name of the claim.
        size: The size.
    """
    return long_claim(name) if size == "long" else find("claim", name)


def trial(
    name: str,
    out: Path,
    say: Callable[[str], None],
    *,
    seeds: tuple[int, ...] | None = None,
    size: Size = "small",
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Trial:
    """Prepare to try a claim by name; every mistake is a ConfigError before
    anything runs.

    Args:
        name: Name of the claim.
        out: Folder of all claims.
        say: Is told what is being done.
        seeds: The seeds; none: as many as the size needs.
        size: The size, which has a folder of its own.
        device: The device.
        settings: Settings of the claim.
    """
    found = claim_of(name, size)
    sizes = traits_of(found, ClaimTraits).full if size == "gpu" else {}
    rule = bind(found, {**sizes, **(settings or {})})
    folder = Path(found.name).name + ("" if size == "small" else f"-{size}")
    return Trial(rule, seeds or SEEDS[size], out / folder, say, device, size)


# --- several seeds at a time ------------------------------------------------------

#: Seconds that runs have after Ctrl-C, which reaches every process of a terminal,
#: to be saved.
SAVING_S = 3.0


class Ahead:
    """Tries ``jobs`` seeds at a time, in the order of the claims, and shares the
    cores among them.

    Every seed that is not found in its folder has a process, which ends with it, or
    with this one. Leaving the block drops what has not begun; leaving it by an
    error ends what has, too.
    """

    def __init__(self, trials: Sequence[Trial], jobs: int) -> None:
        """Begin."""
        self.pool = ThreadPoolExecutor(jobs)
        # Who was there before is not ours to end.
        self.others = set(multiprocessing.active_children())
        # Threads of several processes on the same cores would wait for each other.
        threads = max(1, torch.get_num_threads() // jobs)
        self.tried: dict[tuple[Path, int], Future[Record]] = {
            (one.folder, seed): self.pool.submit(_apart, threads, one, seed)
            for one in trials
            for seed in one.seeds
            # What is in the folder needs no process.
            if one.read_findings(seed) is None
        }

    def __enter__(self) -> Ahead:
        """Go on."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Drop what has not begun, and wait for what has, after an error only for a
        moment.
        """
        self.pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is None:
            return
        wait(self.tried.values(), timeout=SAVING_S)
        while wait(self.tried.values(), timeout=0.1).not_done:
            for child in {*multiprocessing.active_children()} - self.others:
                child.kill()

    def findings(self, one: Trial) -> Callable[[int], Record]:
        """Return what waits for the findings of a seed of one claim."""

        def found(seed: int) -> Record:
            try:
                tried = self.tried.get((one.folder, seed))
                return tried.result() if tried else one.findings(seed)
            except BrokenProcessPool as error:
                raise RunError(
                    "a process that tried a seed was ended from outside, perhaps for want of "
                    "memory; go on with fewer at a time, --jobs 1."
                ) from error

        return found


def _apart(threads: int, one: Trial, seed: int) -> Record:
    """Try one seed in a process of its own, whose end harms no other."""
    # Not by fork: a child with threads of torch from its parent may hang.
    context = multiprocessing.get_context("spawn")
    # A pool for each seed: in a common one a process that is killed breaks all
    # others.
    with ProcessPoolExecutor(1, context, _settle, (threads,)) as process:
        given = (one.rule.spec(), seed, one.folder, one.say, one.device)
        return process.submit(_findings, *given).result()


def _settle(threads: int) -> None:
    """Prepare a process for one seed; where nothing has to be saved, Ctrl-C just
    ends it.
    """
    end_with_parent()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _findings(
    spec: dict[str, Any], seed: int, folder: Path, say: Callable[[str], None], device: str
) -> Record:
    try:
        return Trial(build("claim", spec), (seed,), folder, say, device).findings(seed)
    except Exception as error:  # a traceback does not travel
        reraise(error)


# --- children ---------------------------------------------------------------------

# The option of Linux's prctl (prctl.h) by which the kernel signals the end of the
# parent.
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let this child of ``multiprocessing`` end as soon as its parent has, killed
    or not.

    A thread waits for the pipe whose other end only the parent holds: that works on
    every system, also when the parent has ended before. But it needs the
    interpreter, which a long call into C may keep to itself; so Linux is asked to
    kill, too. That alone would not do: it is told of the end of the *thread* that
    started the child, exists on Linux only, and comes too late for a parent that is
    gone already. Nothing is saved: runs bear a kill at any moment.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only children that multiprocessing has started can tell"
    watch = threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True)
    watch.start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(sentinel: int) -> None:
    wait_for_any([sentinel])
    os._exit(1)
