"""Nodes that never talk."""

from __future__ import annotations

from decentral.algorithms import Block
from decentral.algorithms.dsgd import dsgd
from decentral.network import Act
from decentral.registry import plugin


@plugin("algorithm", communicates="never", guarantees=("single_node_is_plain", "keeps_mean"))
def local(block: Block, act: Act | None) -> None:
    """Let every node train alone: dsgd with the schedule ``none``."""
    dsgd(block, None)
