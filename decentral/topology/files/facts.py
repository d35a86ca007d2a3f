"""What was read from a graph file, kept with the graph for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Where a graph keeps the facts about its file, and a node the weight of its own row, if a file
#: tells it.
FILE, OWN_WEIGHT = "file", "own_weight"

Span = tuple[float, float]


@dataclass(frozen=True)
class GraphFile:
    """Counts and ranges of a graph file, as it was read."""

    name: str
    form: str
    nodes: int
    links: int  # that are left
    directed: bool
    parallel: int  # links beside a better one between the same nodes
    loops: int  # links from a node to itself
    weights: Span | None = None
    ones: bool = False  # whether every link has the weight 1, which says nothing
    latency_s: Span | None = None
    bandwidth_Bps: Span | None = None
    lines: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])

    def line(self, one: int, other: int) -> int | None:
        """Return the line of the link between two nodes, if it has a weight and the file lines."""
        found = self.lines.get((one, other))
        return found or (None if self.directed else self.lines.get((other, one)))

    def plain(self) -> dict[str, Any]:
        """Return the facts in the types of JSON."""
        found = {key: value for key, value in vars(self).items() if key != "lines"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}  # pyright: ignore


def file_of(graph: Any) -> GraphFile | None:
    """Return the facts about the file that a graph was read from, if it was."""
    found = graph.graph.get(FILE)
    return found if isinstance(found, GraphFile) else None
