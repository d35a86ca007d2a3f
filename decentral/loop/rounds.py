"""The loop: the only one. It yields rows of metrics; recording and showing them is
the engine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from torch import Tensor

from decentral.loop.block import Block
from decentral.loop.compatibility import refuse_idle
from decentral.loop.measure import Evaluator, evaluation_interval
from decentral.loop.setup import Setup
from decentral.plugins import describe, wrong

Row = dict[str, Any]

#: Log lines of one run when ``log_every`` is auto.
LOG_LINES = 200


def log_interval(setup: Setup) -> int:
    """Return the steps between two log lines."""
    every = setup.config.log_every
    return max(1, ceil(setup.config.steps / LOG_LINES)) if every == "auto" else every


def train(block: Block, evaluator: Evaluator) -> Iterator[Row]:
    """Train a block from where it stands to the end, yielding one row of metrics
    per step.

    Rows without news are empty but for ``step``, so that the caller can stop or
    checkpoint between any two steps. A global merge as the last action, the
    algorithm's own or the run's, is evaluated before and after. The first models
    are evaluated before the first step, and never again.
    """
    setup = block.setup
    steps, every = setup.config.steps, evaluation_interval(setup)
    algorithm, log_every = setup.algorithm, log_interval(setup)
    # A resumed run has this in its log already.
    if not block.step:
        yield status(block) | evaluator(complete=True)
    before: list[Row] = []
    while block.step < steps:
        action = block.decide()
        ends = block.step + 1 == steps
        if ends and action is not None and action.is_merge:
            # The algorithm merges within its step, after its local update: only a
            # call from there sees the models that are about to meet.
            block.before_merge = lambda: before.append(_before_merge(block, evaluator))
        if (returned := algorithm(block, action)) is not None:
            raise wrong(
                algorithm, describe(returned), "nothing: it changes the block in place"
            )
        if block.step == 0:
            refuse_idle(algorithm, block.called)
        block.finish_step()
        if ends:
            yield from conclude(block, evaluator, before)
        elif block.step % every == 0:
            # First, since one row of NaN would make every average of the evaluation
            # NaN.
            block.check()
            yield status(block) | evaluator(complete=False)
        elif block.step % log_every == 0:
            yield status(block)
        else:
            yield {"step": block.step}


def _before_merge(block: Block, evaluator: Evaluator) -> Row:
    """Return how the models do in the middle of the last step, and what was spent
    until then.
    """
    spent = {
        k: v
        for k, v in status(block).items()
        if k.startswith(("comm/", "nodes/", "time/"))
    }
    return spent | evaluator(complete=True) | {"phase": "before_merge"}


def conclude(block: Block, evaluator: Evaluator, before: list[Row]) -> Iterator[Row]:
    """Merge as the last action, if the schedule says so, evaluated before and
    after.

    ``before`` holds what was seen before the merge of the last communication step,
    if there was one.

    Args:
        block: The block.
        evaluator: What asks the metrics.
        before: What was seen before the last merge, if there was one.
    """
    block.check()
    final_merge = block.setup.planner.final_merge() if block.setup.planner else None
    if final_merge is not None and not before:
        before = [_before_merge(block, evaluator)]
    for row in before:
        # The right side wins: bytes and seconds are those from before the merge.
        yield status(block) | row
    if final_merge is not None:
        block.combine(final_merge)
    yield status(block) | evaluator(complete=True) | {"phase": "final"}


def status(block: Block) -> Row:
    """Return the counters that every log line shows."""
    healthy = block.healthy_rows()
    known, setup = block.feedback, block.setup
    return {
        "step": block.step,
        "samples": block.samples,
        # Some algorithms begin by communicating, and nothing is no loss of 0.
        "loss/train": _mean(block.losses[healthy])
        if "gradient" in block.called
        else None,
        "learning_rate": block.learning_rate,
        "batch/size": block.batch_size,
        "batch/global": block.batch_size * len(block.health.healthy),
        "comm/bytes": block.stats.bytes,
        "comm/wire_bytes": block.stats.wire_bytes,
        "comm/measure_bytes": block.stats.measure_bytes,
        "comm/messages": block.stats.messages,
        "comm/rounds": block.stats.rounds,
        "comm/intensity": block.intensity,
        "nodes/healthy": len(healthy),
        **({"time/simulated_s": block.simulated_s} if setup.network else {}),
        **(
            {"feedback/consensus": known.consensus, "feedback/spent": known.spent}
            if known
            else {}
        ),
    }


def _mean(losses: Tensor) -> float | None:
    # Rows of bfloat16 or float32 would round the mean of many nodes.
    return losses.double().mean().item() if len(losses) else None
