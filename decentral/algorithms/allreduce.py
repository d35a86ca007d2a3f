"""The centralized baseline."""

from __future__ import annotations

from decentral.algorithms import Block
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="steps",
    guarantees=("single_node_is_plain", "keeps_mean", "large_batch", "stays_equal"),
)
def allreduce(block: Block, act: Act | None) -> None:
    """Mini-batch SGD: one global average of the gradients per step, x <- x - lr (1/N) sum_j g_j.

    The baseline to which bytes are compared: 2 (N - 1) rows in every step.
    """
    block.gradient()
    block.average_gradients()
    block.adapt()
