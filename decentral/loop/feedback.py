"""What closed-loop schedules know of a run: how far the rows are apart, estimated
from sketches of 64 numbers each, and what schedules have measured for themselves.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.base import CommunicationStats, Exchange
from decentral.layout import Layout
from decentral.loop.health import Health
from decentral.loop.setup import CommunicationSetup
from decentral.network.clock import Clock
from decentral.network.planning import Membership, RoundPlanner
from decentral.plugins import ConfiguredPlugin, describe, wrong
from decentral.schedules.progress import Feedback
from decentral.topology.labels import NodeId
from decentral.traits import CommunicationTraits, traits_of

#: Numbers per sketch.
SKETCH = 64
#: Bytes of a number of a schedule's own.
OWN_BYTES = 8


class HostedNodes:
    """The hosted nodes as a schedule's own function sees them: tensors are copies,
    made where they are asked for, so that measuring does not train.

    ``hosted`` are the ids of the nodes, a row each; ``step``, ``round`` and
    ``samples`` where the run stands.
    """

    def __init__(self, block: Measured) -> None:
        """Look at a block."""
        self.hosted, self.step = tuple(block.hosted), block.step
        self.round, self.samples = block.round, block.samples
        self._block, self._layout = block, block.setup.layout

    @cached_property
    def losses(self) -> Tensor:
        """The training loss of every row [n]."""
        return self._block.losses.clone()

    @cached_property
    def rows(self) -> Tensor:
        """All parameters and buffers [n, P]."""
        return self._block.rows.clone()

    @cached_property
    def grads(self) -> Tensor:
        """The gradients [n, P] that the optimizer has seen."""
        return self._block.grads.clone()

    @property
    def x(self) -> Tensor:
        """The trained parameters [n, k]."""
        return self._layout.trainable_view(self.rows)

    @property
    def g(self) -> Tensor:
        """Their gradients [n, k]."""
        return self._layout.trainable_view(self.grads)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Trained parameters [n, ...] by name."""
        return self._layout.views(self.rows)


class Measured(Protocol):
    """A block, as far as feedback is concerned."""

    exchange: Exchange
    stats: CommunicationStats
    clock: Clock
    health: Health
    members: Membership
    rows: Tensor
    grads: Tensor
    losses: Tensor
    hosted: list[NodeId]
    step: int
    round: int
    feedback: Feedback | None

    @property
    def setup(self) -> CommunicationSetup:
        """What is the same on every worker."""
        ...

    @property
    def samples(self) -> int:
        """Samples that every node has taken."""
        ...

    @cached_property
    def sketch(self) -> Sketch:
        """What sees how far rows are apart."""
        ...


def refresh_feedback(block: Measured, planner: RoundPlanner) -> Feedback:
    """Return what closed-loop schedules know before a step: measured now and then,
    what is spent always.
    """
    schedule, known = planner.schedule, block.feedback
    if known is None or _is_due(block, planner):
        block.health.agree()
        consensus = float("nan")
        if schedule.wants_consensus:
            consensus = Sketch.relative_spread(
                _gather(block, block.sketch(block.rows), 4)
            )
        measured = known.measured if known else {}
        known = Feedback(block.round, consensus, 0.0, measured)
        # Behind every later step it was measured there, where losses and gradients
        # are those of the step, which no checkpoint holds.
        if block.step == 0:
            known = measure_own(block, planner, known)
    spent = block.stats.bytes / max(1, block.setup.all_reduce_bytes)
    return replace(known, spent=spent)


def measure_after(block: Measured, planner: RoundPlanner) -> None:
    """Measure what schedules ask for behind a step, if the next one is asked with it."""
    upcoming = block.step + 1
    asked = upcoming <= planner.steps and planner.is_communication_step(upcoming)
    if asked and (_is_due(block, planner) or block.feedback is None):
        block.health.agree()
        known = block.feedback or Feedback(block.round, float("nan"), 0.0)
        block.feedback = measure_own(block, planner, known)


