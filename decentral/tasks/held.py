"""What was read of a split: inputs and targets of all samples, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decentral.errors import ConfigError, nearest
from decentral.pytree import Tree, first_leaf, leaves
from decentral.tasks.arrays import Values, is_text

#: What the target is called in a table or a mapping, unless its name is given.
TARGETS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Keys:
    """How to read: names within tables and mappings, and the most samples of a stream."""

    target: str = ""
    owners: str = ""
    stream: int = 1_000_000


@dataclass(frozen=True)
class Held:
    """What was read: inputs and targets [m, ...] of all samples.

    Targets may be text, which names classes; ``owners`` is the column of that name, ``columns`` the
    names of a table's columns that became one matrix.
    """

    inputs: Tree
    targets: Any
    owners: Values | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of samples."""
        return _count(first_leaf(self.inputs))

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors, text aside."""
        yield from leaves(self.inputs)
        if not is_text(self.targets):
            yield from leaves(self.targets)

    def check(self, split: str) -> None:
        """Raise ConfigError where inputs and targets are not of one number, at least 1."""
        text = [len(self.targets)] if is_text(self.targets) else []
        wrong = [count for count in (*map(_count, self.tensors()), *text) if count != self.size]
        if wrong or self.size < 1:
            raise ConfigError(
                f"task: {split} has {self.size} inputs and {wrong[0] if wrong else self.size} "
                "targets; give as many of one as of the other, at least 1."
            )


def _count(tensor: Tensor) -> int:
    return len(tensor) if tensor.dim() else 0


def itself(split: str) -> str:
    """Say that a split without targets is learned by itself."""
    return f"{split} holds no targets: a model is to return its inputs."


def refuse_text(tree: Any, where: str) -> None:
    """Raise ConfigError for inputs that are text."""
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else [tree]
    for part in parts:
        if isinstance(part, dict | tuple):
            refuse_text(part, where)
        elif is_text(part):
            raise ConfigError(
                f"{where} hold text ({str(part.flat[0])[:40]!r}), and a model takes numbers; "
                "tokenize or encode it, or leave it out."
            )


def target_of(names: Iterable[str], split: str, keys: Keys) -> str:
    """Return the name of the target among the names of a table or a mapping.

    Args:
        names: The names there.
        split: train, val or test, for messages.
        keys: What the target is called, if that was said.

    Raises:
        ConfigError: There is none of that name, or of any usual one.
    """
    known = list(names)
    listed = ", ".join(known[:12])
    if keys.target and keys.target not in known:
        raise ConfigError(
            f"task: {split} has no {keys.target!r}.{nearest(keys.target, known)} It has {listed}."
        )
    found = [keys.target] if keys.target else [name for name in TARGETS if name in known]
    if not found:
        raise ConfigError(
            f"task: {split} has {listed}, and none of them is called {', '.join(TARGETS)}; name "
            "what is to be learned by Task(target=...)."
        )
    return found[0]
