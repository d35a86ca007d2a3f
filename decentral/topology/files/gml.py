"""GML: nested lists of keys and values. Ids are whole numbers, links may be
parallel.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from decentral.topology.files.content import (
    Content,
    Unreadable,
    decimal,
    only,
    quote_value,
    whole,
)

_TOKEN = re.compile(
    r"""(?P<space>\s+|^\#[^\n]*)
    |(?P<text>"[^"]*")
    |(?P<open>\[)
    |(?P<close>\])
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:,\d+)?(?:[eE][-+]?\d+)?(?![\w.])|[-+]?INF\b|NAN\b)
    |(?P<key>[^\W\d]\w*)
    |(?P<other>\S)""",
    re.VERBOSE | re.MULTILINE,
)
_DEEPEST = 100


@dataclass(slots=True)
class Block:
    """A list ``[ key value ... ]``: keys may repeat."""

    line: int
    entries: list[tuple[str, Any, int]] = field(
        default_factory=list[tuple[str, Any, int]]
    )

    def all(self, key: str) -> Iterator[tuple[Any, int]]:
        """Return the values of a key, with their lines."""
        return ((value, line) for name, value, line in self.entries if name == key)

    def one(self, key: str, of: str) -> Any:
        """Return the value of a key that must be there once."""
        found = list(self.all(key))
        if len(found) != 1:
            raise Unreadable(f"{of} has {len(found)} values of {key!r}", "one", self.line)
        return found[0][0]

    def plain(self, *without: str) -> dict[str, Any]:
        """Return the values that are no lists themselves; of a key that repeats,
        all.
        """
        found: dict[str, Any] = {}
        for key, value, _ in self.entries:
            if key not in without and not isinstance(value, Block):
                found[key] = [*_several(found[key]), value] if key in found else value
        return found


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]  # pyright: ignore


def read_gml(text: str) -> Content:
    """Read GML, with or without the flag ``multigraph``: links are what the file
    lists.
    """
    graphs = [(value, line) for value, line in _parse(text).all("graph")]
    graph, line = only(graphs, "graph", 1)
    if not isinstance(graph, Block):
        raise Unreadable(f"graph is {quote_value(graph)}", "graph [ ... ]", line)
    directed = next((value for value, _ in graph.all("directed")), 0)
    if directed not in (0, 1):
        raise Unreadable(f"directed is {quote_value(directed)}", "0 or 1", graph.line)
    content = Content(
        "GML", directed=directed == 1, about=graph.plain("directed", "multigraph")
    )
    for node, at in graph.all("node"):
        data = _block(node, "node", at)
        number = whole(data.one("id", "a node"), "the id of a node", at, least=None)
        content.add_node(number, data.plain("id"), at)
    for edge, at in graph.all("edge"):
        data = _block(edge, "edge", at)
        one, other = (
            whole(data.one(end, "an edge"), f"the {end} of an edge", at, least=None)
            for end in ("source", "target")
        )
        # A multigraph's writer numbers parallel links by a key; it tells nothing
        # about them.
        content.add_link((one, other), data.plain("source", "target", "key"), at)
    content.check()
    return content


def _block(value: Any, key: str, line: int) -> Block:
    if not isinstance(value, Block):
        raise Unreadable(f"{key} is {quote_value(value)}", f"{key} [ ... ]", line)
    return value


def _parse(text: str) -> Block:
    """Return the outermost list, which stands without brackets."""
    stack, key, line = [Block(1)], "", 1
    for token in _TOKEN.finditer(text):
        kind, found = str(token.lastgroup), token[0]
        if kind == "close" and not key and len(stack) > 1:
            stack.pop()
        elif kind == "key" and not key:
            key = found
        elif kind == "open" and key:
            if len(stack) > _DEEPEST:
                raise Unreadable(f"lists are nested {_DEEPEST} deep", "a graph", line)
            inner = Block(line)
            stack[-1].entries.append((key, inner, line))
            stack.append(inner)
            key = ""
        elif kind in ("text", "number") and key:
            value = html.unescape(found[1:-1]) if kind == "text" else _number(found, line)
            stack[-1].entries.append((key, value, line))
            key = ""
        elif kind != "space":
            expected = f"a value of {key!r}" if key else "a key, or ]"
            raise Unreadable(f"it reads {quote_value(found)}", expected, line)
        # Texts may go over several lines.
        line += found.count("\n")
    if key or len(stack) > 1:
        awaited = (
            f"a value of {key!r}"
            if key
            else f"the ] of the list of line {stack[-1].line}"
        )
        raise Unreadable("the file ends too early", awaited, line)
    return stack[0]


def _number(text: str, line: int) -> int | float:
    try:
        return int(text)
    except ValueError:
        return decimal(text, "a value", line)
