"""What every engine does with a run: describes it, records it, sums it up."""

from __future__ import annotations

import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import ceil
from types import FrameType
from typing import Any

from decentral import network
from decentral.blame import attribute
from decentral.config import Config, foreign_parts
from decentral.errors import (
    Bug,
    ConfigError,
    Interrupted,
    RunError,
    shell_word,
    visible,
    write_trace,
)
from decentral.limits import check_threads, is_json
from decentral.loop.cost import Memory, measure_compute, thread_count
from decentral.loop.measure import plan_evaluations
from decentral.loop.preparing import prepare
from decentral.loop.rounds import log_interval
from decentral.loop.setup import Setup, resolve_config
from decentral.loop.trained import generate, refuse_other_base
from decentral.metrics.base import declared_records
from decentral.mixing.summary import describe_mixing
from decentral.records import (
    BYTES,
    PACE,
    PLACE,
    RELATIVE,
    WALL,
    Records,
    is_own,
    records_of,
)
from decentral.run.checkpoint import Saved, has_checkpoint, restoring
from decentral.run.digests import identity, seal
from decentral.run.folder import RESULT, RunFolder, environment
from decentral.run.trackers import Trackers
from decentral.trust import record

#: Shows a record of metrics to whoever watches.
Watch = Callable[[dict[str, Any]], None]

#: Checkpoints of one run when ``checkpoint_every`` is auto.
CHECKPOINTS = 10
#: Events that happen again when a run goes on from a checkpoint.
REPEATED = ("merge", "nonfinite", "stopped", "timeline", "finished")

#: Where records stand before the first step.
START = {"metrics.jsonl": 0, "events.jsonl": 0}


def warn(text: str) -> None:
    """Tell whoever runs this what they should know while it goes on."""
    print(visible(text), file=sys.stderr)


