"""Which nodes are healthy, noticed by their worker and agreed on before rows meet;
which are bad, and what becomes of what they send or learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.config import Config
from decentral.errors import ConfigError, RunError
from decentral.exchange.base import Exchange
from decentral.exchange.codec.base import RngContext, TensorLayout
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, build
from decentral.schedules.phases import Phase
from decentral.schedules.progress import Progress
from decentral.tasks.base import Task
from decentral.topology.labels import NodeId, NodeLabels, RowIndex
from decentral.traits import AttackTraits, traits_of

#: Tells the engine about something that happened: (event, details).
Announce = Callable[[str, dict[str, Any]], None]


class Health:
    """The quarantine of nodes whose numbers are not finite.

    A worker sees its own rows only. It keeps a suspected node to itself at once,
    and all workers agree on who is ``quarantined`` (ids) whenever they communicate,
    so that they draw the same mixing.
    """

    def __init__(
        self,
        exchange: Exchange,
        hosted: Sequence[NodeId],
        live: Sequence[NodeId],
        stop: bool,
        announce: Announce,
        users: str = "",
    ) -> None:
        """Begin with all nodes healthy.

        Args:
            exchange: What agrees with the other workers.
            hosted: The nodes of this worker.
            live: All nodes.
            stop: Whether the first node to fail ends the run.
            announce: What tells the engine.
            users: The parts of the run that are the user's own, for messages.
        """
        self.exchange, self.hosted, self.live = exchange, hosted, live
        self.stop, self.announce, self.users = stop, announce, users
        self.quarantined: frozenset[NodeId] = frozenset()
        self.suspected: dict[NodeId, int] = {}  # node: the step at which it was noticed

    @property
    def healthy(self) -> list[NodeId]:
        """The ids of all nodes that take part, as far as everybody knows."""
        return [node for node in self.live if node not in self.quarantined]

    def is_healthy(self, node: NodeId) -> bool:
        """Whether a hosted node takes part, as far as its worker knows."""
        return node not in self.quarantined and node not in self.suspected

    def update(self, rows: Tensor, step: int) -> bool:
        """Look at the hosted rows [n, P]; return whether other nodes take part from
        now on.

        All workers ask at the same time, since they agree.
        """
        finite = finite_rows(rows)
        found = not bool(finite.all()) and self.notice(finite, step)
        # ``agree`` first: all workers must come to it, whoever found something.
        return self.agree() or found

    def notice(self, finite: Tensor, step: int) -> bool:
        """Suspect the nodes of hosted rows [n] that are not all ``finite``; return
        whether there are new ones.
        """
        nonfinite = [self.hosted[int(i)] for i in torch.nonzero(~finite).flatten()]
        new = [node for node in nonfinite if self.is_healthy(node)]
        if new and self.stop:
            own = f" Of your own in this run: {self.users}." if self.users else ""
            raise RunError(
                f"node {min(new)} became NaN or infinite at step {step}; lower the learning rate, "
                f"set clip, or go on without such nodes by on_nonfinite=quarantine.{own}"
            )
        self.suspected |= dict.fromkeys(new, step)
        # One process knows all there is to know. A worker waits for the next
        # exchange: the others are not here, and ``agree`` needs all of them.
        return bool(new) and (len(self.hosted) < len(self.live) or self.agree())

    def agree(self) -> bool:
        """Let all workers know all suspected nodes; return whether there were any."""
        # The first such node has ended the run, so that a plain run pays for no
        # gather.
        if self.stop:
            return False
        # 0 says nothing was noticed: steps are counted from 1 here.
        noticed = torch.tensor([self.suspected.get(node, 0) for node in self.hosted])
        steps = self.exchange.gather(noticed).tolist()
        nonfinite = {
            node: step for node, step in zip(self.live, steps, strict=True) if step
        }
        self.suspected = {}
        self.quarantined |= nonfinite.keys()
        for step in sorted(set(nonfinite.values())):
            nodes = sorted(node for node in nonfinite if nonfinite[node] == step)
            self.announce("nonfinite", {"step": step, "nodes": nodes})
        if not self.healthy:
            raise RunError(
                f"every node became NaN or infinite by step {max(nonfinite.values())}."
            )
        return bool(nonfinite)


def finite_rows(block: Tensor) -> Tensor:
    """Return which rows [n] hold finite numbers only.

    A sum of finite terms is finite unless it overflows, and any other is not, so
    that looking at every number is hardly ever needed; it takes forty times longer.
    """
    finite = torch.isfinite(block.sum(1))
    return finite if bool(finite.all()) else torch.isfinite(block).all(1)


@dataclass(frozen=True)
class Attackers:
    """The bad nodes of a run, by id, and their attack; ``nodes`` is empty where all
    are good.
    """

    rule: ConfiguredPlugin | None = None
    nodes: frozenset[NodeId] = frozenset()

    def on(self, progress: Progress, data: bool = False) -> bool:
        """Whether what they send, or the ``data`` they learn from, is bad now."""
        if self.rule is None or traits_of(self.rule, AttackTraits).data != data:
            return False
        window = self.rule.common
        # the merge that ends a run belongs to it
        last = min(progress.step, progress.steps - 1)
        here = Progress(last, progress.steps, progress.samples, progress.samples_total)
        return Phase(window["start"], window["stop"]).on(here)

    @property
    def falsifies(self) -> bool:
        """Whether some nodes may send what is not their row."""
        return self.rule is not None and not traits_of(self.rule, AttackTraits).data

    def among(self, hosted: Sequence[NodeId]) -> list[RowIndex]:
        """Return the places of bad nodes among hosted ones."""
        return [RowIndex(i) for i, node in enumerate(hosted) if node in self.nodes]

    def falsify_rows(
        self, rows: Tensor, layout: TensorLayout, draw: RngContext
    ) -> Tensor:
        """Return what nodes send whose rows are ``rows`` [n, k]: the bad ones
        something else.

        Args:
            rows: Rows of the hosted nodes, [n, k].
            layout: How a row is laid out in tensors.
            draw: Random numbers keyed by node and round.
        """
        places = self.among(draw.nodes)
        if self.rule is None or not places:
            return rows
        # Ids, not places: what a node draws does not depend on which worker hosts
        # it.
        theirs = [draw.nodes[place] for place in places]
        sent, own = rows.clone(), rows[places]
        context = RngContext(draw.seed, draw.purpose, draw.round, theirs)
        # Bad nodes may well send NaN.
        sent[places] = _alike(self.rule, self.rule(own, layout, context), own)
        return sent

    def falsify_targets(
        self, targets: Tensor, hosted: Sequence[NodeId], classes: int
    ) -> Tensor:
        """Return the targets [n, B, ...] from which hosted nodes learn.

        Args:
            targets: Targets of the batch, [n, B, ...].
            hosted: The nodes.
            classes: Number of classes.
        """
        places = self.among(hosted)
        if self.rule is None or not places:
            return targets
        changed = targets.clone()
        found = _alike(self.rule, self.rule(targets[places], classes), targets[places])
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < classes:
            said = f"the classes {int(found.min())} to {int(found.max())}"
            raise wrong(self.rule, said, f"classes from 0 to {classes - 1}")
        changed[places] = found
        return changed


def _alike(rule: ConfiguredPlugin, found: Any, given: Tensor) -> Tensor:
    """Return what an attack makes of a tensor, if it is one of the same shape and
    type.
    """
    if (
        not isinstance(found, Tensor)
        or found.shape != given.shape
        or found.dtype != given.dtype
    ):
        said = f" of type {found.dtype}" if isinstance(found, Tensor) else ""
        expected = f"a tensor of shape {list(given.shape)} and type {given.dtype}"
        raise wrong(rule, describe(found) + said, expected)
    return found


NONE = Attackers()


def attackers(
    config: Config, task: Task, parts: dict[str, ConfiguredPlugin], nodes: NodeLabels
) -> Attackers:
    """Return the bad nodes that a configuration asks for; adds the attack to the
    parts.

    Args:
        config: The configuration.
        task: The task, for attacks on its targets.
        parts: Plug-ins of the run, by kind.
        nodes: The nodes, and what the topology calls them.
    """
    if config.attack in (None, "none"):
        return NONE
    rule = build("attack", config.attack)
    if named := rule.common["nodes"]:
        numbers = nodes.numbers("attack", named)
        rule = replace(rule, common={**rule.common, "nodes": numbers})
    parts["attack"] = rule
    if traits_of(rule, AttackTraits).data and not task.classes:
        raise ConfigError(
            f"attack {rule.name!r}: the targets of this task are not classes; "
            "use attack sign_flip, noise or constant."
        )
    found = Attackers(rule, _choose(config, rule.common))
    Phase(rule.common["start"], rule.common["stop"]).check("attack", config.steps)
    return found


def _choose(config: Config, asked: Any) -> frozenset[NodeId]:
    # Rounded down: no more bad nodes than were asked for.
    named, count = asked["nodes"], int(asked["share"] * config.nodes)
    if not named and not count:
        raise ConfigError(
            f"attack: no node of {config.nodes} is bad; write nodes=[3], or a share of at least "
            f"{1 / config.nodes:.2g}."
        )
    if named is not None and asked["share"]:
        raise ConfigError(
            "attack: nodes and share both say who is bad; give one of them."
        )
    if named is None:
        order = rng.permute(np.arange(count), config.nodes, config.seed, "attack/nodes")
        named = order.tolist()
    if len(set(named)) == config.nodes:
        raise ConfigError("attack: every node is bad; leave at least one good one.")
    return frozenset(named)
