"""Aggregation: what a node makes of the rows that it receives, and of its own.

A rule is one of two functions, for g nodes each of which has m rows before it, its
own first:

- ``(values, weights) -> rows``: from the values [g, m, c] of some columns, and the
  weights [g, m] of the mixing, to the new values [g, c];
- ``(distances, weights) -> weights``, with the trait ``sees="distances"``: from the
  distances [g, m] of whole rows from the node's own, to the weights of a sum of
  which the own row takes the rest.

Trait ``linear``: it is the weighted sum itself, x_i <- sum_j W_ij x_j, and keeps
what that keeps.

In a global merge all rows are looked at together; a rule that sees distances then
takes them from the median of all rows, number by number, since there is no row of
one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from decentral.exchange.base import CHUNK_BYTES, NeighbourIndex, ordered_sums
from decentral.plugins import describe, is_users, wrong
from decentral.registry import ConfiguredPlugin, Count, Positive, plugin
from decentral.traits import AggregationTraits, traits_of

# --- rules ------------------------------------------------------------------------


@plugin("aggregation", linear=True)
def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Add up with the weights of the mixing, x_i <- sum_j W_ij x_j: one bad row
    reaches all.
    """
    return (weights[:, :, None] * values).sum(1)


@plugin("aggregation")
def median(values: Tensor, weights: Tensor) -> Tensor:
    """Take the median of the own row and of all that is received, number by number.

    Of an even number the mean of the two in the middle. While fewer than half of
    these rows are bad, every number stays within the range of the good ones;
    weights do not matter. (Yin et al., "Byzantine-robust distributed learning",
    ICML 2018.)
    """
    return middle(values, 1)


@plugin("aggregation", cuts="cut")
def trimmed_mean(values: Tensor, weights: Tensor, *, cut: Count = 1) -> Tensor:
    """Average the own row and what is received, number by number, without ``cut``
    at either end.

    Up to ``cut`` bad rows cannot move a number out of the range of the good ones;
    weights do not matter. Where there are too few rows, as many are left out as
    leave one or two. (Yin et al., "Byzantine-robust distributed learning", ICML
    2018.)

    Args:
        values: Rows received, number by number.
        weights: Their mixing weights.
        cut: Values left out at either end.
    """
    return mean_of_middle(values, cut, 1)


