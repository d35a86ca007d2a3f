"""Which sample a node sees: the k-th sample of node i is a function of (seed, i,
k).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from decentral import rng
from decentral.gradients.base import Batch
from decentral.tasks.base import Samples
from decentral.tasks.splits import group_by_label
from decentral.topology.labels import NodeId

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Indices drawn ahead in one vectorised call, over all hosted nodes.
_AHEAD = 1 << 16


@dataclass(frozen=True)
class Plan:
    """How a node's k-th sample is found.

    ``fixed``: node i holds ``members[i, :sizes[i]]`` and visits them in a new
    permutation every epoch, or with replacement where ``replacement[i]``.
    ``resample``: a class is drawn from ``mixture[i]``, then a sample among
    ``members[class, :sizes[class]]``.
    """

    members: Integers  # [rows, longest], padded
    sizes: Integers  # [rows]
    replacement: NDArray[np.bool_]  # [nodes]
    mixture: Floats | None = None  # [nodes, classes], cumulative


def plan_fixed(shards: list[Integers], replacement: str, batch: int) -> Plan:
    """Let nodes keep their shards; ``replacement`` is ``always``, ``never`` or
    ``auto``.

    ``auto`` samples with replacement where a shard is smaller than the first batch.
    """
    sizes = np.array([len(shard) for shard in shards])
    # A shard below the batch would give a step the same sample twice in any case.
    choices = {"always": sizes >= 0, "never": sizes < 0, "auto": sizes < batch}
    return Plan(_pad(shards), sizes, choices[replacement])


def resample_plan(labels: Integers, mixture: Floats) -> Plan:
    """Let every node draw a class by its column of ``mixture``, [classes, nodes],
    and then a sample of that class, of all there are.
    """
    groups = group_by_label(labels, len(mixture))
    sizes = np.array([len(group) for group in groups])
    cumulative = np.cumsum(mixture.T, axis=1)
    everywhere = np.ones(mixture.shape[1], dtype=bool)
    return Plan(_pad(groups), sizes, everywhere, cumulative)


def _pad(groups: list[Integers]) -> Integers:
    table = np.zeros((len(groups), max(1, *(len(g) for g in groups))), dtype=np.int64)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    return table


class Sampler:
    """Serves the batches of the hosted nodes; positions are prefix sums of the
    batch schedule.
    """

    def __init__(
        self,
        samples: Samples,
        plan: Plan,
        hosted: Sequence[NodeId],
        seed: int,
        most: int = _AHEAD,
    ) -> None:
        """Serve ``samples`` (already on the device) to the nodes ``hosted``.

        Args:
            samples: All training samples.
            plan: How a node's samples are found.
            hosted: The nodes.
            seed: Seed of the run.
            most: Samples of a node that may be drawn ahead.
        """
        self.samples, self.plan, self.hosted, self.seed = samples, plan, hosted, seed
        self._ahead = min(most, _AHEAD // max(1, len(hosted)))
        self._start = 0
        self._indices = self._keys = np.zeros((len(hosted), 0), dtype=np.int64)

    def batch(self, position: int, size: int) -> Batch:
        """Return samples ``position .. position + size - 1`` of every hosted node."""
        index = self.indices(position, size)
        begin = position - self._start
        return self.take(index, self._keys[:, begin : begin + size])

    def take(self, indices: Integers, keys: Integers) -> Batch:
        """Return samples by their indices [n, size], and the keys of their visits."""
        device = self.samples.device
        index = torch.from_numpy(indices).to(device)
        key = torch.from_numpy(keys).to(device)
        inputs, targets = self.samples.take(index, key)
        return Batch(inputs, targets, key)

    def indices(self, position: int, size: int) -> Integers:
        """Return the sample indices [n, size], drawing ahead of what is asked."""
        begin = position - self._start
        if begin < 0 or begin + size > self._indices.shape[1]:
            self._draw_ahead(position, max(size, self._ahead))
            begin = 0
        return self._indices[:, begin : begin + size]

    def _draw_ahead(self, position: int, count: int) -> None:
        nodes = np.array(self.hosted)[:, None]
        visit = np.arange(position, position + count)[None, :]
        self._start = position
        self._indices, self._keys = self.draw(nodes, visit)

    def draw(self, nodes: Integers, visit: Integers) -> tuple[Integers, Integers]:
        """Return which samples nodes [n, 1] see at their visits [n or 1, count],
        and the keys of these.
        """
        # torch has no unsigned 64-bit arithmetic: 63 bits fit its int64.
        keys = rng.bits(self.seed, "sample/key", nodes, visit) >> np.uint64(1)
        return self._draw(nodes, visit), keys.astype(np.int64)

    def _draw(self, nodes: Integers, visit: Integers) -> Integers:
        if self.plan.mixture is not None:
            return self._redrawn(nodes, visit)
        sizes = self.plan.sizes[nodes]
        # The permutation of an epoch is a function of its number, not kept
        # anywhere: a run resumes anywhere, and any worker can serve any node.
        place = rng.permute(
            visit % sizes, sizes, self.seed, "sample/epoch", nodes, visit // sizes
        )
        if self.plan.replacement[nodes].any():
            anywhere = rng.integers(sizes, self.seed, "sample/replaced", nodes, visit)
            place = np.where(self.plan.replacement[nodes], anywhere, place)
        return self.plan.members[nodes, place]

    def _redrawn(self, nodes: Integers, visit: Integers) -> Integers:
        assert self.plan.mixture is not None
        chance = rng.uniform(self.seed, "sample/class", nodes, visit)
        cumulative = self.plan.mixture[nodes[:, 0]]
        # Without the last bound, which rounding may leave below 1: the last class
        # takes the rest.
        label = (chance[:, :, None] >= cumulative[:, None, :-1]).sum(-1)
        sizes = self.plan.sizes[label]
        place = rng.integers(sizes, self.seed, "sample/redrawn", nodes, visit)
        return self.plan.members[label, place]


class OwnPace:
    """Serves batches to some of a sampler's nodes, each at a position of its own.

    The samples are those that the nodes see in lockstep, to the bit.
    """

    def __init__(self, sampler: Sampler) -> None:
        """Serve the nodes of a sampler."""
        self.sampler = sampler
        count = len(sampler.hosted)
        self._ahead = 0
        self._starts = np.zeros(count, dtype=np.int64)
        self._indices = self._keys = np.zeros((count, 0), dtype=np.int64)
        self.choose([], [], 0)

    def choose(self, rows: Sequence[int], positions: Sequence[int], origin: int) -> None:
        """Serve these rows of the block, each from its position, which is called
        ``origin``.

        Args:
            rows: Which rows of the sampler's block.
            positions: The first sample of each.
            origin: What a caller of `batch` calls these positions.
        """
        self._rows = np.asarray(rows, dtype=np.int64)
        self._positions = np.asarray(positions, dtype=np.int64)
        self._origin = origin

    def batch(self, position: int, size: int) -> Batch:
        """Return ``size`` samples of every chosen row, from ``position``."""
        begins = self._positions + (position - self._origin)
        self._draw_ahead(begins, size)
        places = (begins - self._starts[self._rows])[:, None] + np.arange(size)
        rows = self._rows[:, None]
        return self.sampler.take(self._indices[rows, places], self._keys[rows, places])

    def _draw_ahead(self, begins: Integers, size: int) -> None:
        """Draw for the chosen rows that have not enough left."""
        if size > self._ahead:
            self._ahead = max(size, _AHEAD // max(1, len(self._starts)))
            shape = len(self._starts), self._ahead
            self._indices, self._keys = (
                np.zeros(shape, np.int64),
                np.zeros(shape, np.int64),
            )
            self._starts[:] = -self._ahead  # nothing is drawn yet
        starts = self._starts[self._rows]
        short = (begins < starts) | (begins + size > starts + self._ahead)
        if not short.any():
            return
        rows, first = np.unique(self._rows[short], return_index=True)
        self._starts[rows] = begins[short][first]
        visit = self._starts[rows][:, None] + np.arange(self._ahead)
        nodes = np.array(self.sampler.hosted)[rows][:, None]
        self._indices[rows], self._keys[rows] = self.sampler.draw(nodes, visit)
