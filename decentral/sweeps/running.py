"""Running points, from their beginning, their last checkpoint or not at all, and
what came out.
"""

from __future__ import annotations

import csv
import gc
import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from decentral import api
from decentral.blame import explain
from decentral.engines.base import EngineRun, Watch, stop_signals
from decentral.engines.local import engine_of
from decentral.errors import ConfigError, Interrupted, exit_place
from decentral.report.compare import Group, write_sweep
from decentral.report.facts import Facts, facts_of
from decentral.report.reader import read_run
from decentral.run.folder import RunFolder
from decentral.run.lock import NAME as LOCK
from decentral.run.lock import WriterLock
from decentral.sweeps.points import Point, Sweep

#: Seconds between two looks at whether the user wants to stop.
_LOOK_S = 0.2


@dataclass(frozen=True)
class Outcome:
    """What became of a point: done now, done before, or failed with ``reason``."""

    state: Literal["done", "before", "failed"]
    reason: str = ""
    took_s: float = 0.0


#: Is told the places of the points that run now.
Running = Callable[[Sequence[int]], None]


def run_points(
    points: Sequence[Point], folder: Path, running: Running
) -> Iterator[tuple[int, Outcome]]:
    """Run all points that are not finished; yield the place and the outcome of each
    that ends.

    They run in turn or, on Ray, side by side as far as the cluster has room. Raises
    Interrupted when the user stops the sweep.

    Args:
        points: The points.
        folder: Folder of the sweep.
        running: How they are run.
    """
    todo = {
        place: point for place, point in enumerate(points) if not point.finished(folder)
    }
    for place in range(len(points)):
        if place not in todo:
            _clear_lock(points[place].folder(folder))
            yield place, Outcome("before")
    # Points may differ in anything but where they run, which the first one tells of
    # all.
    if len(todo) > 1 and engine_of(next(iter(todo.values())).config).several:
        yield from _side_by_side(todo, folder, running)
        return
    for place, point in todo.items():
        running([place])
        yield place, run_point(point, folder, _ignore_record)


def _clear_lock(folder: Path) -> None:
    """Remove the lock of a run that was killed in its last moment, when all was
    written; one that somebody has stays.
    """
    if (folder / LOCK).exists():
        with suppress(ConfigError):
            WriterLock(folder).release()


def run_point(point: Point, folder: Path, watch: Watch) -> Outcome:
    """Run a point in its folder unless it is finished; a failure is an outcome, not
    an error.

    Raises Interrupted when the user stops the run.

    Args:
        point: The point.
        folder: Folder of the sweep.
        watch: Is told what happens.
    """
    if point.finished(folder):
        return Outcome("before")
    return _outcome(lambda: api.begin_run(point.config, point.folder(folder)).run(watch))


def _ignore_record(record: Mapping[str, Any]) -> None:
    """Look away: a sweep shows what runs end with."""


def _outcome(work: Callable[[], Any]) -> Outcome:
    """Do the work; whatever it fails with, the other points go on."""
    began_s = time.perf_counter()
    try:
        work()
    except Interrupted:
        raise
    except SystemExit as error:
        return Outcome("failed", exit_place(error), time.perf_counter() - began_s)
    except Exception as error:
        return Outcome("failed", explain(error), time.perf_counter() - began_s)
    finally:
        # Models of the last point go before the next one asks how much memory is
        # free.
        gc.collect()
    return Outcome("done", took_s=time.perf_counter() - began_s)


class _SideBySide:
    """Runs on one cluster: prepared one after the other, each trained once it has
    room.
    """

    def __init__(
        self,
        folder: Path,
        running: Running,
        pool: Executor,
        allocator: Any,
        stopping: threading.Event,
    ) -> None:
        """Take what all points share.

        Args:
            folder: Where their run folders are.
            running: Told which points train.
            pool: The threads they train in.
            allocator: Says what part of the cluster each may use.
            stopping: Set to stop them all.
        """
        self.folder, self.running, self.pool = folder, running, pool
        self.allocator, self.stopping = allocator, stopping
        self.busy: dict[Future[Outcome], tuple[int, EngineRun]] = {}

    def train(self, todo: Mapping[int, Point]) -> Iterator[tuple[int, Outcome]]:
        """Yield place and outcome of each point that ends; raises Interrupted after
        a stop.
        """
        for place, point in todo.items():
            made = self._prepare(point)
            if isinstance(made, Outcome):
                yield place, made
                continue
            # Signals reach the main thread only, and runs train in others.
            made.stopping = self.stopping
            # Prepared already, so that the next one starts as soon as a share is
            # free.
            while not (self.stopping.is_set() or self.allocator.allocate(made)):
                yield from self._wait_ended()
            if self.stopping.is_set():
                break
            self.busy[self.pool.submit(_outcome, partial(made.run, _ignore_record))] = (
                place,
                made,
            )
            self._show()
        while self.busy:
            yield from self._wait_ended()
        if self.stopping.is_set():
            raise Interrupted("stopped")

    def _prepare(self, point: Point) -> EngineRun | Outcome:
        made: list[EngineRun] = []
        begun = _outcome(
            lambda: made.append(api.begin_run(point.config, point.folder(self.folder)))
        )
        return made[0] if made else begun

    def _wait_ended(self) -> Iterator[tuple[int, Outcome]]:
        """Wait a moment for runs to end; what was stopped has no outcome."""
        for future in wait(self.busy, _LOOK_S, FIRST_COMPLETED).done:
            place, run = self.busy.pop(future)
            self.allocator.release(run)
            if not isinstance(future.exception(), Interrupted):
                self._show()
                yield place, future.result()

    def _show(self) -> None:
        self.running([place for place, _ in self.busy.values()])


def _side_by_side(
    todo: Mapping[int, Point], folder: Path, running: Running
) -> Iterator[tuple[int, Outcome]]:
    from decentral.engines.ray.allocator import Allocator

    allocator = Allocator(next(iter(todo.values())).config)
    with (
        closing(allocator),
        ThreadPoolExecutor(len(todo)) as pool,
        stop_signals() as stopping,
    ):
        try:
            yield from _SideBySide(folder, running, pool, allocator, stopping).train(todo)
        finally:
            stopping.set()  # Nothing trains on when this ends early.


# --- what came out ----------------------------------------------------------------

SEED = "seed"


def read_measured(sweep: Sweep, folder: Path) -> dict[str, Facts]:
    """Read what the finished points of a sweep gave, by their digests."""
    done = {
        point.digest: point.folder(folder)
        for point in sweep.points
        if point.finished(folder)
    }
    return {digest: facts_of(read_run(path)) for digest, path in done.items()}


def group_points(sweep: Sweep, found: Mapping[str, Facts]) -> list[Group]:
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


def write_results(
    sweep: Sweep, folder: Path, failures: Sequence[str]
) -> tuple[list[Group], Path]:
    """Write the page, the picture and the table of a sweep; return its groups and
    the page's path.

    Args:
        sweep: The sweep.
        folder: Its folder.
        failures: What failed, in words.
    """
    found = read_measured(sweep, folder)
    groups = group_points(sweep, found)
    page = write_sweep(folder, groups, failures)
    RunFolder(folder).write("results.csv", csv_text(sweep, found, folder))
    return groups, page


def csv_text(sweep: Sweep, found: Mapping[str, Facts], folder: Path) -> str:
    """Return one line per finished point, for other programs: every number by its
    key.

    What only local models have (``local_mean``, a distance) is that before the
    final merge.

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
                [
                    *point.labels.values(),
                    point.folder(folder).name,
                    facts.metric,
                    *numbers,
                ]
            )
    return buffer.getvalue()
