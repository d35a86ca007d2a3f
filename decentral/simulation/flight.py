"""Gradients in flight: begun at snapshots of single rows, computed together,
waiting in the block until they are due.

A gradient depends on its snapshot and its batch only, and both are known when it
begins: it does not matter with which others it is computed, or when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from decentral.errors import RunError
from decentral.gradients.base import ROWS, rows_at_once
from decentral.loop.block import Block
from decentral.loop.health import finite_rows
from decentral.loop.pipeline import Pipeline
from decentral.private import copy_all
from decentral.sampling import OwnPace
from decentral.simulation.operations import Operations, Touched


class Pending(NamedTuple):
    """A gradient that has begun: of which row, at which sample, in which step."""

    row: int
    position: int
    step: int


class Flight:
    """Snapshots of rows whose gradients have begun, until there are enough of them
    or one is due; what was computed stands in the block's gradients.
    """

    def __init__(
        self, block: Block, operations: Operations, most: int | None = None
    ) -> None:
        """Compute the gradients of a block.

        Args:
            block: The rows.
            operations: What waits to be done to them.
            most: Gradients that are computed at once; none: as many as the cache
                has room for, and as there are.
        """
        setup = block.setup
        self.block, self.setup, self.operations = block, setup, operations
        if most is None:
            kept, width = setup.activation_memory, setup.layout.width
            fitting = max(ROWS, rows_at_once(kept, width, block.rows.device))
            most = max(1, min(fitting, len(block.hosted)))
        self.most = most
        # Even: a lone or odd row would get other bits than it has beside another
        # one.
        room = most + most % 2
        self.rows = block.rows.new_zeros(room, block.rows.shape[1])
        self.grads = torch.zeros_like(self.rows)
        # Views, once: to make one takes half as long as to copy a small row.
        self._slots = list(zip(self.rows, self.grads, strict=True))
        self._hosted = list(zip(block.rows, block.grads, strict=True))
        self.integers = {
            name: torch.stack([value] * room).to(setup.device)
            for name, value in setup.layout.integers.items()
        }
        self._takes = self._take  # once: it is asked for at every gradient
        self.pending: list[Pending] = []
        #: The rows of these.
        self.begun: set[int] = set()
        self.size = 0
        self.pace = OwnPace(block.sampler)
        self._pipelines: dict[int, Pipeline] = {}
        #: Buffers of a row at its snapshot and after its forward pass, until its
        #: update.
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self.counted: dict[int, dict[str, Tensor]] = {}
        self.losses = [0.0] * len(block.hosted)
        #: How many gradients were computed, in how many calls.
        self.computed = self.calls = 0

    def begin(
        self, index: int, position: int, size: int, step: int, node: Touched
    ) -> None:
        """Take a snapshot of a row for its next gradient.

        Args:
            index: The row.
            position: The first sample of its batch.
            size: Samples of the batch.
            step: Updates that its node has made.
            node: The node, whose row is read.
        """
        if self.pending and (size != self.size or len(self.pending) == self.most):
            self.compute()
        slot, self.size = len(self.pending), size
        self.operations.add(self._takes, (), (slot, index), (node,), ())
        self.pending.append(Pending(index, position, step))
        self.begun.add(index)

    def _take(self, items: list[tuple[int, int]]) -> None:
        """Copy rows into their slots."""
        copy_all(
            [self._slots[slot][0] for slot, _ in items],
            [self._hosted[index][0] for _, index in items],
        )
        for name, value in self.integers.items():
            for slot, index in items:
                value[slot] = self.block.integers[name][index]

    def compute(self) -> None:
        """Compute all gradients that have begun, after all that waits."""
        self.operations.finish()
        pending, block = self.pending, self.block
        if not pending:
            return
        count = len(pending)
        padded = count + count % 2
        if padded > count:
            self.rows[count] = self.rows[count - 1]
            for value in self.integers.values():
                value[count] = value[count - 1]
        doubled = [*pending, pending[-1]][:padded]
        trainable = self.setup.layout.trainable
        before = self.rows[:count, trainable:].clone() if self._has_buffers else None
        integers = {name: value[:count].clone() for name, value in self.integers.items()}
        pipeline, origin = self._pipeline(padded), block.progress.samples
        self.pace.choose(
            [one.row for one in doubled], [one.position for one in doubled], origin
        )
        pipeline.hosted = [block.hosted[one.row] for one in doubled]
        losses = pipeline.gradient(block.progress, self.size)[:count]
        self._check(losses, pending)
        pipeline.clip()
        copy_all(
            [self._hosted[one.row][1] for one in pending],
            [slope for _, slope in self._slots[:count]],
        )
        for slot, (one, loss) in enumerate(zip(pending, losses.tolist(), strict=True)):
            self.losses[one.row] = loss
            if before is not None:
                after = self.rows[slot, trainable:].clone()
                self.buffers[one.row] = before[slot], after
            if integers:
                self.counted[one.row] = self._count(slot, integers)
        self.computed += count
        self.calls += 1
        self.pending = []
        self.begun.clear()

    def _count(self, slot: int, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return by what a forward pass has raised counters, and what else has
        become of buffers that are no floats.
        """
        return {
            name: self.integers[name][slot] - value[slot]
            if not value.dtype.is_floating_point and value.dtype != torch.bool
            else self.integers[name][slot].clone()
            for name, value in before.items()
        }

    @property
    def _has_buffers(self) -> bool:
        return bool(self.setup.layout.buffers)

    def _pipeline(self, count: int) -> Pipeline:
        """Return what computes the first ``count`` snapshots."""
        if count not in self._pipelines:
            integers = {name: value[:count] for name, value in self.integers.items()}
            chosen = self.block.pipeline.compute, self.block.pipeline.reason
            self._pipelines[count] = Pipeline(
                self.setup, self.rows[:count], integers, self.grads[:count], self.pace,
                [], chosen,
            )  # fmt: skip
        return self._pipelines[count]

    def _check(self, losses: Tensor, pending: list[Pending]) -> None:
        """Stop a run whose gradients are not finite, where the node is known."""
        finite = torch.isfinite(losses) & finite_rows(self.grads[: len(pending)])
        if bool(finite.all()):
            return
        bad = pending[finite.tolist().index(False)]
        users = self.setup.users
        own = f" Of your own in this run: {users}." if users else ""
        raise RunError(
            f"the gradient of node {self.block.hosted[bad.row]} became NaN or infinite at its "
            f"step {bad.step + 1}; lower the learning rate, or set clip.{own}"
        )

    def state_of(self, index: int) -> dict[str, Tensor]:
        """Return what waits for the update of a row, as ``simulation/<name>``."""
        prefix = "simulation"
        found = {f"{prefix}/gradient": self.block.grads[index]}
        if index in self.buffers:
            before, after = self.buffers[index]
            found |= {f"{prefix}/before": before, f"{prefix}/after": after}
        counted = self.counted.get(index, {})
        return found | {f"{prefix}/integer/{k}": v for k, v in counted.items()}

    def restore(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Wait for the update of a row with what `state_of` returned."""
        block, prefix = self.block, "simulation/integer/"
        block.grads[index].copy_(tensors["simulation/gradient"])
        if "simulation/before" in tensors:
            pair = (tensors[f"simulation/{k}"] for k in ("before", "after"))
            before, after = (one.to(block.rows, copy=True) for one in pair)
            self.buffers[index] = before, after
        integers = {k: v for k, v in tensors.items() if k.startswith(prefix)}
        if integers:
            self.counted[index] = {
                k.removeprefix(prefix): v.to(block.rows.device, copy=True)
                for k, v in integers.items()
            }

    def land(self, index: int) -> None:
        """Give a row what its forward pass has made of its buffers: as they are,
        where nobody else has changed them since, else what has changed.
        """
        if index in self.buffers:
            row = self.block.rows[index, self.setup.layout.trainable :]
            before, after = self.buffers.pop(index)
            if torch.equal(row, before):
                row.copy_(after)
            else:
                row.add_(after - before)
        for name, value in self.counted.pop(index, {}).items():
            own = self.block.integers[name]
            if value.dtype.is_floating_point or value.dtype == torch.bool:
                own[index] = value
            else:
                own[index] += value
