"""METIS: a line per node with its neighbours, numbered from 1; every link stands in two lines."""

from __future__ import annotations

from typing import Any

from decentral import limits
from decentral.topology.files.content import WEIGHT, Content, Unreadable, decimal, shown, whole


def read_metis(text: str) -> Content:
    """Read the format of METIS, Chaco, KaHIP and the DIMACS challenges; sizes of nodes are passed.

    Its first line is ``nodes links [format [weights per node]]``; the format's digits say whether
    nodes have sizes, nodes have weights, and links have weights.
    """
    rows = [
        (number, line.split())
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1)
        if not line.startswith("%")
    ]
    while rows and not rows[0][1]:
        rows.pop(0)
    if not rows:
        raise Unreadable("it is empty", "a line with the numbers of nodes and links", 1)
    (first, header), body = rows[0], rows[1:]
    nodes, links, skipped, weighted = _header(header, first)
    while len(body) > nodes and not body[-1][1]:
        body.pop()
    if len(body) != nodes:
        found = f"{nodes} nodes are announced, and {len(body)} lines follow"
        raise Unreadable(found, "a line for each", first)
    content = Content("METIS")
    for node in range(1, nodes + 1):
        content.add_node(node, {})
    _add_links(content, [(n, _neighbours(f, n, skipped, weighted)) for n, f in body])
    content.check()
    content.check_counts(None, links, first)
    return content


def _header(fields: list[str], line: int) -> tuple[int, int, int, bool]:
    """Return nodes, links, fields before the neighbours, and whether weights follow these."""
    if not 2 <= len(fields) <= 4:
        expected = "nodes, links and perhaps a format"
        raise Unreadable(f"it reads {shown(' '.join(fields))}", expected, line)
    nodes = whole(fields[0], "the number of nodes", line, least=1)
    links = whole(fields[1], "the number of links", line)
    if nodes > limits.NODES:
        raise Unreadable(f"there are {nodes:,} nodes", f"at most {limits.NODES:,}", line)
    code = fields[2].zfill(3) if len(fields) > 2 else "000"
    if len(code) != 3 or set(code) - {"0", "1"}:
        raise Unreadable(f"the format is {fields[2]!r}", "up to three digits of 0 and 1", line)
    weights = whole(fields[3], "the number of weights", line) if len(fields) > 3 else 1
    return nodes, links, int(code[0]) + int(code[1]) * weights, code[2] == "1"


def _neighbours(
    fields: list[str], line: int, skipped: int, weighted: bool
) -> list[tuple[int, dict[str, Any]]]:
    """Return the neighbours in a line, with what the links carry.

    Args:
        fields: The line.
        line: Its number.
        skipped: Fields before the neighbours: sizes and weights of the node.
        weighted: Whether a weight follows every neighbour.
    """
    rest = fields[skipped:]
    if len(fields) < skipped or (weighted and len(rest) % 2):
        expected = "neighbours, each with a weight" if weighted else f"{skipped} weights first"
        raise Unreadable(f"it has {len(fields)} numbers", expected, line)
    step = 2 if weighted else 1
    return [
        (
            whole(rest[at], "a neighbour", line, least=1),
            {WEIGHT: decimal(rest[at + 1], "the weight", line)} if weighted else {},
        )
        for at in range(0, len(rest), step)
    ]


def _add_links(content: Content, lines: list[tuple[int, list[tuple[int, dict[str, Any]]]]]) -> None:
    """Add every link once; both of its ends must tell of it, and of the same weight."""
    told: dict[tuple[int, int], list[tuple[dict[str, Any], int]]] = {}
    for node, (line, neighbours) in enumerate(lines, start=1):
        for other, data in neighbours:
            if other > len(lines):
                expected = f"a number from 1 to {len(lines)}"
                raise Unreadable(f"there is no node {other}", expected, line)
            told.setdefault((node, other), []).append((data, line))
    for (one, other), here in told.items():
        there = told.get((other, one), [])
        if sorted(str(data) for data, _ in here) != sorted(str(data) for data, _ in there):
            found = f"node {one} tells of a link to {other} otherwise than {other} does"
            raise Unreadable(found, "the link in both lines, with one weight", here[0][1])
        if one <= other:
            for data, line in here:
                content.add_link((one, other), data, line)
