"""The in-process engine: one worker hosts every node."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import ceil
from types import FrameType
from typing import Any

from safetensors.torch import save as save_tensors

from decentral.config import Config
from decentral.engines.process import settle
from decentral.errors import ConfigError, RunError
from decentral.exchange import LocalExchange
from decentral.loop import log_interval, train
from decentral.loop.block import Block
from decentral.loop.cost import thread_count
from decentral.loop.measure import Evaluator, evaluation_interval
from decentral.loop.setup import Setup, prepare, resolved
from decentral.network import expected_messages
from decentral.run.checkpoint import Checkpoint, save_checkpoint
from decentral.run.environment import environment
from decentral.run.folder import RunFolder

#: Shows a row of metrics to whoever watches.
Watch = Callable[[dict[str, Any]], None]

#: Checkpoints of one run when ``checkpoint_every`` is auto.
CHECKPOINTS = 10


class LocalRun:
    """A run in this process: trains, records, checkpoints."""

    def __init__(self, config: Config) -> None:
        """Prepare a run; nothing is written before ``begin`` or ``go_on``."""
        self.setup = prepare(config)
        self.threads = thread_count(self.setup)
        settle(self.threads)
        self.expected_bytes = expected_bytes(self.setup)
        exchange = LocalExchange(config.nodes, ordered=config.mixing == "ordered")
        self.block = Block(self.setup, exchange, self._announce)
        self.evaluator = Evaluator(self.block)
        self.resumed, self.elapsed_s = False, 0.0
        self.evaluations: dict[str, dict[str, Any]] = {}

    def begin(self, folder: RunFolder) -> None:
        """Record a new run in an empty folder."""
        self.folder = folder
        self._describe()

    def go_on(self, folder: RunFolder, checkpoint: Checkpoint) -> None:
        """Continue a run from a checkpoint; what was logged after it is cut off."""
        self.folder = folder
        self.block.restore(checkpoint)
        for name, length in checkpoint.counters["offsets"].items():
            folder.truncate(name, length)
        self.resumed, self.elapsed_s = True, checkpoint.counters["elapsed_s"]
        rows = folder.rows("metrics.jsonl") if self.block.step == self.setup.config.steps else []
        self.evaluations = {row["phase"]: row for row in rows if "phase" in row}

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration."""
        return resolved(
            self.setup,
            replicas=self.block.compute.kind,
            eval_every=evaluation_interval(self.setup),
            log_every=log_interval(self.setup),
            checkpoint_every=self.checkpoint_every,
            threads=self.threads,
            out=None,
        )

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints."""
        config = self.setup.config
        every = config.checkpoint_every
        return max(1, ceil(config.steps / CHECKPOINTS)) if every == "auto" else every

    def _describe(self) -> None:
        """Write everything about the run that is known before its first step."""
        setup, folder = self.setup, self.folder
        folder.write_config(self.settings)
        folder.write_json("env.json", environment(str(setup.device), self.threads))
        folder.write_json("topology.json", _topology(setup))
        classes = setup.task.classes
        counts = setup.counts.tolist()
        folder.write_json("data.json", {"classes": classes and list(classes), "counts": counts})

    def run(self, watch: Watch) -> dict[str, Any]:
        """Train to the end and return the summary; a stop signal saves a checkpoint first.

        Raises RunError, which names the run folder, whatever goes wrong from here on.
        """
        try:
            return self._run(watch)
        except (ConfigError, RunError) as error:
            raise RunError(self._located(error)) from error

    def _located(self, error: ConfigError | RunError) -> str:
        """Say where the run is, and how to go on with it when the mistake is mended."""
        path = self.folder.path
        if str(path) in str(error):
            return str(error)
        saved = any((path / "checkpoints").glob("step-*"))
        # A run that diverged would diverge again: its settings are part of it.
        remedy = isinstance(error, ConfigError) and saved
        return f"{error} Run folder: {path}" + (
            f"; `decentral resume {path}` goes on from the last checkpoint." if remedy else "."
        )

    def _run(self, watch: Watch) -> dict[str, Any]:
        self._announce("resume" if self.resumed else "start", {"step": self.block.step})
        began = time.perf_counter() - self.elapsed_s
        with stop_signals() as stopping:
            for row in train(self.block, self.evaluator, self.resumed):
                self.elapsed_s = time.perf_counter() - began
                self._record(row, watch)
                if stopping.is_set() and self.block.step < self.setup.config.steps:
                    self._interrupted()
                if self.block.step % self.checkpoint_every == 0 and "phase" not in row:
                    self.save()
        return self._finish()

    def _record(self, row: dict[str, Any], watch: Watch) -> None:
        if len(row) == 1:
            return
        row["time/wall_s"] = round(self.elapsed_s, 4)
        row["time/steps_per_s"] = round(row["step"] / max(self.elapsed_s, 1e-9), 3)
        reference = self.setup.all_reduce_bytes
        row["comm/relative"] = row["comm/bytes"] / reference if reference else 0.0
        if "phase" in row:
            self.evaluations[row["phase"]] = row
        self.folder.append("metrics.jsonl", row)
        watch(row)

    def _announce(self, event: str, details: dict[str, Any]) -> None:
        self.folder.event(event, details.pop("step"), **details)

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        checkpoint = self.block.checkpoint()
        checkpoint.counters |= {
            "elapsed_s": self.elapsed_s,
            "offsets": {n: self.folder.offset(n) for n in ("metrics.jsonl", "events.jsonl")},
        }
        save_checkpoint(self.folder, checkpoint, self.setup.config.keep_checkpoints)

    def _interrupted(self) -> None:
        self._announce("interrupted", {"step": self.block.step})
        self.save()
        raise RunError(
            f"interrupted at step {self.block.step}; everything is saved. "
            f"Go on with `decentral resume {self.folder.path}`."
        )

    def _finish(self) -> dict[str, Any]:
        self.folder.write("merged.safetensors", save_tensors(self.evaluator.merged_state()))
        self.save()
        self._announce("finished", {"step": self.block.step})
        summary = self.summary()
        self.folder.write_json("summary.json", summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """Return the run's headline numbers, nested, with stable keys."""
        final = self.evaluations["final"]
        before = self.evaluations.get("before_merge", final)
        config = self.setup.config
        return {
            "run": str(self.folder.path),
            "config": str(self.folder.path / "config.yaml"),
            "status": "finished",
            "steps": config.steps,
            "nodes": config.nodes,
            "final": _headline(final),
            "before_merge": _headline(before),
            "comm": {
                "bytes": final["comm/bytes"],
                "wire_bytes": final["comm/wire_bytes"],
                "messages": final["comm/messages"],
                "rounds": final["comm/rounds"],
                "relative": final["comm/relative"],
            },
            "time": {
                "wall_s": final["time/wall_s"],
                "steps_per_s": final["time/steps_per_s"],
            },
            "model": {"parameters": self.setup.layout.parameter_count},
        }


