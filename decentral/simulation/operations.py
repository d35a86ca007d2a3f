"""What events do to rows, done a little later: many rows in one call.

Events decide by numbers alone, and nobody looks at a row before gradients are
computed. Until then operations wait. Those that are alike and touch different
things are done together; what reads or changes a thing comes after what changed it
last. A call for many tensors does the arithmetic of one call for each: the bits are
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from decentral.algorithms.node import Version
from decentral.exchange.base import ordered_sums
from decentral.private import add_all, copy_all, multiply_all


class Touched(Protocol):
    """What operations read and change: a node's row, or a version.

    ``written`` is the level after which it can be read, ``touched`` that after
    which it can be changed.
    """

    written: int
    touched: int


class Operations:
    """Operations that wait, level by level: those of one level touch different
    things.
    """

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._levels: list[dict[Any, list[Any]]] = []
        #: The level of what is asked for first; levels count on for ever.
        self._base = 0

    def add(
        self,
        do: Callable[..., None],
        key: tuple[Hashable, ...],
        item: Any,
        reads: Sequence[Touched],
        writes: Sequence[Touched],
    ) -> None:
        """Let something be done, at the latest by `finish`.

        Args:
            do: Is called with a list of items, and the key.
            key: What it does in the same way for all of these.
            item: What it does it to.
            reads: What it reads.
            writes: What it changes, which it may read as well.
        """
        base = level = self._base
        for one in reads:
            if one.written > level:
                level = one.written
        for one in writes:
            if one.touched > level:
                level = one.touched
        after = level + 1
        for one in reads:
            if one.touched < after:
                one.touched = after
        for one in writes:
            one.written = one.touched = after
        levels, place = self._levels, level - base
        if place == len(levels):
            levels.append({})
        at, what = levels[place], (do, key)
        items = at.get(what)
        if items is None:
            at[what] = [item]
        else:
            items.append(item)

    def finish(self) -> None:
        """Do all that waits."""
        levels, self._levels = self._levels, []
        self._base += len(levels)
        for level in levels:
            for (do, key), items in level.items():
                do(items, *key)


# --- what can be done -------------------------------------------------------------


def keep(items: list[tuple[Version, Tensor]]) -> None:
    """Let every version be a copy of a row, or of a part of one."""
    for version, row in items:
        version.tensor = row.clone()


def mix(items: list[tuple[Tensor, float, list[tuple[float, Version]]]]) -> None:
    """Let each x be own x + sum_j w_j x_j, added term by term in the order given."""
    multiply_all([row for row, _, _ in items], [own for _, own, _ in items])
    for place in range(max(len(terms) for _, _, terms in items)):
        # Those of one weight together: a call has one factor.
        alike: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        for row, _, terms in items:
            if place < len(terms):
                weight, version = terms[place]
                rows, others = alike.setdefault(weight, ([], []))
                rows.append(row)
                others.append(version.held)
        for weight, (rows, others) in alike.items():
            add_all(rows, others, weight)


def add_up(items: list[tuple[Version, Tensor, list[tuple[float, Version]]]]) -> None:
    """Let every version be a weighted sum of others, as long as a row; of none:
    zero.
    """
    for made, row, terms in items:
        made.tensor = total = torch.zeros_like(row)
        for weight, version in terms:
            total.add_(version.held, alpha=weight)


def join(items: list[tuple[Version, Version, float]]) -> None:
    """Move every version towards a newer one, by a share of their difference."""
    for waiting, newer, share in items:
        waiting.held.lerp_(newer.held, share)


def average(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Replace the rows of every pair by their mean."""
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    add_all(first, second, 1)
    multiply_all(first, [0.5] * len(first))
    copy_all(second, first)


def share_difference(items: list[tuple[Tensor, Tensor, Version, Version]]) -> None:
    """Move the rows of every pair by half of the difference of two versions, so
    that what others did meanwhile stays.
    """
    for row, other, own, theirs in items:
        half = (theirs.held - own.held).mul_(0.5)
        row.add_(half)
        other.sub_(half)


def mix_round(items: list[tuple[Tensor, Sequence[Version], Tensor]]) -> None:
    """Let every x_i be sum_j W_ij x_j, by the sums of a synchronous round."""
    for row, versions, weights in items:
        rows = torch.stack([one.held for one in versions])
        places = torch.arange(len(versions), device=row.device)
        row.copy_(ordered_sums(rows, places, weights, places[:1])[0])
