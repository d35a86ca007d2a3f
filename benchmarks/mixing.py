"""One gossip round in memory against a copy of the block.

python benchmarks/mixing.py [--threads 2]
"""

from __future__ import annotations

from common import best, table, threads

# isort: split
import torch

from decentral.exchange.base import LocalExchange
from decentral.mixing.base import Mixer
from decentral.registry import build
from decentral.topology.base import Topology

BLOCKS = (
    (16, 26_128),
    (16, 1 << 19),
    (16, 1 << 20),
    (64, 1 << 17),
    (256, 1 << 15),
    (1024, 1 << 13),
)
TOPOLOGIES = "ring", "exponential", "complete"


def compare(nodes: int, width: int) -> list[object]:
    block = torch.randn(nodes, width)
    other = torch.empty_like(block)
    copy = best(lambda: other.copy_(block), 15, 0.5)
    exchange = LocalExchange(nodes)
    ratios: list[object] = []
    for name in TOPOLOGIES:
        mixing = Mixer.make(Topology(build("topology", name), nodes, 0)).mixing(0)
        spent = best(lambda m=mixing: exchange.mix(block, m), 7, 0.5)
        ratios.append(spent / copy)
    return [nodes, width, block.nbytes / 2**20, copy * 1e3, *ratios]


if __name__ == "__main__":
    title = f"Mixing / copy of the block, {threads()} threads"
    table(
        title,
        ("nodes", "P", "MB", "copy, ms", *TOPOLOGIES),
        [compare(*b) for b in BLOCKS],
    )
