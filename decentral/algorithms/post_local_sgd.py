"""First together, then local steps."""

from __future__ import annotations

from decentral.algorithms import Block
from decentral.algorithms.dsgd import dsgd
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean"),
    defaults={
        "local_steps": 1,
        "communication": "switch(before=merges, after=every(k=10, schedule=merges), at=50%)",
    },
)
def post_local_sgd(block: Block, act: Act | None) -> None:
    """The average of all after every step, from half of the run on only after every tenth.

    The opposite of ``late``; another switch is another ``communication``. (Lin et al., "Don't use
    large mini-batches, use local SGD", ICLR 2020.)
    """
    dsgd(block, act)
