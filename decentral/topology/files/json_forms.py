"""Graphs in JSON: node-link (networkx, D3), JSON Graph Format, Cytoscape.

The standard library tells where a text is no JSON, and of nothing else; here every
node and link keeps its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from decentral.topology.files.content import Content, Unreadable, only, quote_value

#: Objects that are walked through, by the key they stand at; "" is the outermost.
_FRAMES = ("", "graph", "elements")
#: What holds nodes and links, as a list or by id: their items keep their lines.
_ITEMS = ("nodes", "edges", "links", "graphs")
#: Objects in whose place a list of such items may stand.
_LISTS = ("", "elements")
_EXPECTED = (
    "'nodes' with 'links' or 'edges' (node-link, D3), 'graph' (JSON Graph Format) "
    "or 'elements' (Cytoscape)"
)
_SPACE = re.compile(r"[ \t\n\r]*")

Object = Mapping[str, Any]


class Item(NamedTuple):
    """One of the nodes, links or graphs of a file, and its key where they go by
    keys.
    """

    value: Any
    line: int
    key: str | None = None

    def fields(self, what: str) -> dict[str, Any]:
        """Return it as an object; raises Unreadable."""
        if not isinstance(self.value, dict):
            raise Unreadable(
                f"{_one(what)} is {quote_value(self.value)}", "an object { }", self.line
            )
        return cast("dict[str, Any]", self.value)


def _one(what: str) -> str:
    return f"an {what}" if what[0] in "ae" else f"a {what}"


def read_json(text: str) -> Content:
    """Read a graph in JSON, in the form that its keys show."""
    whole = _Walker(text).whole()
    if isinstance(whole, list):
        whole = {"elements": whole}
    if not isinstance(whole, dict):
        raise Unreadable(f"it is {quote_value(whole)}", _EXPECTED, 1)
    content = _form_of(cast(Object, whole))(whole)
    content.check()
    return content


def _form_of(whole: Object) -> Callable[[Any], Content]:
    if "nodes" in whole and ("links" in whole or "edges" in whole):
        return _node_link
    if "elements" in whole:
        return _cytoscape
    inner = whole.get("graph")
    if "graphs" in whole or (isinstance(inner, dict) and "nodes" in inner):
        return _jgf
    keys = ", ".join(sorted(map(str, whole))[:6]) or "nothing"
    raise Unreadable(f"it holds {keys}", _EXPECTED, 1)


class _Walker:
    """Reads JSON from the outside in, as far as nodes and links, and counts lines."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.line, self.counted = text, 0, 1, 0
        self.decoder = json.JSONDecoder(object_pairs_hook=self.unique)

    def whole(self) -> Any:
        try:
            found = self.value("")
            self.skip()
            if self.at < len(self.text):
                self.fail("it goes on after its end", "nothing more")
        except json.JSONDecodeError as error:
            expected = "JSON, to its end"
            raise Unreadable(
                f"it is no JSON here ({error.msg})", expected, error.lineno
            ) from None
        except RecursionError:
            raise Unreadable("values are nested too deep", "a graph", self.line) from None
        except ValueError as error:  # whole numbers of thousands of digits
            raise Unreadable(
                f"it cannot be read ({error})", "a graph", self.here()
            ) from None
        return found

    def fail(self, found: str, expected: str) -> None:
        raise Unreadable(found, expected, self.here())

    def here(self) -> int:
        """Return the line that has been reached."""
        # Only what came since the last look: counting from the start each time
        # would take time with the square of the file.
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = max(self.counted, self.at)
        return self.line

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Of a key given twice Python would keep the last one, in silence.
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            self.fail(f"the key {twice!r} is given twice", "every key once")
        return found

    def skip(self) -> str:
        """Go on to what is no space, and return it."""
        self.at = _SPACE.match(self.text, self.at).end()  # pyright: ignore
        return self.text[self.at : self.at + 1]

    def decode(self) -> Any:
        self.skip()
        found, self.at = self.decoder.raw_decode(self.text, self.at)
        return found

    def value(self, key: str) -> Any:
        opening = self.skip()
        if key in _FRAMES and opening == "{":
            return self.unique([(k, self.value(k)) for k in self.keys()])
        if key in (*_ITEMS, *_LISTS) and opening == "[":
            return [Item(self.item(key), line) for line in self.places("]")]
        if key in ("nodes", "edges", "links") and opening == "{":
            found = [Item(self.decode(), self.here(), k) for k in self.keys()]
            self.unique([(str(item.key), item) for item in found])
            return found
        return self.decode()

    def item(self, key: str) -> Any:
        return self.value("graph") if key == "graphs" else self.decode()

    def places(self, closing: str) -> Iterable[int]:
        """Stop at every element of a list or object, and return its line."""
        self.at += 1
        if self.skip() == closing:
            self.at += 1
            return
        while True:
            self.skip()
            yield self.here()
            mark = self.skip()
            if mark == closing:
                self.at += 1
                return
            self.pass_by(mark, ",")

    def keys(self) -> Iterable[str]:
        """Stop at every value of an object, and return its key."""
        for _ in self.places("}"):
            if self.skip() != '"':
                raise json.JSONDecodeError(
                    "expecting a key in double quotes", self.text, self.at
                )
            key = self.decode()
            self.pass_by(self.skip(), ":")
            yield key

    def pass_by(self, found: str, mark: str) -> None:
        if found != mark:
            raise json.JSONDecodeError(f"expecting {mark!r}", self.text, self.at)
        self.at += 1


