"""Trying several seeds of claims at a time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from decentral.claims._reproduce import Record, Trial
from decentral.engines.child import end_with_parent
from decentral.errors import RunError
from decentral.registry import build

#: Seconds that runs have after Ctrl-C, which reaches every process of a terminal, to be saved.
SAVING_S = 3.0


class Ahead:
    """Tries ``jobs`` seeds at a time, in the order of the claims, and shares the cores among them.

    Every seed that is not found in its folder has a process, which ends with it, or with this one.
    Leaving the block drops what has not begun; leaving it by an error ends what has, too.
    """

    def __init__(self, trials: Sequence[Trial], jobs: int) -> None:
        """Begin."""
        self.pool = ThreadPoolExecutor(jobs)
        self.others = set(multiprocessing.active_children())
        threads = max(1, torch.get_num_threads() // jobs)
        self.tried: dict[tuple[Path, int], Future[Record]] = {
            (one.folder, seed): self.pool.submit(_apart, threads, one, seed)
            for one in trials
            for seed in one.seeds
            if one.kept(seed) is None
        }

    def __enter__(self) -> Ahead:
        """Go on."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Drop what has not begun, and wait for what has, after an error only for a moment."""
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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _settle, (threads,)) as process:
        given = (one.rule.spec(), seed, one.folder, one.say, one.device)
        return process.submit(_findings, *given).result()


def _settle(threads: int) -> None:
    """Prepare a process for one seed; where nothing has to be saved, Ctrl-C just ends it."""
    end_with_parent()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _findings(
    spec: dict[str, Any], seed: int, folder: Path, say: Callable[[str], None], device: str
) -> Record:
    return Trial(build("claim", spec), (seed,), folder, say, device).findings(seed)
