"""Data that teach the wrong thing."""

from __future__ import annotations

from torch import Tensor

from decentral.registry import plugin


@plugin("attack", data=True, example="label_flip(share=0.2)")
def label_flip(targets: Tensor, classes: int) -> Tensor:
    """Learn class C - 1 - y where the data say y, and send what comes of it.

    (Fang et al., "Local model poisoning attacks to Byzantine-robust federated learning", USENIX
    Security 2020.)
    """
    return classes - 1 - targets
