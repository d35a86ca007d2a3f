"""Faults: what goes wrong in a run, and when: pure functions of (seed,
communication step).

Some strike workers on Ray (``kill``, ``hang``, ``stall``; see `Fault`). The
plug-ins strike what is simulated, on every engine alike. Their functions say what
is struck in one step, and the trait ``strikes`` what that is:

- ``nodes``: ``(ids, step, seed) -> unavailable`` [n]. Nobody receives from such a
  node, nor it from others; it trains on alone. A global merge goes on without it,
  but the one that ends a run waits for all.
- ``links``: ``(low, high, step, seed) -> down`` [links], of the ends of links. Both
  ends know.
- ``messages``: ``(receivers, senders, step, seed) -> lost`` [links]. The sender
  does not know; the receiver keeps its own row for what it misses. With ``both``
  set, both directions are lost together, and symmetric weights stay doubly
  stochastic. Global merges repeat what is lost.

Messages that are lost were sent, and are counted; what is known to be down is not
even tried. A setting ``share`` is the share of communication steps in which a rule
strikes; of one without it, what to expect is what it says of each step.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError, unknown
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, build, names
from decentral.schedules.phases import START, STOP, Phase
from decentral.schedules.progress import Progress
from decentral.spec import parse_spec
from decentral.topology.labels import NodeLabels
from decentral.traits import FaultTraits, traits_of
from decentral.units import Point

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def common(*, start: Point = START, stop: Point = STOP) -> None:
    """Settings of every fault of the network.

    Args:
        start: From when on it may strike.
        stop: Until when.
    """


def assume_traits(function: Any) -> dict[str, str]:
    """Return what a function without a decorator strikes, by the parameters it has."""
    asked = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
    ]
    if asked[:2] in (["low", "high"], ["receivers", "senders"]):
        return {"strikes": "links" if asked[0] == "low" else "messages"}
    return {"strikes": "nodes"} if len(asked) == 3 else {}


@dataclass(frozen=True)
class Faults:
    """What may go wrong between nodes in a simulation; draws are keyed by the
    nodes' ids.
    """

    rules: tuple[ConfiguredPlugin, ...] = ()
    seed: int = 0

    def strikes(self, what: str) -> list[tuple[ConfiguredPlugin, int]]:
        """Return the rules that strike nodes, links or messages, each with a seed
        of its own.
        """
        return [
            # By its place in the list: two faults of one kind strike independently.
            (rule, rng.key(self.seed, f"fault/{index}") >> 1)
            for index, rule in enumerate(self.rules)
            if traits_of(rule, FaultTraits).strikes == what
        ]

    @property
    def one_way(self) -> bool:
        """Whether some message may be lost while its answer arrives."""
        return any(
            not rule.settings.get("both", True) for rule, _ in self.strikes("messages")
        )

    def unavailable(self, nodes: Integers, progress: Progress) -> Bools:
        """Return which nodes [n] are unavailable in the communication step of
        ``progress``.
        """
        found = np.zeros(len(nodes), bool)
        for rule, seed in self.strikes("nodes"):
            if _on(rule, progress):
                found |= _strikes(rule, nodes, progress.communication_step, seed)
        return found

    def down(self, receivers: Integers, senders: Integers, progress: Progress) -> Bools:
        """Return which links [l] are down, between ids.

        Args:
            receivers: Receiving nodes, [l].
            senders: Sending nodes, [l].
            progress: How far the run is.
        """
        return self._collect_strikes("links", receivers, senders, progress)

    def lost(self, receivers: Integers, senders: Integers, progress: Progress) -> Bools:
        """Return which messages [l] are lost.

        Args:
            receivers: Receiving nodes, [l].
            senders: Sending nodes, [l].
            progress: How far the run is.
        """
        return self._collect_strikes("messages", receivers, senders, progress)

    def _collect_strikes(
        self, what: str, ends: Integers, others: Integers, progress: Progress
    ) -> Bools:
        found = np.zeros(len(ends), bool)
        low, high = np.minimum(ends, others), np.maximum(ends, others)
        for rule, seed in self.strikes(what):
            if not _on(rule, progress):
                continue
            # The same pair for both directions gives the same draw: a link is down
            # both ways.
            way = (ends, others) if not rule.settings.get("both", True) else (low, high)
            found |= _strikes(rule, *way, progress.communication_step, seed)
        return found

    # --- expectations -------------------------------------------------------------

    def presence(self, nodes: Integers, progress: Progress) -> Floats:
        """Return the chance that each node [n] is there."""
        found = np.ones(len(nodes))
        for rule, seed in self.strikes("nodes"):
            # A rule of the user's says whom it strikes and not how often: what it
            # does in this step is taken for its chance.
            if "share" not in rule.settings:
                step = progress.communication_step
                found[_strikes(rule, nodes, step, seed) & _on(rule, progress)] = 0
                continue
            named = rule.settings.get("nodes")
            struck = (
                np.isin(nodes, named) if named is not None else np.ones(len(nodes), bool)
            )
            # Rules strike independently, so that chances of being there multiply.
            found[struck] *= 1 - rule.settings["share"] * _on(rule, progress)
        return found

    def standing(
        self, receivers: Integers, senders: Integers, progress: Progress
    ) -> Floats:
        """Return the chance that each link [l] is not down, between ids.

        Args:
            receivers: Receiving nodes, [l].
            senders: Sending nodes, [l].
            progress: How far the run is.
        """
        found = np.ones(len(receivers))
        low, high = np.minimum(receivers, senders), np.maximum(receivers, senders)
        for rule, seed in self.strikes("links"):
            if not _on(rule, progress):
                continue
            if "share" in rule.settings:
                found *= 1 - rule.settings["share"]
            else:
                step = progress.communication_step
                found[_strikes(rule, low, high, step, seed)] = 0
        return found

    @cached_property
    def any(self) -> bool:
        """Whether anything may go wrong."""
        return bool(self.rules)


def _strikes(rule: ConfiguredPlugin, first: Integers, *rest: Any) -> Bools:
    """Return whom a rule strikes, if it says so of each."""
    found = rule(first, *rest)
    if (
        not isinstance(found, np.ndarray)
        or found.shape != first.shape
        or found.dtype != bool
    ):
        expected = (
            f"an array of {len(first)} times true or false, one for each it was given"
        )
        raise wrong(rule, describe(found), expected)
    return found


def _on(rule: ConfiguredPlugin, progress: Progress) -> bool:
    """Whether a rule may strike now; the last communication step belongs to the
    run.
    """
    stop = rule.common["stop"]
    # The end of a run is no stop: the communication step behind its last step would
    # be spared.
    over = stop != STOP and progress.reached(stop)
    return progress.reached(rule.common["start"]) and not over


# --- reading ----------------------------------------------------------------------


def worker_faults(texts: Iterable[str | ConfiguredPlugin]) -> list[Fault]:
    """Return the faults among ``texts`` that strike workers."""
    return [
        Fault.parse(text)
        for text in texts
        if isinstance(text, str) and _fault_name(text) in KINDS
    ]


def network_faults(
    texts: Iterable[str | ConfiguredPlugin], nodes: NodeLabels, steps: int, seed: int
) -> Faults:
    """Return the faults among ``texts`` that are simulated; raises ConfigError for
    mistakes.

    Args:
        texts: Faults as the configuration has them.
        nodes: The nodes, and what the topology calls them.
        steps: Length of the run.
        seed: Seed of the run.
    """
    simulated = (
        one
        for one in texts
        if isinstance(one, ConfiguredPlugin) or _fault_name(one) not in KINDS
    )
    built = [build("fault", one) for one in simulated]
    rules = [_resolve_labels(rule, nodes) for rule in built]
    for rule in rules:
        Phase(rule.common["start"], rule.common["stop"]).check(
            f"faults: {rule.name}", steps
        )
        _try(rule)
    return Faults(tuple(rules), seed)


def _resolve_labels(rule: ConfiguredPlugin, nodes: NodeLabels) -> ConfiguredPlugin:
    """Return a rule whose nodes are numbers, be they given by label."""
    named = rule.settings.get("nodes")
    if named is None:
        return rule
    numbers = nodes.numbers(f"faults: {rule.name}", named)
    return replace(rule, settings={**rule.settings, "nodes": numbers})


def _try(rule: ConfiguredPlugin) -> None:
    """Let a rule strike once, so that its mistakes show before anything runs."""
    # The smallest call in which a wrong signature, type or shape shows.
    one = np.zeros(1, np.int64)
    nodes = traits_of(rule, FaultTraits).strikes == "nodes"
    ends: tuple[Integers, ...] = (one,) if nodes else (one, one)
    _strikes(rule, *ends, 0, 0)


def _fault_name(text: str) -> str:
    name = parse_spec(text, "faults").name
    if name not in KINDS and ".py:" not in name and name not in names("fault"):
        raise unknown("fault", name, [*KINDS, *names("fault")])
    return name


# --- failures of workers, to rehearse ---------------------------------------------

#: What can happen, in words.
KINDS = {
    "kill": "the worker's process is killed at once",
    "hang": "the process stops answering, without dying",
    "stall": "the step never ends, though the process still answers",
}


@dataclass(frozen=True)
class Fault:
    """One failure: ``kind`` happens to ``worker`` before it takes step ``step`` +
    1.
    """

    kind: str
    worker: int
    step: int

    @staticmethod
    def parse(text: str) -> Fault:
        """Read ``kill(worker=1, step=50)``; raises ConfigError.

        >>> Fault.parse("hang(worker=0, step=7)")
        Fault(kind='hang', worker=0, step=7)
        """
        spec = parse_spec(text, "faults")
        given = {
            **dict(zip(("worker", "step"), spec.args, strict=False)),
            **spec.settings,
        }
        # By type, since True is an int too, and ``step=true`` a slip.
        whole = all(type(v) is int and v >= 0 for v in given.values())
        if given.keys() != {"worker", "step"} or not whole:
            raise ConfigError(
                f"faults: cannot read {text!r}; write {spec.name}(worker=1, step=50), "
                "both whole numbers from 0 on."
            )
        return Fault(spec.name, given["worker"], given["step"])

    def inject(self) -> None:
        """Strike this process."""
        # Only the step ends here: threads that answer go on. SIGSTOP stops these
        # too, and the process is still there for its host.
        if self.kind == "stall":
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL if self.kind == "kill" else signal.SIGSTOP)


def remaining(faults: Sequence[Fault], struck: Sequence[int]) -> list[Fault]:
    """Return the faults that are still to come: the first of every worker struck
    was injected.
    """
    ordered = sorted(faults, key=lambda fault: fault.step)
    injected = [next((f for f in ordered if f.worker == rank), None) for rank in struck]
    if not struck:
        injected = ordered[:1]
    return [fault for fault in ordered if fault not in injected]


def due_faults(
    texts: Iterable[str | ConfiguredPlugin], losses: Iterable[Sequence[int]]
) -> list[Fault]:
    """Return the faults that strike workers and were not injected yet.

    Args:
        texts: Faults as the configuration has them.
        losses: The workers of every loss that the run has recorded.
    """
    found = worker_faults(texts)
    for struck in losses:
        found = remaining(found, struck)
    return found
