"""Splits: who holds which samples.

A split is a function ``(labels, nodes, seed) -> shares``: from the class of every
training sample [m] (all zero without classes) to a matrix [classes, nodes] whose
row c says how class c is divided. Deterministic rounding turns shares into disjoint
shards; no node stays empty. A user's may return the shards themselves instead: for
every node the indices of its samples, in a list, or in a mapping by node. One that draws
preferences of nodes returns these, as `Preferences`: nodes that draw from all samples
(``sampling: resample``) follow them as they are. The trait ``needs_classes`` says that
a split means nothing without classes: for such a task it is refused where the user
asked for it, and iid taken where it is only the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, Count, Positive, plugin

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Preferences:
    """How likely every node is to draw a sample of every class, [classes, nodes].

    Samples that are dealt out go to the nodes in proportion to a class's row, or by
    ``shares`` where probabilities are too small to be divided.
    """

    probability: Floats
    shares: Floats | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        """Return the shares, as other splits do."""
        shares = self.probability if self.shares is None else self.shares
        return np.array(shares, dtype=dtype, copy=copy)


def shards(
    rule: ConfiguredPlugin, labels: Integers, nodes: int, seed: int
) -> list[Integers]:
    """Divide the samples 0..m-1 among the nodes; every sample goes to exactly one
    node.

    Raises ConfigError when there are fewer samples than nodes.

    Args:
        rule: The split.
        labels: Class of every sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
    """
    if len(labels) < nodes:
        raise ConfigError(
            f"split {rule.name!r}: {len(labels)} training samples cannot give each of {nodes} "
            "nodes one; use fewer nodes or more data."
        )
    share, held = _divide(rule(labels, nodes, seed), rule, labels, nodes)
    if held is not None:
        return held
    parts: list[list[Integers]] = [[] for _ in range(nodes)]
    for label, (row, members) in enumerate(
        zip(share, group_by_label(labels, len(share)), strict=True)
    ):
        members = rng.generator(seed, "split/order", label).permutation(members)
        # Rounding sums rather than parts, so that every sample goes to exactly one
        # node.
        cuts = np.round(np.cumsum(row)[:-1] / row.sum() * len(members)).astype(np.int64)
        for node, part in enumerate(np.split(members, cuts)):
            parts[node].append(part)
    held = [np.sort(np.concatenate(part)) for part in parts]
    return _fill_empty(held)


def group_by_label(labels: Integers, count: int) -> list[Integers]:
    """Return the samples of every label 0..count-1, ascending, by one sort.

    >>> [part.tolist() for part in group_by_label(np.array([2, 0, 2]), 3)]
    [[1], [], [0, 2]]
    """
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(count + 1)))[1:-1]


def class_shares(
    rule: ConfiguredPlugin, labels: Integers, nodes: int, seed: int
) -> Floats:
    """Return how every class is divided among the nodes, [classes, nodes], rows
    summing to one.

    Args:
        rule: The split.
        labels: Class of every sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
    """
    return _divide(rule(labels, nodes, seed), rule, labels, nodes)[0]


def class_mixture(
    rule: ConfiguredPlugin, labels: Integers, nodes: int, seed: int
) -> Floats:
    """Return how likely a node that draws from all samples is to draw each class,
    [classes, nodes], columns summing to one.

    Preferences are taken as they are; of shares a node has of every class as much as
    it would hold of it. A node that has nothing draws from all.

    Args:
        rule: The split.
        labels: Class of every sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
    """
    returned = rule(labels, nodes, seed)
    share = _divide(returned, rule, labels, nodes)[0]
    sizes = np.bincount(labels, minlength=len(share))[:, None]
    if isinstance(returned, Preferences):
        # Divided among the nodes by rows, they would be others: by 0.09 in total
        # variation at Dirichlet(0.1), by 0.41 at most. What has no samples is never
        # drawn.
        weight = np.where(sizes > 0, returned.probability, 0.0)
    else:
        weight = share * sizes
    totals = weight.sum(0, keepdims=True)
    return np.where(totals > 0, weight, sizes) / np.where(totals > 0, totals, sizes.sum())


def _divide(
    returned: Any, rule: ConfiguredPlugin, labels: Integers, nodes: int
) -> tuple[Floats, list[Integers] | None]:
    """Return the shares of `class_shares`, and the shards if a split returned these.

    Args:
        returned: What the split returned.
        rule: The split.
        labels: Class of every sample, [m].
        nodes: Number of nodes.
    """
    classes = int(labels.max()) + 1
    expected = (
        f"finite shares of at least 0, [{classes} classes, {nodes} nodes], or the indices of "
        "each node's samples"
    )
    if (parts := _as_parts(returned, classes, nodes)) is not None:
        held = _check_parts(rule, parts, len(labels))
        count = [np.bincount(labels[part], minlength=classes) for part in held]
        return _normalize(np.stack(count, axis=1).astype(np.float64)), held
    try:
        share = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, or rows of different lengths
        raise wrong(rule, describe(returned), expected) from error
    if share.shape != (classes, nodes):
        raise wrong(rule, f"shares of shape {list(share.shape)}", expected)
    if not np.isfinite(share).all() or share.min() < 0:
        raise wrong(rule, "shares that are negative, NaN or infinite", expected)
    return _normalize(share), None


def _normalize(share: Floats) -> Floats:
    """Return shares [classes, nodes] whose rows sum to one; of nothing all get as
    much.
    """
    totals = share.sum(1, keepdims=True)
    evenly = 1.0 / share.shape[1]
    return np.where(totals > 0, share / np.where(totals > 0, totals, 1), evenly)


def _as_parts(returned: Any, classes: int, nodes: int) -> list[Integers] | None:
    """Return the indices of every node's samples, if that is what a split returned."""
    if isinstance(returned, Mapping):
        by_node: Any = returned
        if {*by_node} != {*range(nodes)}:
            return None
        returned = [by_node[node] for node in range(nodes)]
    if not isinstance(returned, list | tuple) or len(returned) != nodes:  # pyright: ignore[reportUnknownArgumentType]
        return None
    parts = [np.asarray(part) for part in returned]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    whole = all(p.ndim == 1 and (p.dtype.kind in "iu" or not p.size) for p in parts)
    # a square of whole numbers is taken for shares, as it always was
    square = classes == nodes and all(len(part) == nodes for part in parts)
    return [p.astype(np.int64) for p in parts] if whole and not square else None


