"""The loop: the only one. It yields records of metrics; recording and showing them is
the engine's. What a block keeps in checkpoints stands below, and how it goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, isnan
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from decentral.exchange.base import CommunicationStats
from decentral.loop.block import Block
from decentral.loop.callbacks import Context, Moment
from decentral.loop.compatibility import refuse_idle
from decentral.loop.measure import Evaluator, plan_evaluations
from decentral.loop.setup import Setup
from decentral.plugins import describe, wrong
from decentral.records import is_own
from decentral.run.checkpoint import Checkpoint, stack_nodes
from decentral.schedules.progress import Feedback
from decentral.topology.labels import NodeId

Record = dict[str, Any]

#: Log lines of one run when ``log_every`` is auto.
LOG_LINES = 200


def log_interval(setup: Setup) -> int:
    """Return the steps between two log lines."""
    every = setup.config.log_every
    return max(1, ceil(setup.config.steps / LOG_LINES)) if every == "auto" else every


def train(block: Block, evaluator: Evaluator) -> Iterator[Record]:
    """Train a block from where it stands to the end, yielding one record of metrics
    per step.

    Records without news are empty but for ``step``, so that the caller can stop or
    checkpoint between any two steps. A global merge as the last action, the
    algorithm's own or the run's, is evaluated before and after. The first models
    are evaluated before the first step, and never again.
    """
    setup = block.setup
    every = plan_evaluations(setup).every
    log_every = log_interval(setup)
    callbacks = block.callbacks
    if block.is_over:
        return  # a resumed run that had come to its end
    _tell(block, "start", {})
    callbacks.start()
    # A resumed run has this in its log already.
    if not block.step:
        yield _evaluated(block, status(block) | evaluator(complete=True))
    before: list[Record] = []
    over = block.is_over  # a callback may have stopped it at the start
    while not over:
        sent = block.round, block.stats.messages
        if block.simulation is not None:
            block.simulation.advance()
        else:
            _take_step(block, lambda: before.append(_before_merge(block, evaluator)))
        if callbacks.listeners:
            _tell_step(block, sent=(block.round, block.stats.messages) != sent)
        if over := block.is_over:
            break
        if block.step % every == 0:
            # First, since one row of NaN would make every average of the evaluation
            # NaN.
            block.check()
            yield _evaluated(block, status(block) | evaluator(complete=False))
            over = block.is_over  # by a callback that has seen it
        elif block.step % log_every == 0:
            yield status(block)
        else:
            yield {"step": block.step}
    yield from conclude(block, evaluator, before)
    _tell(block, "end", status(block))


def has_news(record: Record) -> bool:
    """Whether a record holds more than its step."""
    return len(record) > 1


def _take_step(block: Block, look: Callable[[], None]) -> None:
    """Take one step of all rows; ``look`` sees them before a merge that ends the run."""
    algorithm, action = block.setup.algorithm, block.decide()
    last = block.step + 1 == block.setup.config.steps
    if last and action is not None and action.is_merge:
        # The algorithm merges within its step, after its local update: only a call
        # from there sees the models that are about to meet.
        block.before_merge = look
    if (returned := algorithm(block, action)) is not None:
        raise wrong(
            algorithm, describe(returned), "nothing: it changes the block in place"
        )
    if block.step == 0:
        refuse_idle(algorithm, block.called)
    block.finish_step()


def _before_merge(block: Block, evaluator: Evaluator) -> Record:
    """Return how the models do in the middle of the last step, and what was spent
    until then.
    """
    spent = {
        k: v
        for k, v in status(block).items()
        if k.startswith(("comm/", "nodes/", "time/"))
    }
    return spent | evaluator(complete=True) | {"phase": "before_merge"}


def conclude(
    block: Block, evaluator: Evaluator, before: list[Record]
) -> Iterator[Record]:
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
    for record in before:
        # The right side wins: bytes and seconds are those from before the merge.
        yield _evaluated(block, status(block) | record)
    if final_merge is not None:
        block.combine(final_merge)
    final = status(block) | evaluator(complete=True)
    yield _evaluated(block, final | {"phase": "final"})


# --- callbacks --------------------------------------------------------------------


def _evaluated(block: Block, record: Record) -> Record:
    """Return a record of an evaluation, once callbacks have seen it."""
    _tell(block, "evaluate", record)
    return record


def _tell_step(block: Block, *, sent: bool) -> None:
    """Call those who look at a step that is done, or at one in which something was
    sent.
    """
    if sent and block.callbacks.listens("round"):
        _tell(block, "round", status(block))
    if block.callbacks.listens("step"):
        _tell(block, "step", status(block))


def _tell(block: Block, moment: Moment, record: Record) -> None:
    """Call the callbacks of a moment, on the first worker; all agree on a stop.

    Args:
        block: The block.
        moment: The moment.
        record: What is known of it.
    """
    callbacks = block.callbacks
    if not callbacks.listens(moment):
        if callbacks.listeners:  # who listens at other moments sees what metrics found
            callbacks.measured({k: v for k, v in record.items() if not is_own(k)})
        return
    context = _context(block, moment, record)
    first = block.exchange.hosted.start == 0
    reason = callbacks.call(moment, context) if first else ""
    asked = torch.zeros(len(block.hosted))
    asked[:1] = float(bool(reason))
    # Also where it is too late for a stop: all workers must come to it.
    stops = bool(block.exchange.gather(asked).any())
    if stops and moment != "end" and not block.is_over:
        callbacks.stopped = {"step": block.step, "reason": reason}
        block.announce("stopped", dict(callbacks.stopped))


def _context(block: Block, moment: Moment, record: Record) -> Context:
    """Return where a run stands: the same numbers, to the bit, on any workers."""
    callbacks, setup = block.callbacks, block.setup
    healthy, training = {*block.health.healthy}, {*_training(block)}
    wire = torch.zeros(len(block.hosted), dtype=torch.float64)
    wire[:1] = block.stats.wire_bytes
    losses, wires = block.exchange.gather(
        torch.stack([block.losses.double(), wire], dim=1)
    ).unbind(1)
    of = {
        node: loss
        for node, loss in zip(block.members.live, losses.tolist(), strict=True)
        if node in training and block.called
    }
    shared = {"nodes/healthy": len(healthy), "comm/wire_bytes": wires.sum().item()}
    if of and record.get("loss/train") is not None:
        shared["loss/train"] = float(
            torch.tensor([*of.values()], dtype=torch.float64).mean()
        )
    measured = callbacks.measured({**record, **shared} if record else {})
    rows = block.exchange.gather(block.x) if callbacks.wants_rows(moment) else None
    seen = block.samples * setup.drawn
    return Context(
        step=block.step, steps=setup.config.steps, epoch=seen / len(setup.task.splits[0]),
        samples=block.samples, round=block.round, nodes=tuple(sorted(healthy)),
        losses=MappingProxyType(of), metrics=MappingProxyType(dict(callbacks.newest)),
        measured=measured, records=block.records,
        simulated_s=block.simulated_s if setup.network else None, phase=record.get("phase"),
        gathered=rows,
    )  # fmt: skip


def status(block: Block) -> Record:
    """Return the counters that every log line shows."""
    healthy, training = block.healthy_rows(), _training(block)
    trained = healthy
    if block.participants is not None:
        trained = [row for row in healthy if block.hosted[row] in {*training}]
    known, setup = block.feedback, block.setup
    return {
        "step": block.step,
        "samples": block.samples,
        # Some algorithms begin by communicating, and nothing is no loss of 0.
        "loss/train": _mean(block.losses[trained])
        if "gradient" in block.called
        else None,
        "learning_rate": block.learning_rate,
        "batch/size": block.batch_size,
        "batch/global": block.batch_size * len(training),
        "comm/bytes": block.stats.bytes,
        "comm/wire_bytes": block.stats.wire_bytes,
        "comm/measure_bytes": block.stats.measure_bytes,
        "comm/messages": block.stats.messages,
        "comm/rounds": block.stats.rounds,
        "comm/intensity": block.intensity,
        "nodes/healthy": len(healthy),
        **({"nodes/training": len(trained)} if block.participants else {}),
        **({"time/simulated_s": block.simulated_s} if setup.network else {}),
        **(
            {"feedback/consensus": known.consensus}
            if known and not isnan(known.consensus)
            else {}
        ),
        **({"feedback/spent": known.spent} if known else {}),
        **(block.simulation.figures() if block.simulation else {}),
    }


def _training(block: Block) -> list[NodeId]:
    """Return the ids of the healthy nodes that took the last step."""
    part, healthy = block.participants, block.health.healthy
    return healthy if part is None else part.among(healthy)


def _mean(losses: Tensor) -> float | None:
    # Rows of bfloat16 or float32 would round the mean of many nodes.
    return losses.double().mean().item() if len(losses) else None


def checkpoint_of(block: Block) -> Checkpoint:
    """Return everything needed to go on; all workers agree on who is well."""
    block.health.agree()
    nodes: dict[NodeId, dict[str, Tensor]] = {}
    integers = {f"integer/{k}": v.unbind() for k, v in block.integers.items()}
    states = zip(block.channels.states(), block.optimizer.states(), strict=True)
    for place, (node, row, (own, kept)) in enumerate(
        zip(block.hosted, block.rows.unbind(), states, strict=True)
    ):
        state = {f"optimizer/{k}": v for k, v in kept.items()}
        whole = {k: v[place] for k, v in integers.items()}
        nodes[node] = {"row": row, **whole, **own, **state}
    counters = {
        "round": block.round,
        "samples": block.samples,
        "first_batch": block.setup.first_batch,
        # Some names on disk are older than those of the code; they stay.
        "ledger": block.stats.state(),
        "clock": block.clock.state(),
        "intensity": block.intensity,
        "absent": sorted(block.quarantined),
        "epoch": block.members.epoch,
        "sharp": block.pipeline.sharp,
        "feedback": block.feedback.state() if block.feedback else None,
    }
    if block.simulation is not None:
        counters["simulation"], tensors = block.simulation.state()
        for node, under_way in tensors.items():
            nodes[node] |= under_way
    if kept := block.callbacks.state():
        counters["callbacks"] = kept
    return Checkpoint(block.step, block.members.live, nodes, counters)


def restore(block: Block, checkpoint: Checkpoint) -> None:
    """Go back to a checkpoint, whatever number of workers wrote it."""
    checkpoint.check_fits(block.exchange.nodes, block.rows.shape[1])
    block.rows.copy_(stack_nodes(checkpoint, "row", block.hosted))
    for name, value in block.integers.items():
        value.copy_(stack_nodes(checkpoint, f"integer/{name}", block.hosted))
    block.channels.restore(checkpoint, block.hosted)
    prefix = "optimizer/"
    block.optimizer.load_state(
        [
            {
                k.removeprefix(prefix): v
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
            for tensors in (checkpoint.nodes[node] for node in block.hosted)
        ]
    )
    counters = checkpoint.counters
    block.stand_at(checkpoint.step, counters["round"])
    block.intensity = counters["intensity"]
    block.stats = CommunicationStats(**counters["ledger"])
    block.pipeline.sharp = counters["sharp"]
    block.clock.restore(counters["clock"])
    block.health.quarantined = frozenset(counters["absent"])
    known = counters["feedback"]
    block.feedback = Feedback.from_state(known) if known else None
    block.callbacks.restore(counters.get("callbacks"))
    if block.simulation is not None:
        block.simulation.restore(checkpoint)
