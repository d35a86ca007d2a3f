"""Attacks: what bad nodes send instead of their rows, or learn from instead of
their data.

An attack is one of two functions:

- ``(rows, layout, draw) -> rows``: from the rows [b, k] of the bad nodes to what
  they send, in gossip and in global merges alike; ``layout`` and ``draw`` are those
  of codecs. A bad node itself goes on with its own row and with what it receives,
  as if it were a good one;
- ``(targets, classes) -> targets``, with the trait ``data``: from the targets [b,
  B, ...] of the bad nodes to those from which they learn.

Metrics and the merged model look at the good nodes only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec.base import RngContext, TensorLayout
from decentral.registry import Node, Positive, Share, plugin
from decentral.schedules.phases import START, STOP
from decentral.units import Point


def common(
    *,
    nodes: list[Node] | None = None,
    share: Share = 0.0,
    start: Point = START,
    stop: Point = STOP,
) -> None:
    """Settings of every attack: which nodes are bad, and when.

    Args:
        nodes: The bad nodes by number; none: a share of all.
        share: Share of the nodes that are bad.
        start: When they begin.
        stop: When they end.
    """


@plugin("attack", example="sign_flip(share=0.2)")
def sign_flip(
    rows: Tensor, layout: TensorLayout, draw: RngContext, *, scale: Positive = 1.0
) -> Tensor:
    """Send -``scale`` times the own row.

    (Karimireddy, He & Jaggi, "Byzantine-robust learning on heterogeneous datasets",
    ICLR 2022, where gradients are flipped; here it is whatever nodes send.)

    Args:
        rows: Rows of the bad nodes, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        scale: Factor of the row.
    """
    return -scale * rows


@plugin("attack", example="noise(share=0.2)")
def noise(
    rows: Tensor, layout: TensorLayout, draw: RngContext, *, scale: Positive = 1.0
) -> Tensor:
    """Add Gaussian noise to the own row, of ``scale`` times the root mean square of
    its numbers.

    Drawn anew in every round, keyed by node, round and column.

    Args:
        rows: Rows of the bad nodes, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        scale: Size of the noise, in root mean squares of the row.
    """
    # By the numbers a row holds, not by its width: padding is 0 and would shrink
    # it.
    size = rows.norm(dim=1, keepdim=True) / layout.numbers**0.5
    sent = rows.clone()
    # Tensor by tensor, by column number: padding stays 0 and draws nothing, so the
    # noise does not depend on how rows are aligned.
    for start, stop, _ in layout.tensors:
        axes = draw.round, np.array(draw.nodes)[:, None], np.arange(start, stop)
        drawn = rng.normal(draw.seed, f"attack/{draw.purpose}", *axes)
        sent[:, start:stop] += scale * size * torch.from_numpy(drawn).to(rows)
    return sent


@plugin("attack", example="constant(share=0.2)")
def constant(
    rows: Tensor, layout: TensorLayout, draw: RngContext, *, value: float = 0.0
) -> Tensor:
    """Send a row in which every number is ``value``, all the time.

    Args:
        rows: Rows of the bad nodes, [n, P].
        layout: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        value: The number.
    """
    sent = torch.zeros_like(rows)
    for start, stop, _ in layout.tensors:
        sent[:, start:stop] = value
    return sent


@plugin("attack", data=True, example="label_flip(share=0.2)")
def label_flip(targets: Tensor, classes: int) -> Tensor:
    """Learn class C - 1 - y where the data say y, and send what comes of it.

    (Fang et al., "Local model poisoning attacks to Byzantine-robust federated
    learning", USENIX Security 2020.)
    """
    return classes - 1 - targets
