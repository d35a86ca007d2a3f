"""Aggregation: what a node makes of the rows that it receives, and of its own.

A rule is one of two functions, for g nodes each of which has m rows before it, its own first:

- ``(values, weights) -> rows``: from the values [g, m, c] of some columns, and the weights [g, m]
  of the mixing, to the new values [g, c];
- ``(distances, weights) -> weights``, with the trait ``sees="distances"``: from the distances
  [g, m] of whole rows from the node's own, to the weights of a sum of which the own row takes the
  rest.

Trait ``linear``: it is the weighted sum itself, x_i <- sum_j W_ij x_j, and keeps what that keeps.

In a global merge all rows are looked at together; a rule that sees distances then takes them from
the median of all rows, number by number, since there is no row of one's own.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from decentral.exchange import robust
from decentral.registry import Count, Positive, plugin


@plugin("aggregation", linear=True)
def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Add up with the weights of the mixing, x_i <- sum_j W_ij x_j: one bad row reaches all."""
    return (weights[:, :, None] * values).sum(1)


@plugin("aggregation")
def median(values: Tensor, weights: Tensor) -> Tensor:
    """Take the median of the own row and of all that is received, number by number.

    Of an even number the mean of the two in the middle. While fewer than half of these rows are
    bad, every number stays within the range of the good ones; weights do not matter. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)
    """
    return robust.median(values, 1)


@plugin("aggregation")
def trimmed_mean(values: Tensor, weights: Tensor, *, cut: Count = 1) -> Tensor:
    """Average the own row and what is received, number by number, without ``cut`` at either end.

    Up to ``cut`` bad rows cannot move a number out of the range of the good ones; weights do not
    matter. Where there are too few rows, as many are left out as leave one or two. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)

    Args:
        values: Rows received, number by number.
        weights: Their mixing weights.
        cut: Values left out at either end.
    """
    return robust.trimmed(values, cut, 1)


@plugin("aggregation", sees="distances")
def clipping(
    distances: Tensor,
    weights: Tensor,
    *,
    radius: Positive | None = None,
    bad: Annotated[int, Ge(0)] = 1,
) -> Tensor:
    """Clip around oneself: x_i <- x_i + sum_j W_ij clip(x_j - x_i), to a length of t_i at most.

    t_i is ``radius`` or, as in the authors' code, the distance of the farthest row but ``bad``, so
    that a bad node pulls no harder than a good one. (He, Karimireddy & Jaggi, "Byzantine-robust
    decentralized learning via ClippedGossip", 2022.)

    Args:
        distances: Distances of the rows received.
        weights: Their mixing weights.
        radius: Longest step towards a row; none: the farthest but ``bad``.
        bad: Bad nodes that are expected among those received.
    """
    # Without the own row, whose distance of 0 would shift the ranks.
    others = distances[:, 1:].sort(dim=1, descending=True).values
    if radius is not None or not others.shape[1]:
        limit = distances.new_tensor(radius or 0.0)
    else:
        # Descending: behind the ``bad`` farthest; with fewer neighbours than that,
        # the nearest.
        limit = others[:, min(bad, others.shape[1] - 1), None]
    # A row equal to one's own divides by 0, and is not chosen: nothing exceeds the
    # limit.
    return weights * torch.where(distances > limit, limit / distances, 1.0)
