"""Labels of nodes: what a graph calls them. Numbers, 0 to N-1, are what a run calls
them.

Settings that name nodes take either: a whole number is a node's number, text is its
label, also where the label is a number in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NewType, cast

from decentral.errors import ConfigError, nearest

#: The number of a node, 0 to N-1, which it keeps whatever becomes of others: draws,
#: checkpoints and messages go by it.
NodeId = NewType("NodeId", int)
#: The place of a node among those that take part now: rows, topology and exchange
#: go by it. As long as nobody is lost, it is the same number.
Position = NewType("Position", int)
#: The place of a row in the block that a worker hosts, or among models that were
#: loaded: what indexes a tensor of rows. On one worker that hosts everybody it is
#: the same number as the position, which is why only a type keeps them apart.
RowIndex = NewType("RowIndex", int)

#: The attribute of a node that holds its label.
LABEL = "label"

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_SPACE = re.compile(r"\s+")


def all_ids(nodes: int) -> Sequence[NodeId]:
    """Return the ids 0 to N-1 of all nodes of a run; without a list of them.

    >>> list(all_ids(3))
    [0, 1, 2]
    """
    return cast("Sequence[NodeId]", range(nodes))


def number_nodes(graph: Any) -> Any:
    """Return a graph on nodes 0..n-1: whole numbers in ascending order, others in
    the graph's.

    Nodes keep as ``label`` what they were called, unless the graph has labels of
    its own.
    """
    nodes = list(graph)
    if set(nodes) == set(range(len(nodes))):
        return graph
    names = [label_text(node) for node in nodes]
    # 10 comes after 9, and not after 1 as texts would have it.
    order = in_order(names) or range(len(nodes))
    places = {nodes[k]: number for number, k in enumerate(order)}
    made = graph.__class__()
    made.graph.update(graph.graph)
    made.add_nodes_from(
        (places[nodes[k]], {LABEL: names[k], **graph.nodes[nodes[k]]}) for k in order
    )
    made.add_edges_from(
        (places[a], places[b], data) for a, b, data in graph.edges(data=True)
    )
    return made


def labels_of(graph: Any) -> tuple[str, ...]:
    """Return the labels of the nodes 0..n-1 of a graph."""
    return tuple(label_text(graph.nodes[k].get(LABEL, k)) for k in range(len(graph)))


def label_text(node: Any) -> str:
    """Return the label of a node as one line of text."""
    return _SPACE.sub(" ", str(node)).strip()


def in_order(labels: Sequence[str]) -> list[int] | None:
    """Return the places of labels that are whole numbers, ascending; None: some are
    not.

    Labels that are the same number, such as 1 and 01, are not, either.

    >>> in_order(["10", "9"]), in_order(["Oslo", "9"])
    ([1, 0], None)
    """
    if not all(_WHOLE.fullmatch(label) for label in labels):
        return None
    numbers = [int(label) for label in labels]
    if len(set(numbers)) < len(numbers):
        return None
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether labels say no more than the numbers of nodes do."""
    return all(label == str(node) for node, label in enumerate(labels))


@dataclass(frozen=True)
class NodeLabels:
    """Turns what settings name into numbers of nodes: the one place that does."""

    nodes: int
    read: Callable[[], Sequence[str]] | None = (
        None  # asked for only where a label is given
    )

    @cached_property
    def labels(self) -> Sequence[str]:
        """The labels, by number; where there are none, the numbers as text."""
        return self.read() if self.read else [str(node) for node in range(self.nodes)]

    def numbers(self, where: str, named: Iterable[int | str]) -> list[NodeId]:
        """Return the numbers of nodes given by number or label; raises ConfigError.

        Args:
            where: The setting, for messages.
            named: Its nodes.
        """
        return [self._find_label(where, n) if isinstance(n, str) else self._check_node(where, n)
                for n in named]  # fmt: skip

    def _check_node(self, where: str, node: int) -> NodeId:
        if 0 <= node < self.nodes:
            return NodeId(node)
        raise ConfigError(
            f"{where}: there is no node {node}; nodes are 0 to {self.nodes - 1}."
        )

    def _find_label(self, where: str, label: str) -> NodeId:
        wanted = label_text(label)
        found = [node for node, known in enumerate(self.labels) if known == wanted]
        if len(found) == 1:
            return NodeId(found[0])
        if found:
            several = " and ".join(map(str, found[:3]))
            raise ConfigError(
                f"{where}: nodes {several} are all labelled {wanted!r}; give their numbers."
            )
        if are_numbers(self.labels):
            offer = "the topology has no labels"
        else:
            offer = "`decentral show topology` lists the labels"
        raise ConfigError(
            f"{where}: there is no node labelled {wanted!r}.{nearest(wanted, self.labels)} "
            f"Nodes are 0 to {self.nodes - 1}; {offer}."
        )
