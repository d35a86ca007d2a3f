"""GraphML and GEXF: graphs in XML. A light tree keeps the line of every element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from decentral.topology.files.content import (
    WEIGHT,
    Content,
    Unreadable,
    only,
    quote_value,
    wanted_number,
    whole,
)

#: Elements within each other; graphs need a handful.
_DEEPEST = 100
_INTEGERS = ("int", "integer", "long", "short", "byte", "biginteger")
_DECIMALS = ("float", "double", "bigdecimal")
_TRUE = {"true": True, "1": True, "false": False, "0": False}


@dataclass(slots=True)
class Element:
    """An element without its namespace: they differ between versions of a format."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list["Element"])
    text: str = ""

    def all(self, tag: str) -> Iterator[Element]:
        """Return the children of that name."""
        return (child for child in self.children if child.tag == tag)

    def within(self, tag: str) -> Iterator[Element]:
        """Return all elements of that name, however deep."""
        for child in self.children:
            if child.tag == tag:
                yield child
            yield from child.within(tag)

    def need(self, attribute: str) -> str:
        """Return an attribute that must be there."""
        if attribute not in self.attributes:
            raise Unreadable(
                f"<{self.tag}> has no {attribute!r}", f"{attribute}=...", self.line
            )
        return self.attributes[attribute]


def read_markup(data: bytes) -> Content:
    """Read GraphML or GEXF, whichever the outermost element says."""
    root = _parse(data)
    readers: dict[str, Callable[[Element], Content]] = {
        "graphml": _graphml,
        "gexf": _gexf,
    }
    if root.tag not in readers:
        raise Unreadable(
            f"the outermost element is <{root.tag}>", "<graphml> or <gexf>", root.line
        )
    content = readers[root.tag](root)
    content.check()
    return content