def _check_parts(
    rule: ConfiguredPlugin, parts: list[Integers], samples: int
) -> list[Integers]:
    """Return every node's samples in order, if each is of one node and none is empty."""
    every = np.concatenate(parts)
    expected = (
        f"indices from 0 to {samples - 1}, each for one node, and some for every node"
    )
    if empty := [node for node, part in enumerate(parts) if not len(part)]:
        raise wrong(rule, f"no sample for node {empty[0]}", expected)
    if every.min() < 0 or every.max() >= samples:
        strange = every[(every < 0) | (every >= samples)][0]
        raise wrong(rule, f"the index {strange}", expected)
    found, counts = np.unique(every, return_counts=True)
    if counts.max() > 1:
        raise wrong(rule, f"sample {found[counts.argmax()]} more than once", expected)
    return [np.sort(part) for part in parts]


def _fill_empty(held: list[Integers]) -> list[Integers]:
    """Give every empty node one sample of the node that then holds most."""
    for node, part in enumerate(held):
        if not len(part):
            # The first of equals, so that the split does not depend on the machine.
            richest = max(range(len(held)), key=lambda other: len(held[other]))
            held[node], held[richest] = held[richest][-1:], held[richest][:-1]
    return held


@plugin("split")
def iid(labels: NDArray[np.int64], nodes: int, seed: int) -> NDArray[np.float64]:
    """Give every node an equal share of every class.

    Args:
        labels: Class of every training sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
    """
    return np.full((int(labels.max()) + 1, nodes), 1.0 / nodes)


