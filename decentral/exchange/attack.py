"""Attacks: what bad nodes send instead of their rows, or learn from instead of their data.

An attack is one of two functions:

- ``(rows, load, draw) -> rows``: from the rows [b, k] of the bad nodes to what they say, in gossip
  and in global merges alike; ``load`` and ``draw`` are those of codecs. A bad node itself goes on
  with its own row and with what it hears, as if it were a good one;
- ``(targets, classes) -> targets``, with the trait ``data``: from the targets [b, B, ...] of the
  bad nodes to those from which they learn.

Metrics and the merged model look at the good nodes only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec.base import Draw, Load
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
def sign_flip(rows: Tensor, load: Load, draw: Draw, *, scale: Positive = 1.0) -> Tensor:
    """Send -``scale`` times the own row.

    (Karimireddy, He & Jaggi, "Byzantine-robust learning on heterogeneous datasets", ICLR 2022,
    where gradients are flipped; here it is whatever nodes send.)

    Args:
        rows: Rows of the bad nodes, [n, P].
        load: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        scale: Factor of the row.
    """
    return -scale * rows


@plugin("attack", example="noise(share=0.2)")
def noise(rows: Tensor, load: Load, draw: Draw, *, scale: Positive = 1.0) -> Tensor:
    """Add Gaussian noise to the own row, of ``scale`` times the root mean square of its numbers.

    Drawn anew in every round, keyed by node, round and column.

    Args:
        rows: Rows of the bad nodes, [n, P].
        load: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        scale: Size of the noise, in root mean squares of the row.
    """
    size = rows.norm(dim=1, keepdim=True) / load.numbers**0.5
    said = rows.clone()
    for start, stop, _ in load.tensors:
        axes = draw.round, np.array(draw.nodes)[:, None], np.arange(start, stop)
        drawn = rng.normal(draw.seed, f"attack/{draw.purpose}", *axes)
        said[:, start:stop] += scale * size * torch.from_numpy(drawn).to(rows)
    return said


@plugin("attack", example="constant(share=0.2)")
def constant(rows: Tensor, load: Load, draw: Draw, *, value: float = 0.0) -> Tensor:
    """Send a row in which every number is ``value``, all the time.

    Args:
        rows: Rows of the bad nodes, [n, P].
        load: How a row is laid out in tensors.
        draw: Random numbers keyed by node and round.
        value: The number.
    """
    said = torch.zeros_like(rows)
    for start, stop, _ in load.tensors:
        said[:, start:stop] = value
    return said


@plugin("attack", data=True, example="label_flip(share=0.2)")
def label_flip(targets: Tensor, classes: int) -> Tensor:
    """Learn class C - 1 - y where the data say y, and send what comes of it.

    (Fang et al., "Local model poisoning attacks to Byzantine-robust federated learning", USENIX
    Security 2020.)
    """
    return classes - 1 - targets