@plugin("aggregation", sees="distances")
def clipping(
    distances: Tensor,
    weights: Tensor,
    *,
    radius: Positive | None = None,
    bad: Annotated[int, Ge(0)] = 1,
) -> Tensor:
    """Clip around oneself: x_i <- x_i + sum_j W_ij clip(x_j - x_i), to a length of
    t_i at most.

    t_i is ``radius`` or, as in the authors' code, the distance of the farthest row
    but ``bad``, so that a bad node pulls no harder than a good one. (He,
    Karimireddy & Jaggi, "Byzantine-robust decentralized learning via
    ClippedGossip", 2022.)

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


# --- rows aggregated in bounded memory --------------------------------------------


#: Columns looked at together, at least.
FEWEST = 16


@dataclass(frozen=True)
class _Group:
    """Nodes that receive equally many: ``places`` of rows in a pool, the own first."""

    receivers: Tensor  # [g]
    places: Tensor  # [g, m]
    weights: Tensor  # [g, m]


def aggregate(
    rule: ConfiguredPlugin,
    own: Tensor,
    sent: Tensor,
    inbox: Tensor,
    neighbours: NeighbourIndex,
) -> None:
    """Replace rows ``own`` [n, k] by what ``rule`` makes of them and of what their
    nodes receive.

    Hosted nodes have ``sent`` [n, k], which need not be what they hold; ``inbox``
    [h, k] came from other workers. Columns are taken in chunks; beside these,
    memory holds some numbers per link.

    Args:
        rule: The aggregation.
        own: Rows of the hosted nodes, [n, k]; changed in place.
        sent: What the hosted nodes send, [n, k].
        inbox: Rows from other workers, [h, k].
        neighbours: Who receives what.
    """
    if not len(neighbours.receivers):
        return
    if traits_of(rule, AggregationTraits).linear:
        _sum(own, sent, inbox, neighbours)
        return
    # Rules work on a plain tensor [g, m, c]: padding nodes of fewer neighbours with
    # rows would move their medians, so nodes of equal count go together instead.
    groups = _groups(own, neighbours)
    if traits_of(rule, AggregationTraits).sees == "distances":
        # How hard a row may pull depends on its distance over all columns: one pass
        # adds up the distances, and only a second one moves rows.
        squares = [torch.zeros_like(group.weights) for group in groups]
        for _, pool in _pools(own, sent, inbox, neighbours):
            for group, found in zip(groups, squares, strict=True):
                values = pool[group.places]
                found += (values - values[:, :1]).square().sum(2)
        groups = [
            _reweight(rule, g, found.sqrt())
            for g, found in zip(groups, squares, strict=True)
        ]
        made: Callable[[Tensor, Tensor], Tensor] = _move_towards
    else:
        made = partial(_apply, rule)
    for columns, pool in _pools(own, sent, inbox, neighbours):
        for group in groups:
            # Safe in place: the pool is a copy, so a later group still sees the old
            # rows.
            own[group.receivers, columns] = made(pool[group.places], group.weights)


def _reweight(rule: ConfiguredPlugin, group: _Group, distances: Tensor) -> _Group:
    return _Group(group.receivers, group.places, _apply(rule, distances, group.weights))


def _apply(rule: ConfiguredPlugin, given: Tensor, weights: Tensor) -> Tensor:
    """Return what a rule makes of values [g, m, c] or of distances [g, m], if it is
    that.

    Args:
        rule: The aggregation.
        given: The values, or the distances.
        weights: Weights of the mixing, [g, m].
    """
    found = rule(given, weights)
    shape = [given.shape[0], *given.shape[2:]] if given.dim() > 2 else list(given.shape)
    if not isinstance(found, Tensor) or list(found.shape) != shape:
        raise wrong(rule, describe(found), f"a tensor of shape {shape}")
    # Bad nodes may send NaN, and what is shipped is looked at by the laws.
    if is_users(rule) and not torch.isfinite(found).all() and torch.isfinite(given).all():
        raise wrong(rule, "NaN or infinite numbers", "finite ones for finite ones")
    return found


def _move_towards(values: Tensor, weights: Tensor) -> Tensor:
    """Return x_i + sum_j w_j (x_j - x_i), [g, c]."""
    own = values[:, 0]
    return own + (weights[:, 1:, None] * (values[:, 1:] - own[:, None])).sum(1)


def _pools(
    own: Tensor, sent: Tensor, inbox: Tensor, neighbours: NeighbourIndex
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (columns, rows of these columns): what is held, what is sent here, what
    has arrived.
    """
    entries = len(neighbours.senders) + 2 * len(own) + len(inbox)
    each = max(FEWEST, CHUNK_BYTES // (entries * own.element_size()))
    for begin in range(0, own.shape[1], each):
        columns = slice(begin, begin + each)
        yield columns, torch.cat([own[:, columns], sent[:, columns], inbox[:, columns]])


def _places(own: Tensor, neighbours: NeighbourIndex) -> tuple[np.ndarray, np.ndarray]:
    """Return the place in a pool of all that is received, and whose span it belongs
    to.
    """
    counts = np.diff(neighbours.offsets, append=len(neighbours.senders))
    receivers = np.repeat(neighbours.receivers, counts)
    # A node takes itself from what it holds, anybody else from what that one sends:
    # a bad node deceives others, not itself. Pool: own rows, sent rows, inbox.
    mine = neighbours.senders == receivers
    return np.where(mine, neighbours.senders, neighbours.senders + len(own)), counts


def _groups(own: Tensor, neighbours: NeighbourIndex) -> list[_Group]:
    places, counts = _places(own, neighbours)
    groups: list[_Group] = []
    for count in np.unique(counts):
        chosen = np.flatnonzero(counts == count)
        spans = neighbours.offsets[chosen, None] + np.arange(count)
        theirs, weights = places[spans], neighbours.weights[spans]
        # Stable: the own row comes first, the others stay in ascending order, in
        # which sums have the bits of an ordered exchange.
        first = np.argsort(
            theirs != neighbours.receivers[chosen, None], axis=1, kind="stable"
        )
        theirs, weights = (np.take_along_axis(a, first, 1) for a in (theirs, weights))
        groups.append(
            _Group(
                torch.from_numpy(neighbours.receivers[chosen]).to(own.device),
                torch.from_numpy(theirs).to(own.device),
                torch.from_numpy(weights).to(own),
            )
        )
    return groups


def _sum(own: Tensor, sent: Tensor, inbox: Tensor, neighbours: NeighbourIndex) -> None:
    """Take weighted sums, with the bits of an exchange that adds up in order."""
    places, _ = _places(own, neighbours)
    device = own.device
    senders, offsets = (
        torch.from_numpy(a).to(device) for a in (places, neighbours.offsets)
    )
    receivers, weights = (
        torch.from_numpy(neighbours.receivers).to(device),
        torch.from_numpy(neighbours.weights),
    )
    for columns, pool in _pools(own, sent, inbox, neighbours):
        own[receivers, columns] = ordered_sums(pool, senders, weights.to(own), offsets)


def aggregate_all(
    rule: ConfiguredPlugin,
    gather: Callable[[Tensor], Tensor],
    sent: Tensor,
    weights: Tensor,
) -> Tensor:
    """Return what ``rule`` makes of all rows that take part, [k]; ``weights`` [n]
    are the merge's.

    ``gather`` returns the rows of all workers; it is called for a few columns at a
    time.

    Args:
        rule: The aggregation.
        gather: Returns the rows of all workers for some columns, [N, c].
        sent: What the hosted nodes send, [n, k].
        weights: Weights of the merge, [N].
    """
    shares = gather(weights)
    # Nodes without weight (bad, quarantined, unavailable) have to be cut out here:
    # a median looks at no weights.
    taking, shares = shares > 0, shares[shares > 0].to(sent)[None]
    # Every worker gets these columns of all N rows: few at a time, or memory would
    # hold the models of all nodes.
    each = max(FEWEST, CHUNK_BYTES // (len(taking) * sent.element_size()))
    chunks = [slice(a, a + each) for a in range(0, sent.shape[1], each)]
    values = lambda columns: gather(sent[:, columns].contiguous())[taking.to(sent.device)]  # noqa: E731
    if traits_of(rule, AggregationTraits).sees != "distances":
        return torch.cat(
            [_apply(rule, values(columns)[None], shares)[0] for columns in chunks]
        )
    return _around_median(rule, values, chunks, shares)


def _around_median(
    rule: ConfiguredPlugin,
    values: Callable[[slice], Tensor],
    chunks: list[slice],
    shares: Tensor,
) -> Tensor:
    """Aggregate by distances from the median of all rows, which stands for one's
    own.
    """
    squares, middles = torch.zeros_like(shares), list[Tensor]()
    for columns in chunks:
        rows = values(columns)
        middles.append(middle(rows, 0))
        squares += (rows - middles[-1]).square().sum(1)
    # The median stands in the first place, where rules expect the own row: no
    # distance, no weight.
    own = torch.zeros_like(shares[:, :1])
    found = _apply(rule, torch.cat([own, squares.sqrt()], 1), torch.cat([own, shares], 1))
    parts = [
        # Gathered once more: keeping the first pass would be all rows in memory.
        _move_towards(torch.cat([middle[None], values(columns)])[None], found)[0]
        for columns, middle in zip(chunks, middles, strict=True)
    ]
    return torch.cat(parts)


# --- means of what is left between the extremes -----------------------------------


def mean_of_middle(values: Tensor, cut: int, dim: int) -> Tensor:
    """Return the mean along ``dim`` without the ``cut`` least and the ``cut``
    greatest values.

    One or two always stay: those in the middle, whose mean is the median.
    """
    count = values.shape[dim]
    cut = min(cut, (count - 1) // 2)
    return values.sort(dim=dim).values.narrow(dim, cut, count - 2 * cut).mean(dim=dim)


def middle(values: Tensor, dim: int) -> Tensor:
    """Return the median along ``dim``; of an even number the mean of the two in the
    middle.
    """
    return mean_of_middle(values, values.shape[dim], dim)