def _is_due(block: Measured, planner: RoundPlanner) -> bool:
    done = block.step // block.setup.config.local_steps
    return done % planner.schedule.feedback_every == 0


def measure_own(block: Measured, planner: RoundPlanner, known: Feedback) -> Feedback:
    """Return what is known, with the numbers that schedules ask for, gathered in
    node order.

    Args:
        block: The block.
        planner: What is sent when.
        known: What is known so far.
    """
    rules = planner.schedule.own_feedback
    if not rules:
        return known
    columns = [_own_numbers(rule, block) for rule in rules]
    everyone = _gather(block, torch.stack(columns, dim=1), OWN_BYTES)
    measured = {
        rule.name: tuple(everyone[:, place].tolist()) for place, rule in enumerate(rules)
    }
    return replace(known, measured=measured)


def _gather(block: Measured, values: Tensor, size: int) -> Tensor:
    """Return the values [n, k] of healthy nodes of all workers; they are counted.

    Args:
        block: The block.
        values: Those of the hosted nodes.
        size: Bytes of one number.
    """
    fit = sorted(block.members.positions(block.health.healthy))
    found = block.exchange.gather(values)[fit]
    nodes, each = block.exchange.nodes, values.shape[1] * size
    block.stats.bytes += nodes * (nodes - 1) * each
    block.clock.gather(block.members.live, each)
    return found


def _own_numbers(rule: ConfiguredPlugin, block: Measured) -> Tensor:
    """Return the number of every hosted node [n] that a schedule asks for."""
    function = traits_of(rule, CommunicationTraits).feedback
    assert function is not None
    own = ConfiguredPlugin(
        replace(rule.plugin, target=function, settings={}, common={}), {}
    )
    returned: Any = own(HostedNodes(block))
    count = len(block.rows)
    try:
        found = torch.as_tensor(returned, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):  # text, or rows of several lengths
        found = torch.empty(0)
    if found.shape != (count,) or not torch.isfinite(found).all():
        said = "numbers that are NaN or infinite" if found.shape == (count,) else None
        expected = f"one finite number for each of the {count} rows of the block"
        raise wrong(own, said or describe(returned), expected)
    return found


class Sketch:
    """A count sketch of the trainable columns: s_b sums +-x_c over columns hashed
    to bucket b.

    E|s_i - s_j|^2 = |x_i - x_j|^2 (Charikar, Chen & Farach-Colton, 2002).
    """

    def __init__(self, layout: Layout, seed: int, device: torch.device) -> None:
        """Hash every trainable column to a bucket and a sign."""
        draws = rng.bits(seed, "sketch", np.arange(layout.trainable))
        # The lowest bit is the sign, so buckets take the others: both must be
        # independent.
        bucket = (draws >> np.uint64(1)) % np.uint64(SKETCH)
        sign = (draws & np.uint64(1)).astype(np.float64) * 2 - 1
        self.layout = layout
        self.bucket = torch.from_numpy(bucket.astype(np.int64)).to(device)
        self.sign = torch.from_numpy(sign).to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the sketches [n, 64] of rows [n, P], float64."""
        signed = self.layout.trainable_view(rows) * self.sign.to(rows.dtype)
        empty = torch.zeros(
            rows.shape[0], SKETCH, dtype=torch.float64, device=rows.device
        )
        # In float64, since the sum of a bucket is over thousands of columns.
        return empty.index_add_(1, self.bucket, signed.double())

    @staticmethod
    def relative_spread(sketches: Tensor) -> float:
        """Return the RMS distance of sketches [N, 64] from their mean, over its
        norm.
        """
        mean = sketches.mean(0)
        spread = (sketches - mean).square().sum(1).mean().sqrt()
        # Models may begin at zero.
        return float(spread / mean.norm().clamp_min(1e-12))