@plugin("split", needs_classes=True)
def classes(
    labels: NDArray[np.int64], nodes: int, seed: int, *, k: Count = 2
) -> NDArray[np.float64]:
    """Give every node ``k`` classes, dealt so that each class has nearly equally
    many holders.

    (The "pathological" split of McMahan et al., 2017.) Classes that no node was
    dealt, when nodes x k is less than the number of classes, are divided equally.

    Args:
        labels: Class of every training sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
        k: Classes of a node.
    """
    total = int(labels.max()) + 1
    if k > total:
        raise ConfigError(f"split 'classes': k = {k}, but the task has {total} classes.")
    order = rng.generator(seed, "split/classes").permutation(total)
    share = np.zeros((total, nodes))
    for node in range(nodes):
        share[order[[(node * k + place) % total for place in range(k)]], node] = 1.0
    return share


@plugin("split", needs_classes=True)
def dirichlet(
    labels: NDArray[np.int64],
    nodes: int,
    seed: int,
    *,
    alpha: Positive = 0.1,
    by: Literal["node", "class"] = "node",
) -> Floats | Preferences:
    """Skew labels by draws from Dirichlet(alpha): 0.1 is very uneven, 100 is nearly
    IID.

    ``by="node"``: every node draws its class preferences p_i over the classes, and
    class c is divided among the nodes in proportion to p_ic (after Hsu, Qi & Brown,
    "Measuring the effects of non-identical data distribution", 2019).
    ``by="class"``: every class draws its proportions over the nodes (Yurochkin et
    al., 2019), which makes the amounts of data very uneven as well.

    Args:
        labels: Class of every training sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
        alpha: Concentration: the smaller, the more uneven.
        by: Whether each ``node`` or each ``class`` draws its proportions.
    """
    draw = rng.generator(seed, "split/dirichlet")
    classes = int(labels.max()) + 1
    if alpha < _TINY:
        shape = (classes, nodes) if by == "class" else (nodes, classes)
        log = _log_dirichlet(draw, alpha, shape)
        # Divided among the nodes before they are numbers: the largest of a class
        # never vanishes.
        shares = log if by == "class" else log.T
        shares = np.exp(shares - np.logaddexp.reduce(shares, axis=1, keepdims=True))
        return shares if by == "class" else Preferences(np.exp(log.T), shares)
    if by == "class":
        return draw.dirichlet(np.full(nodes, alpha), size=classes)
    return Preferences(draw.dirichlet(np.full(classes, alpha), size=nodes).T)


#: Below this concentration numpy breaks a stick, so that shares below 1e-16 vanish:
#: for all nodes, now and then, and a class is then dealt out evenly.
_TINY = 0.1


def _log_dirichlet(
    draw: np.random.Generator, alpha: float, shape: tuple[int, int]
) -> Floats:
    """Return logarithms of draws from Dirichlet(alpha), one for each row.

    Gamma(alpha) is Gamma(alpha + 1) U^(1 / alpha), whose logarithm is a number for
    any alpha. (Marsaglia & Tsang, "A simple method for generating gamma variables",
    2000.)
    """
    uniform = 1.0 - draw.random(shape)
    log = np.log(draw.standard_gamma(alpha + 1.0, shape)) + np.log(uniform) / alpha
    return log - np.logaddexp.reduce(log, axis=1, keepdims=True)


@plugin("split")
def quantity(
    labels: NDArray[np.int64], nodes: int, seed: int, *, alpha: Positive = 1.0
) -> NDArray[np.float64]:
    """Divide every class by the same proportions, drawn once from Dirichlet(alpha).

    Args:
        labels: Class of every training sample, [m].
        nodes: Number of nodes.
        seed: Seed of the run.
        alpha: Concentration: the smaller, the more uneven.
    """
    sizes = rng.generator(seed, "split/quantity").dirichlet(np.full(nodes, alpha))
    return np.tile(sizes, (int(labels.max()) + 1, 1))
