"""Bad nodes: who they are, and what becomes of what they send or learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from decentral import rng
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.exchange.codec.base import RngContext, TensorLayout
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, build
from decentral.schedules.phases import Phase
from decentral.schedules.progress import Progress
from decentral.tasks.base import Task
from decentral.topology.labels import NodeId, NodeLabels
from decentral.traits import AttackTraits, traits_of


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

    def among(self, hosted: Sequence[NodeId]) -> list[int]:
        """Return the places of bad nodes among hosted ones."""
        return [place for place, node in enumerate(hosted) if node in self.nodes]

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