_HEADLINE = {
    "accuracy_local_mean": "accuracy/local_mean",
    "accuracy_local_min": "accuracy/local_min",
    "accuracy_local_max": "accuracy/local_max",
    "accuracy_merged": "accuracy/merged",
    "loss_local_mean": "loss/local_mean",
    "loss_merged": "loss/merged",
    "consensus_distance": "consensus/distance",
}


def _headline(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(key) for name, key in _HEADLINE.items()}


def _topology(setup: Setup) -> dict[str, Any] | None:
    if setup.conversation is None:
        return None
    topology = setup.conversation.mixer.topology
    graph = topology.union()
    return {
        "n": topology.nodes,
        "directed": graph.is_directed(),
        "time_varying": topology.time_varying,
        "links": [[int(a), int(b)] for a, b in graph.edges()],
    }


def expected_bytes(setup: Setup) -> float | None:
    """Return the logical bytes to expect, None where the schedule reacts to the run.

    Asks the schedule about the whole run, so that its mistakes show before the first step.
    """
    conversation = setup.conversation
    if conversation is None:
        return float(setup.all_reduce_bytes)
    if conversation.schedule.closed_loop:
        return None
    return expected_messages(conversation) * setup.row_bytes


@contextmanager
def stop_signals() -> Generator[threading.Event]:
    """Let Ctrl-C or SIGTERM ask for a stop at the next step; a second one stops at once."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
