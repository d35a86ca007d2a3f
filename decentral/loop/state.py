"""What a block keeps in checkpoints, and how it goes back to one."""

from __future__ import annotations

from torch import Tensor

from decentral.exchange.base import CommunicationStats
from decentral.loop.block import Block
from decentral.run.checkpoint import Checkpoint, stack_nodes
from decentral.schedules.progress import Feedback
from decentral.topology.labels import NodeId


def checkpoint_of(block: Block) -> Checkpoint:
    """Return everything needed to go on; all workers agree on who is well."""
    block.health.agree()
    nodes: dict[NodeId, dict[str, Tensor]] = {}
    for index, node in enumerate(block.hosted):
        state = {f"optimizer/{k}": v for k, v in block.optimizer.state_of(index).items()}
        whole = {f"integer/{k}": v[index] for k, v in block.integers.items()}
        own = block.channels.state_of(index)
        nodes[node] = {"row": block.rows[index], **whole, **own, **state}
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