# --- what the forms share ---------------------------------------------------------


def _items(whole: Object, key: str) -> list[Item]:
    found = whole.get(key, [])
    if not isinstance(found, list):
        raise Unreadable(f"{key!r} is {quote_value(found)}", f"a list of {key}", None)
    return cast("list[Item]", found)


def _flag(value: Any, what: str, line: int | None = None) -> bool:
    if not isinstance(value, bool):
        raise Unreadable(f"{what!r} is {quote_value(value)}", "true or false", line)
    return value


def _identity(value: Any, what: str, line: int) -> Hashable:
    """Return an id: text, a number, or, of networkx's tuples, a list of them.

    Args:
        value: What stands there.
        what: What it is, for messages.
        line: Where it stands.
    """
    if type(value) in (str, int):
        return value
    if isinstance(value, list):
        return tuple(_identity(each, what, line) for each in cast("list[Any]", value))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unreadable(
            f"{what} is {quote_value(value)}", "text or a whole number", line
        )
    return value


def _without(data: Object, *keys: str) -> dict[str, Any]:
    rest = dict(data)
    for key in keys:
        rest.pop(key, None)
    return rest


def _need(data: Object, key: str, what: str, line: int) -> Any:
    if key not in data:
        raise Unreadable(f"{_one(what)} has no {key!r}", f"{key!r} in every {what}", line)
    return data[key]


# --- node-link --------------------------------------------------------------------


def _node_link(whole: Object) -> Content:
    """Read what networkx 1 to 3 and D3 write: links name ids or, of old, places in
    the list.
    """
    if "links" in whole and "edges" in whole:
        raise Unreadable("it holds 'links' and 'edges'", "one of them", 1)
    about = whole.get("graph")
    content = Content("JSON, node-link", about=about if isinstance(about, dict) else {})
    content.directed = _flag(whole.get("directed", False), "directed")
    nodes = [(item, item.fields("node")) for item in _items(whole, "nodes")]
    links = [
        (item, data := item.fields("link"), *_ends(data, item.line))
        for item in _items(whole, "links" if "links" in whole else "edges")
    ]
    names = _names(nodes, [end for _, _, *ends in links for end in ends])
    for (item, data), name in zip(nodes, names.own, strict=True):
        content.add_node(name, _without(data, "id"), item.line)
    for item, data, one, other in links:
        ends = names.of(one), names.of(other)
        # networkx writes keys that tell parallel links apart; it merges links of
        # one key.
        content.add_link(ends, _without(data, "source", "target", "key"), item.line)
    return content


def _ends(data: Object, line: int) -> tuple[Hashable, Hashable]:
    one = _identity(_need(data, "source", "link", line), "the source of a link", line)
    other = _identity(_need(data, "target", "link", line), "the target of a link", line)
    return one, other


@dataclass(frozen=True)
class _Names:
    """What nodes are called, in their order, and whether links name them by place."""

    own: list[Hashable]
    by_place: bool

    def of(self, end: Hashable) -> Hashable:
        """Return the node that an end of a link names."""
        if self.by_place and isinstance(end, int) and 0 <= end < len(self.own):
            return self.own[end]
        return end


