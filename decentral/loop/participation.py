"""The nodes that take part in a round, where a run draws some of them: their gradients
and updates, while the rows of the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from decentral.algorithms.base import time_of
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.loop.pipeline import Pipeline
from decentral.network.planning import RoundPlanner
from decentral.registry import ConfiguredPlugin
from decentral.sampling import Sampler
from decentral.schedules.action import Merge, Participation
from decentral.schedules.progress import Progress
from decentral.topology.labels import NodeId, RowIndex
from decentral.traits import AlgorithmTraits, traits_of


class Participants:
    """The hosted rows that are drawn, anew for every communication step.

    Their gradients are taken side by side, on copies; samples are those that a node
    would see at the same step if all took part.
    """

    def __init__(self, planner: RoundPlanner, whole: Pipeline) -> None:
        """Serve the block of the pipeline ``whole``."""
        self.planner, self.whole = planner, whole
        self.losses = whole.rows.new_zeros(len(whole.hosted))
        #: Hosted rows that are drawn, and the ids of all nodes that are.
        self.rows: list[RowIndex] = []
        self.ids = np.zeros(0, np.int64)
        self._drawn_for = -1  # index of a communication step

    def draw(self, progress: Progress) -> None:
        """Let those take part who are drawn for the step that follows ``progress``."""
        index = progress.step // progress.local_steps
        if index == self._drawn_for:
            return
        drawn = self.planner.drawn(progress.step + 1)
        assert drawn is not None
        self._drawn_for, self.ids = index, drawn
        places = {int(node): row for row, node in enumerate(self.whole.hosted)}
        self.rows = [RowIndex(places[i]) for i in drawn.tolist() if i in places]
        if self.rows:
            self._take_places(progress)

    def _take_places(self, progress: Progress) -> None:
        """Make room for the rows that are drawn, and prepare their samples."""
        whole, setup = self.whole, self.whole.setup
        # Even: a lone or odd row would get other bits than it has beside another one,
        # and who is beside it depends on the workers.
        padded = [*self.rows, self.rows[-1]] if len(self.rows) % 2 else self.rows
        self._index = torch.tensor(padded, device=whole.rows.device)
        samples, ends = setup.timeline.samples, progress.step + progress.local_steps
        ahead = samples[min(ends, len(samples) - 1)] - progress.samples
        hosted = [whole.hosted[row] for row in padded]
        sampler = Sampler(setup.train, setup.plan, hosted, setup.config.seed, ahead)
        rows = whole.rows.new_zeros(len(padded), whole.rows.shape[1])
        integers = {k: value[self._index] for k, value in whole.integers.items()}
        chosen = whole.compute, whole.reason
        self._pipeline = Pipeline(
            setup, rows, integers, torch.zeros_like(rows), sampler, hosted, chosen
        )

    def gradient(self, progress: Progress, size: int) -> Tensor:
        """Write the gradient of every row that is drawn; return the last losses [n].

        Args:
            progress: How far the run is.
            size: Samples of the batch of a node.
        """
        self.draw(progress)
        if not self.rows:
            return self.losses
        whole, part, count = self.whole, self._pipeline, len(self.rows)
        torch.index_select(whole.rows, 0, self._index, out=part.rows)
        for name, value in part.integers.items():
            value.copy_(whole.integers[name][self._index])
        self.losses[self.rows] = part.gradient(progress, size)[:count]
        whole.grads[self.rows] = part.grads[:count]
        # What the forward pass has made of buffers is theirs, too.
        buffers = slice(part.setup.layout.trainable, None)
        whole.rows[self.rows, buffers] = part.rows[:count, buffers]
        for name, value in part.integers.items():
            whole.integers[name][self.rows] = value[:count]
        return self.losses

    def among(self, healthy: list[NodeId]) -> list[NodeId]:
        """Return those of ``healthy`` nodes that are drawn."""
        drawn = {*self.ids.tolist()}
        return [node for node in healthy if node in drawn]


# --- checked before ---------------------------------------------------------------


def participation_of(config: Config) -> Participation | None:
    """Return what draws the nodes of a round, None where all take part."""
    amount, nodes = config.participation, config.nodes
    if amount > 1 and (amount > nodes or amount != int(amount)):
        raise ConfigError(
            f"participation = {amount:g}: it must be a share of the nodes, up to 1, or a whole "
            f"number of them, from 2 to {nodes}."
        )
    found = Participation(float(amount), config.seed)
    return None if found.count(nodes) == nodes else found


def drawn_nodes(config: Config) -> int:
    """Return how many nodes take part in a round."""
    found = participation_of(config)
    return config.nodes if found is None else found.count(config.nodes)


def with_participation(
    config: Config, parts: Mapping[str, ConfiguredPlugin], planner: RoundPlanner | None
) -> RoundPlanner | None:
    """Return a planner that draws who takes part as a run asks for it; raises
    ConfigError where nodes may not be left out of a round.

    Args:
        config: The configuration.
        parts: Plug-ins of the run, by kind.
        planner: What is sent when; none: nothing is planned.
    """
    participation = participation_of(config)
    if participation is None:
        return planner
    algorithm, sam = parts["algorithm"], config.sam
    partial = traits_of(algorithm, AlgorithmTraits).partial
    in_rounds = planner is not None and time_of(algorithm) == "rounds"
    if planner is None or partial == "nothing" or not in_rounds:
        raise ConfigError(
            f"participation: algorithm {algorithm.name!r} is not defined where nodes rest; "
            "use local_sgd, diloco, slowmo or dsgd."
        )
    schedule = planner.schedule
    if schedule.closed_loop or schedule.own_feedback:
        raise ConfigError(
            f"participation: communication {schedule.rule.name!r} asks all nodes how they do; "
            "use communication merges, constant or late."
        )
    if partial == "merges" and not _only_merges(planner):
        raise ConfigError(
            f"participation: algorithm {algorithm.name!r} needs global merges where nodes rest; "
            "use communication merges."
        )
    restarts = sam is not None and sam.momentum == "restart"
    for holds, remedy in (
        (config.mix_state, "mix_state mixes what nodes have after as many steps; leave it out"),
        (restarts, "SAM restarts the momentum of all nodes at once; use sam.momentum=keep"),
    ):  # fmt: skip
        if holds:
            raise ConfigError(f"participation: {remedy}.")
    return replace(planner, participation=participation)


def _only_merges(planner: RoundPlanner) -> bool:
    """Whether nothing but global merges is ever sent."""
    actions = (action for _, action in planner.decisions())
    return all(isinstance(action, Merge) or action == 0.0 for action in actions)