def _parse(data: bytes) -> Element:
    """Return the outermost element; entities, which can swell a file without end,
    are refused.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    stack = [Element("", {}, 0)]

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(stack) > _DEEPEST:
            raise Unreadable(f"elements are nested {_DEEPEST} deep", "a graph", line())
        local = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        element = Element(tag.rpartition(" ")[2], local, line())
        stack[-1].children.append(element)
        stack.append(element)

    def refuse(*_: Any) -> None:
        raise Unreadable(
            "it declares an entity", "XML without entities of its own", line()
        )

    def text(found: str) -> None:
        stack[-1].text += found

    def line() -> int:
        return parser.CurrentLineNumber

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: stack.pop()
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise Unreadable(
            f"it is no XML here ({reason})", "well-formed XML", error.lineno
        ) from None
    except (LookupError, ValueError) as error:  # of encodings
        raise Unreadable(f"it cannot be decoded ({error})", "XML in UTF-8") from error
    return stack[0].children[0]


def _convert(text: str, kind: str, what: str, line: int) -> Any:
    """Return a value of a declared type; raises Unreadable where it is none.

    Args:
        text: The value.
        kind: Its type.
        what: What it is, for messages.
        line: Where it stands.
    """
    try:
        if kind in _INTEGERS:
            return int(text)
        if kind in _DECIMALS:
            return float(text)
        if kind == "boolean":
            return _TRUE[text.strip().lower()]
    except (KeyError, ValueError):
        expected = f"a value of type {kind}"
        if kind in _DECIMALS:
            expected = wanted_number(text, expected)
        raise Unreadable(f"{what} is {quote_value(text)}", expected, line) from None
    return text


# --- GraphML ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """A ``<key>``: the name and type of values, for nodes, for edges, or for all."""

    name: str
    kind: str
    owner: str
    default: str | None
    line: int


def _graphml(root: Element) -> Content:
    keys = {key.need("id"): _key(key) for key in root.all("key")}
    graph = only(root.all("graph"), "graph", root.line)
    default = graph.attributes.get("edgedefault", "undirected")
    if default not in ("directed", "undirected"):
        raise Unreadable(
            f"edgedefault is {default!r}", "directed or undirected", graph.line
        )
    content = Content(
        "GraphML", directed=default == "directed", about=_values(graph, keys)
    )
    for element in graph.children:
        if element.tag == "node":
            _refuse_nested(element)
            data = {**_values(element, keys), **_yed_label(element)}
            content.add_node(element.need("id"), data, element.line)
        elif element.tag == "edge":
            _refuse_nested(element)
            ends = element.need("source"), element.need("target")
            one_way = _boolean(element, "directed")
            content.add_link(ends, _values(element, keys), element.line, one_way)
        elif element.tag == "hyperedge":
            raise Unreadable("a <hyperedge> joins several nodes", "<edge>", element.line)
    nodes, links = _read_count(graph, "parse.nodes"), _read_count(graph, "parse.edges")
    content.check_counts(nodes, links, graph.line)
    return content


def _read_count(element: Element, key: str) -> int | None:
    """Return a count that an element announces, if it does."""
    text = element.attributes.get(key)
    return None if text is None else whole(text, key, element.line)


def _key(element: Element) -> _Key:
    default = next(element.all("default"), None)
    given = element.attributes
    name = given.get("attr.name", "")  # without one, it is a drawing program's own
    kind, owner = given.get("attr.type", "string"), given.get("for", "all")
    return _Key(name, kind, owner, default.text if default else None, element.line)


def _refuse_nested(element: Element) -> None:
    for graph in element.all("graph"):
        raise Unreadable(
            f"a <{element.tag}> holds a <graph>", "one flat graph", graph.line
        )


def _boolean(element: Element, name: str) -> bool | None:
    text = element.attributes.get(name)
    return None if text is None else _convert(text, "boolean", name, element.line)


def _values(element: Element, keys: Mapping[str, _Key]) -> dict[str, Any]:
    """Return the values of an element by name, defaults included."""
    found = {
        key.name: _convert(key.default, key.kind, key.name, key.line)
        for key in keys.values()
        if key.name and key.default is not None and key.owner in (element.tag, "all")
    }
    seen: set[str] = set()
    for data in element.all("data"):
        identity = data.need("key")
        if identity not in keys:
            raise Unreadable(
                f"<data> has the key {identity!r}", "a declared <key>", data.line
            )
        key = keys[identity]
        if identity in seen and key.name:
            raise Unreadable(
                f"{key.name!r} is given twice", "one <data> per key", data.line
            )
        seen.add(identity)
        if key.name:
            found[key.name] = _convert(data.text, key.kind, key.name, data.line)
    return found


def _yed_label(node: Element) -> dict[str, str]:
    """Return the label that yEd draws, which stands in elements of its own."""
    drawn = next(node.within("NodeLabel"), None)
    return {"label": drawn.text.strip()} if drawn and drawn.text.strip() else {}


# --- GEXF -------------------------------------------------------------------------


def _gexf(root: Element) -> Content:
    graph = only(root.all("graph"), "graph", root.line)
    if graph.attributes.get("mode") == "dynamic":
        raise Unreadable(
            "the graph is dynamic: it changes in time", 'mode="static"', graph.line
        )
    default = graph.attributes.get("defaultedgetype", "undirected")
    content = Content("GEXF", directed=_one_way(default, graph.line))
    keys = {
        group.attributes.get("class", ""): {
            attribute.need("id"): _attribute(attribute)
            for attribute in group.all("attribute")
        }
        for group in graph.all("attributes")
    }
    for group in graph.all("nodes"):
        _add_nodes(content, group, keys.get("node", {}))
    for group in graph.all("edges"):
        for edge in group.all("edge"):
            kind = edge.attributes.get("type")
            content.add_link(
                (edge.need("source"), edge.need("target")),
                _edge_attributes(edge, keys.get("edge", {})),
                edge.line,
                None if kind is None else _one_way(kind, edge.line),
            )
        content.check_counts(None, _read_count(group, "count"), group.line)
    return content


def _one_way(kind: str, line: int) -> bool:
    if kind not in ("directed", "undirected", "mutual"):
        raise Unreadable(
            f"the type of edge {kind!r}", "directed, undirected or mutual", line
        )
    return kind == "directed"


def _attribute(element: Element) -> _Key:
    default = next(element.all("default"), None)
    name, kind = element.attributes.get("title", element.need("id")), element.need("type")
    return _Key(name, kind, "all", default.text if default else None, element.line)


def _add_nodes(content: Content, group: Element, keys: Mapping[str, _Key]) -> None:
    """Add the nodes of a group, and those within nodes: a hierarchy is drawn, not
    linked.

    Args:
        content: Where they go.
        group: An element <nodes>.
        keys: The attributes of nodes that are declared.
    """
    before = len(content.nodes)
    for node in group.all("node"):
        data = _read_attributes(node, keys)
        if "label" in node.attributes:
            data["label"] = node.attributes["label"]
        content.add_node(node.need("id"), data, node.line)
    if (announced := _read_count(group, "count")) is not None:
        content.check_counts(before + announced, None, group.line)
    for node in group.all("node"):
        for inner in node.all("nodes"):
            _add_nodes(content, inner, keys)


def _edge_attributes(edge: Element, keys: Mapping[str, _Key]) -> dict[str, Any]:
    data = _read_attributes(edge, keys)
    if WEIGHT in edge.attributes:
        data[WEIGHT] = _convert(edge.attributes[WEIGHT], "double", WEIGHT, edge.line)
    return data


def _read_attributes(element: Element, keys: Mapping[str, _Key]) -> dict[str, Any]:
    """Return the attribute values of a node or an edge, defaults included."""
    found = {
        key.name: _convert(key.default, key.kind, key.name, key.line)
        for key in keys.values()
        if key.default is not None
    }
    for value in (
        value for group in element.all("attvalues") for value in group.all("attvalue")
    ):
        identity = value.attributes.get("for", value.attributes.get("id", ""))
        if identity not in keys:
            expected = "the id of a declared <attribute>"
            raise Unreadable(f"<attvalue> is for {identity!r}", expected, value.line)
        key = keys[identity]
        found[key.name] = _convert(value.need("value"), key.kind, key.name, value.line)
    return found