def _names(nodes: list[tuple[Item, dict[str, Any]]], ends: list[Hashable]) -> _Names:
    """Decide what links name: ids where all fit, else, as D3 3 and networkx 1 did,
    places.
    """
    if any(item.key is not None for item, _ in nodes):  # an object of nodes by id
        return _Names([item.key for item, _ in nodes], by_place=False)
    key = next(
        (key for key in ("id", "name") if any(key in data for _, data in nodes)), None
    )
    own: list[Hashable] = list(range(len(nodes)))
    if key is not None:
        own = [
            _identity(
                _need(data, key, "node", item.line), f"the {key} of a node", item.line
            )
            for item, data in nodes
        ]
    known = set(own)
    if all(end in known for end in ends):
        return _Names(own, by_place=False)
    places = all(isinstance(end, int) and 0 <= end < len(nodes) for end in ends)
    if key == "name" and places and len(known) < len(own):
        own = list(range(len(nodes)))  # names need not differ where links do not use them
    return _Names(own, by_place=places)


# --- JSON Graph Format ------------------------------------------------------------


def _jgf(whole: Object) -> Content:
    """Read JSON Graph Format, version 1 (a list of nodes) or 2 (nodes by id)."""
    graph: Any = whole.get("graph")
    if "graphs" in whole:
        graph = only((item.value for item in _items(whole, "graphs")), "graph", 1)
    if not isinstance(graph, dict):
        raise Unreadable(f"'graph' is {quote_value(graph)}", "an object { }", 1)
    graph = cast("dict[str, Any]", graph)
    if graph.get("hyperedges"):
        raise Unreadable("it holds hyperedges, which join several nodes", "edges", 1)
    content = Content(
        "JSON Graph Format", directed=_flag(graph.get("directed", True), "directed")
    )
    for item in _items(graph, "nodes"):
        data = item.fields("node")
        name = item.key if item.key is not None else _need(data, "id", "node", item.line)
        content.add_node(
            _identity(name, "the id of a node", item.line),
            _flatten(data, item.line, "id"),
            item.line,
        )
    for item in _items(graph, "edges"):
        data = item.fields("edge")
        one_way = data.get("directed")
        content.add_link(
            _ends(data, item.line),
            _flatten(data, item.line, "source", "target", "directed"),
            item.line,
            None if one_way is None else _flag(one_way, "directed", item.line),
        )
    return content


def _flatten(data: Object, line: int, *without: str) -> dict[str, Any]:
    """Return the values of a node or edge, with those of its ``metadata``."""
    metadata = data.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise Unreadable(f"'metadata' is {quote_value(metadata)}", "an object { }", line)
    return {**metadata, **_without(data, "metadata", *without)}


# --- Cytoscape --------------------------------------------------------------------


def _cytoscape(whole: Object) -> Content:
    """Read what Cytoscape, cytoscape.js and networkx write; ids are text, whatever
    their type.
    """
    content = Content(
        "JSON, Cytoscape", directed=_flag(whole.get("directed", False), "directed")
    )
    elements = whole["elements"]
    if isinstance(elements, dict):
        groups = cast(Object, elements)
        nodes, edges = _items(groups, "nodes"), _items(groups, "edges")
    else:
        listed = _items(whole, "elements")
        edges = [item for item in listed if _is_edge(item)]
        nodes = [item for item in listed if not _is_edge(item)]
    for item in nodes:
        data = _element(item, "node")
        name = _need(data, "id", "node", item.line)
        content.add_node(_text(name, item.line), _without(data, "id", "value"), item.line)
    for item in edges:
        data = _element(item, "edge")
        ends = _ends(data, item.line)
        content.add_link(
            (_text(ends[0], item.line), _text(ends[1], item.line)),
            _without(data, "id", "source", "target", "key"),
            item.line,
        )
    return content


def _is_edge(item: Item) -> bool:
    outer = item.fields("element")
    return outer.get("group") == "edges" or "source" in _element(item, "element")


def _element(item: Item, what: str) -> dict[str, Any]:
    data = _need(item.fields(what), "data", what, item.line)
    return Item(data, item.line).fields("data")


def _text(value: Any, line: int) -> str:
    return str(_identity(value, "an id", line))
