"""Tensors that belong together: one, a tuple of several, or several by name.

Inputs of a model with several arguments, targets of several kinds, and what a model
returns are trees whose leaves share their first dimensions. ``torch.func.vmap``
takes them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

#: A tensor, a tuple of trees, or trees by name.
Tree: TypeAlias = Any


def leaves(tree: Tree) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order.

    >>> [leaf.item() for leaf in leaves((torch.tensor(1), {"a": torch.tensor(2)}))]
    [1, 2]
    """
    if isinstance(tree, Tensor):
        yield tree
        return
    if not isinstance(tree, dict | tuple | list):
        raise TypeError(
            f"{type(tree).__name__} is no tensor, tuple or mapping of tensors"
        )
    for part in tree.values() if isinstance(tree, dict) else tree:
        yield from leaves(part)


def first_leaf(tree: Tree) -> Tensor:
    """Return the first tensor of a tree: its first dimensions are those of all."""
    return next(leaves(tree))


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Return a tree of what ``function`` makes of every tensor.

    Args:
        function: Called with a tensor of ``tree`` and those at its place in the
            others.
        tree: The tree that says what the result looks like.
        *others: Trees of the same structure.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {
            key: tree_map(function, part, *(other[key] for other in others))
            for key, part in tree.items()
        }
    return tuple(tree_map(function, *parts) for parts in zip(tree, *others, strict=True))


def tree_at(tree: Tree, index: Any) -> Tree:
    """Return every tensor of a tree at an index: a number, a slice, or a tensor of
    places.
    """
    return tree_map(lambda tensor: tensor[index], tree)


def tree_stack(trees: Sequence[Tree]) -> Tree:
    """Return trees of one structure as one, stacked along a new first dimension."""
    return tree_map(lambda *parts: torch.stack(parts), trees[0], *trees[1:])


def tree_cat(trees: Sequence[Tree]) -> Tree:
    """Return trees of one structure as one, end to end along their first dimension."""
    return tree_map(lambda *parts: torch.cat(parts), trees[0], *trees[1:])


def types(tree: Tree) -> str:
    """Return the types of a tree's numbers in words, each once.

    >>> types({"ids": torch.zeros(2, dtype=torch.long), "mask": torch.zeros(2)})
    'int64 and float32'
    """
    each = (str(leaf.dtype).removeprefix("torch.") for leaf in leaves(tree))
    return " and ".join(dict.fromkeys(each))


def shapes(tree: Tree, skip: int = 0) -> str:
    """Return the shapes of a tree in words, without the ``skip`` first dimensions.

    >>> shapes({"ids": torch.zeros(2, 3), "mask": torch.zeros(2)}, skip=1)
    'ids [3], mask []'
    """
    if isinstance(tree, Tensor):
        return str(list(tree.shape[skip:]))
    if not isinstance(tree, dict | tuple | list):
        raise TypeError(
            f"{type(tree).__name__} is no tensor, tuple or mapping of tensors"
        )
    if isinstance(tree, dict):
        return ", ".join(f"{key} {shapes(part, skip)}" for key, part in tree.items())
    return ", ".join(shapes(part, skip) for part in tree)
