"""Local steps, then the average of all."""

from __future__ import annotations

from decentral.algorithms import Block
from decentral.algorithms.dsgd import dsgd
from decentral.network import Act
from decentral.registry import plugin


@plugin(
    "algorithm",
    communicates="rounds",
    guarantees=("single_node_is_plain", "keeps_mean", "large_batch_on_complete"),
    defaults={"communication": "merges"},
)
def local_sgd(block: Block, act: Act | None) -> None:
    """FedAvg with everybody: ``local_steps`` steps alone, then x_i <- (1/N) sum_j x_j.

    It is dsgd with the schedule ``merges``. (McMahan et al., "Communication-efficient learning",
    AISTATS 2017; Stich, "Local SGD converges fast and communicates little", ICLR 2019.)
    """
    dsgd(block, act)