class EngineRun(ABC):
    """A run: prepared, then begun or gone on with in a folder, then trained to its
    end.
    """

    #: How rows are computed, and why, in words.
    compute_reason: str
    #: What a run in this process takes; None where workers hold the rows.
    memory: Memory | None = None
    #: Whether rows are computed together: ``vmap`` or ``loop``.
    replicas: str
    #: What is known of the numbers in its records.
    records: Records
    #: How a command that goes on with the run begins.
    starter = "decentral"
    #: Whether several runs of this process can train side by side.
    several = False
    #: What asks for a stop; None: Ctrl-C and SIGTERM.
    stopping: threading.Event | None = None

    def __init__(self, config: Config) -> None:
        """Prepare a run; nothing is written before ``begin`` or ``go_on``."""
        # Only where this machine computes: another one's cores say nothing here.
        if config.engine.address is None:
            check_threads(config.threads)
        # Measured before workers start, so that all simulate with the same seconds.
        self.setup = measure_compute(prepare(config))
        self.evaluation = plan_evaluations(self.setup)
        self.records = records_of(declared_records(config.metrics))
        self.threads = thread_count(self.setup)
        # Before anything runs, for the mistakes of a schedule that show only late
        # in a run.
        self.expected_bytes = expected_bytes(self.setup)
        self.resumed, self.elapsed_s, self.began_s = False, 0.0, 0.0
        self.evaluations: dict[str, dict[str, Any]] = {}
        #: At which step a callback has stopped the run, and why.
        self.stopped: dict[str, Any] | None = None
        self.say: Callable[[str], None] = warn
        self.trackers = Trackers(config.track, lambda text: self.say(text))

    @property
    @abstractmethod
    def step(self) -> int:
        """The step that is done, as far as this process knows."""

    @abstractmethod
    def train(self, watch: Watch) -> dict[str, Any]:
        """Train to the end and return the summary."""

    @abstractmethod
    def restore(self, saved: Saved) -> None:
        """Stand where a checkpoint was taken, with the nodes that were live then."""

    def close(self) -> None:
        """Let go of what the engine holds; a run that is trained to its end does so
        itself.
        """
        return

    @property
    def place(self) -> str:
        """Where the workers run, in words; empty for one in this process."""
        return ""

    def begin(self, folder: RunFolder) -> None:
        """Record a new run in a folder, or again one that ended before its first
        checkpoint.
        """
        self.folder = folder
        if folder.is_begun:
            self.say(
                f"run folder {folder.path}: its run ended before the first checkpoint; "
                "it begins again at step 0."
            )
            self.cut(START)
        self._describe()
        self._identify()

    def go_on(self, folder: RunFolder, saved: Saved) -> None:
        """Continue a run from a checkpoint; what was logged after it is cut off."""
        self.folder = folder
        for problem in saved.passed_over:
            self.say(f"checkpoint {problem}; the run goes on from step {saved.step:,}.")
        refuse_other_base(self.setup, saved)
        with restoring(saved.step):
            self.restore(saved)
            self.cut(saved.counters["offsets"])
            self.resumed, self.elapsed_s = True, saved.counters["elapsed_s"]
        self.stopped = saved.counters.get("callbacks", {}).get("stopped")
        self._identify()
        stated, env = saved.identity.get("described"), folder.path / "env.json"
        if (stated and folder.digests(stated) != stated) or not is_json(env):
            self._write_description()  # damaged, and known

    def _identify(self) -> None:
        """Know the run again: by what makes it, and its code as what its user runs."""
        settings = self.settings
        frozen = self.setup.layout.frozen_digest()
        self.folder.identity = identity(settings, self.setup.config.past, frozen)
        if problem := record(settings):
            self.say(problem)

    def cut(self, offsets: Mapping[str, int]) -> None:
        """Cut the records back to a ``position``; of the events, those that will
        come again.
        """
        self.folder.truncate("metrics.jsonl", offsets["metrics.jsonl"])
        self.folder.forget("events.jsonl", offsets["events.jsonl"], REPEATED)
        records = self.folder.rows("metrics.jsonl", key="phase")
        # The records that the summary is made of, as far as they are not cut off: the
        # run does not write them again.
        self.evaluations = {record["phase"]: record for record in records}

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration."""
        return resolve_config(
            self.setup,
            replicas=self.replicas,
            eval_every=self.evaluation.every,
            eval_samples=self.evaluation.samples,
            log_every=log_interval(self.setup),
            checkpoint_every=checkpoint_interval(self.setup.config),
            threads=self.threads,
            # The folder is where it lies, and may be moved: what is in it must not
            # say another place.
            out=None,
        )

    def _describe(self) -> None:
        """Write everything about the run that is known before its first step."""
        setup, folder = self.setup, self.folder
        folder.write_config(self.settings)
        self._write_description()
        for note in setup.notes:
            self.announce("note", {"step": 0, "text": note})

    def _write_description(self) -> None:
        """Write where the run is, and what is known of metrics, topology and data."""
        setup, folder = self.setup, self.folder
        here = environment(str(setup.device), self.threads, folder.path)
        folder.write_json("env.json", here)
        folder.write_json("records.json", self.records.plain())
        planner = setup.planner
        folder.write_json(
            "topology.json", describe_mixing(planner.mixer) if planner else None
        )
        classes = setup.task.classes
        counts = setup.counts.tolist()
        folder.write_json(
            "data.json", {"classes": classes and list(classes), "counts": counts}
        )

    def run(self, watch: Watch) -> dict[str, Any]:
        """Train to the end and return the summary; a stop signal saves a checkpoint
        first.

        Raises RunError, which names the run folder, whatever goes wrong from here
        on.
        """
        with self.folder:
            self.announce("resume" if self.resumed else "start", {"step": self.step})
            # A resumed run goes on counting from what its checkpoint says.
            self.began_s = time.perf_counter() - self.elapsed_s
            self.trackers.begin(self.folder.path, self.settings, self.step)
            try:
                return self.train(watch)
            except Interrupted:
                raise
            except (Exception, SystemExit) as error:
                found = self._explain_end(error)
                if found is error:
                    raise
                raise found from error
            finally:
                self.trackers.close()

    def _explain_end(self, error: Exception | SystemExit) -> BaseException:
        """Say what has ended the run, whose it is, and where the run is.

        A fault of ours leaves its traceback in the run folder. Nobody is told to
        resume: what went wrong would go wrong again.
        """
        found, path = attribute(error, foreign_parts(self.setup.config)), self.folder.path
        if isinstance(found, Bug):
            return write_trace(found, path)
        if not isinstance(found, ConfigError | RunError):
            return found
        # Some messages name a file of the folder already.
        text = str(found)
        return RunError(text if str(path) in text else f"{text} Run folder: {path}.")

    def record(self, record: dict[str, Any], watch: Watch) -> None:
        """Log a record of metrics."""
        self.elapsed_s = time.perf_counter() - self.began_s
        record[WALL.key] = round(self.elapsed_s, 4)
        record[PACE.key] = round(record["step"] / max(self.elapsed_s, 1e-9), 3)
        reference = self.setup.all_reduce_bytes
        record[RELATIVE.key] = record[BYTES.key] / reference if reference else 0.0
        if "phase" in record:
            self.evaluations[record["phase"]] = record
        self.folder.append("metrics.jsonl", record)
        self.trackers.record(record)
        watch(record)

    def announce(self, event: str, details: dict[str, Any]) -> None:
        """Log an event; ``details`` hold its ``step``."""
        self.folder.event(event, **details)
        # The only event that a user has to be told at once: the run ends earlier
        # than asked.
        if event == "stopped":
            self.stopped = details
            steps = self.setup.config.steps
            self.say(
                f"stopped at step {details['step']} of {steps}: {details['reason']}."
            )

    def position(self) -> dict[str, Any]:
        """Return what a checkpoint must know to ``rewind`` to now."""
        self.elapsed_s = time.perf_counter() - self.began_s
        # Records first: no power cut takes lines that a checkpoint counts on.
        stamps = {name: self.folder.stamp(name) for name in START}
        lengths, found = ({k: one[i] for k, one in stamps.items()} for i in (0, 1))
        return {"elapsed_s": self.elapsed_s, "offsets": lengths, "stamps": found}

    def interruption(self) -> Interrupted:
        """Return what a user who stops a run is told."""
        again = f"{self.starter} resume {shell_word(self.folder.path)}"
        if has_checkpoint(self.folder.path):
            said = f"at step {self.step}; everything is saved. Go on with `{again}`."
        else:
            said = f"before anything was saved. `{again}` begins again."
        return Interrupted(f"interrupted {said}")

    def conclude(self) -> dict[str, Any]:
        """Write the summary of a finished run, with digests, and return it without."""
        self.announce("finished", {"step": self.step})
        summary = self.summary() | generate(self.setup, self.folder.path)
        digests = {"digests": self.folder.digests(RESULT)}
        self.folder.write_json("summary.json", seal(summary | digests))
        return summary

    def summary(self) -> dict[str, Any]:
        """Return what the run ended with, by the keys of its records.

        ``final`` and ``before_merge`` hold what metrics measured, ``counters`` the
        loop's own quantities at the end.
        """
        final, counters = _split(self.evaluations["final"])
        before, _ = _split(
            self.evaluations.get("before_merge", self.evaluations["final"])
        )
        config, samples = self.setup.config, counters["samples"]
        return {
            "run": str(self.folder.path),
            "config": str(self.folder.path / "config.yaml"),
            "status": "finished",
            "steps": self.stopped["step"] if self.stopped else config.steps,
            **({"stopped": self.stopped["reason"]} if self.stopped else {}),
            "nodes": config.nodes,
            "samples": {"per_node": samples, "all_nodes": samples * self.setup.drawn},
            "final": final,
            "before_merge": before,
            "counters": counters,
            "model": {"parameters": self.setup.layout.parameter_count},
        }


def checkpoint_interval(config: Config) -> int:
    """Return the steps between two checkpoints."""
    every = config.checkpoint_every
    return max(1, ceil(config.steps / CHECKPOINTS)) if every == "auto" else every


def _split(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what metrics found in a record, and the loop's own quantities."""
    measured = {key: value for key, value in record.items() if not is_own(key)}
    return measured, {
        key: record[key] for key in record if is_own(key) and key not in PLACE
    }


def expected_bytes(setup: Setup) -> float | None:
    """Return the logical bytes to expect, None where the run itself decides; asks the
    schedule about the whole run, so that its mistakes show before the first step.
    """
    planner = setup.planner
    if planner is None:
        return float(setup.all_reduce_bytes)
    # Who finds the time to send what is seen only when it happens.
    if planner.schedule.closed_loop or setup.runs_in == "events":
        return None
    return network.expected_bytes(planner, setup.size)


@contextmanager
def close_on_error(run: EngineRun) -> Generator[None]:
    """Close a run that fails before it trains."""
    try:
        yield
    except BaseException:
        run.close()
        raise


@contextmanager
def stop_signals(given: threading.Event | None = None) -> Generator[threading.Event]:
    """Let Ctrl-C or SIGTERM ask for a stop at the next step, a second one at once;
    whoever has ``given`` an event has seen to that.
    """
    stopping = given or threading.Event()
    # Python takes signal handlers in its main thread only.
    if given or threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(number: int, frame: FrameType | None) -> None:
        # Asked twice: whoever is in a hurry does not wait for a checkpoint.
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    kept = {
        number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopping
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
