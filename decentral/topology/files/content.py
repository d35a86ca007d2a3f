"""What a graph file says, before it is a graph: its text, nodes, links, and their
lines.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decentral import limits
from decentral.units import without_comma

#: Values of a link that readers take apart; the rest is kept as it is.
WEIGHT = "weight"


class Unreadable(Exception):
    """A mistake in a graph file: what stands there, what was expected, and in which
    line.
    """

    def __init__(self, found: str, expected: str, line: int | None = None) -> None:
        """Keep the parts; whoever knows the name of the file makes a message of
        them.

        Args:
            found: What stands there.
            expected: What should.
            line: Where; None: not known, or everywhere.
        """
        super().__init__(found, expected, line)
        self.found, self.expected, self.line = found, expected, line

    def describe(self, name: str) -> str:
        """Return the message for the file of that name."""
        where = f", line {self.line}" if self.line else ""
        return f"topology file {name}{where}: {self.found}; expected {self.expected}."


@dataclass(frozen=True, slots=True)
class Link:
    """A link as it is written; one that is not directed goes both ways."""

    one: Hashable
    other: Hashable
    data: dict[str, Any]
    line: int | None
    directed: bool


@dataclass
class Content:
    """Nodes in their order, and links in theirs; parallel links and loops are all
    there.

    Nodes go by what links call them. Where a format declares its nodes
    (``declares``), a link to any other is a mistake; elsewhere nodes are what links
    name.
    """

    form: str
    directed: bool = False  # of links that do not say so themselves
    declares: bool = True
    ended: bool = (
        True  # whether its last line has an end; one of a file that was cut has none
    )
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    nodes: dict[Hashable, dict[str, Any]] = field(
        default_factory=dict[Hashable, dict[str, Any]], repr=False
    )
    links: list[Link] = field(default_factory=list[Link], repr=False)
    _lines: dict[Hashable, int | None] = field(default_factory=dict[Hashable, int | None])

    def add_node(
        self, node: Hashable, data: Mapping[str, Any], line: int | None = None
    ) -> None:
        """Declare a node; two of one name are a mistake.

        Args:
            node: What links call it.
            data: What it carries.
            line: Where it stands.
        """
        if node in self.nodes:
            before = f" of line {self._lines[node]}" if self._lines.get(node) else ""
            raise Unreadable(
                f"node {node!r}{before} is declared again", "one node per id", line
            )
        self._count()
        self.nodes[node] = dict(data)
        self._lines[node] = line

    def add_link(
        self,
        ends: tuple[Hashable, Hashable],
        data: Mapping[str, Any],
        line: int | None = None,
        directed: bool | None = None,
    ) -> None:
        """Add a link between two nodes.

        Args:
            ends: The nodes; a directed link leads from the first to the second.
            data: What the link carries.
            line: Where it stands.
            directed: Whether it goes one way; None: as the file says of all.
        """
        one_way = self.directed if directed is None else directed
        self.links.append(Link(*ends, dict(data), line, one_way))
        for end in ends if not self.declares else ():
            if end not in self.nodes:
                self._count()
                self.nodes[end] = {}

    def check(self) -> None:
        """Raise Unreadable for links to nodes that are not there, and for no node
        at all.
        """
        if not self.nodes:
            raise Unreadable("it holds no node", f"the nodes and links of {self.form}")
        for link in self.links if self.declares else ():
            for end in (link.one, link.other):
                if end not in self.nodes:
                    raise Unreadable(
                        f"a link leads to node {end!r}, which is not declared",
                        f"one of the {len(self.nodes)} nodes of the file",
                        link.line,
                    )

    def check_counts(
        self, nodes: int | None, links: int | None, line: int | None
    ) -> None:
        """Raise Unreadable where the file holds more or less than it announces.

        Args:
            nodes: That are announced; None: it does not say.
            links: That are announced; None: it does not say.
            line: Where it does.
        """
        for kind, announced, found in (
            ("nodes", nodes, len(self.nodes)),
            ("links", links, len(self.links)),
        ):
            if announced is not None and announced != found:
                raise Unreadable(
                    f"{announced:,} {kind} are announced, and the file holds {found:,}",
                    "a whole file",
                    line,
                )

    def _count(self) -> None:
        if len(self.nodes) >= limits.NODES:
            raise Unreadable(
                "it holds more nodes than that", f"at most {limits.NODES:,} nodes"
            )


def whole(text: Any, what: str, line: int | None, least: int | None = 0) -> int:
    """Read a whole number; raises Unreadable.

    Args:
        text: What stands there.
        what: What it is, for messages.
        line: Where it stands.
        least: The least that it may be; None: any.
    """
    number = None
    with suppress(TypeError, ValueError, OverflowError):
        number = int(text)
    # ``int`` cuts 2.5 off to 2.
    if number is not None and isinstance(text, float) and text != float(number):
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise Unreadable(f"{what} is {quote_value(text)}", f"a whole number{bound}", line)
    return number


def decimal(text: Any, what: str, line: int | None) -> float:
    """Read a number; raises Unreadable.

    Args:
        text: What stands there.
        what: What it is, for messages.
        line: Where it stands.
    """
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        expected = wanted_number(text)
        raise Unreadable(f"{what} is {quote_value(text)}", expected, line) from None


def wanted_number(text: Any, otherwise: str = "a number") -> str:
    """Return what is expected in the place of a text, where a number should be."""
    written = without_comma(text.strip()) if isinstance(text, str) else ""
    return f"a number with a decimal point: {written}" if written else otherwise


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def only(found: Iterable[Any], what: str, line: int | None = None) -> Any:
    """Return the one thing of a kind that a file should hold; raises Unreadable.

    Args:
        found: All of the kind.
        what: What they are, for messages.
        line: Where they stand.
    """
    listed = list(found)
    if len(listed) != 1:
        raise Unreadable(f"it holds {len(listed)} {what}s", f"one {what}", line)
    return listed[0]


def quote_value(value: Any) -> str:
    """Return a value as a message quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# --- bytes and text ---------------------------------------------------------------


#: Most bytes of a graph file, unpacked; what unpacks to more is no graph that fits
#: into a run.
MOST_BYTES = 1 << 30

_GZIP = b"\x1f\x8b"
_POINTER = b"version https://git-lfs"
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_unpacked(path: Path) -> bytes:
    """Return the bytes of a file, decompressed where they are gzip's, whatever its
    name says.
    """
    with path.open("rb") as opened:
        data = opened.read(MOST_BYTES + 1)
    if data.startswith(_GZIP):
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MOST_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise Unreadable(
                f"it cannot be unpacked ({error})", "a whole gzip file"
            ) from error
    elif path.suffix.lower() == ".gz":
        raise Unreadable("its ending is .gz, but it is not compressed", "a gzip file")
    if data.startswith(_POINTER):
        raise Unreadable(
            "it is a pointer of git-LFS", "the file itself, which `git lfs pull` fetches"
        )
    if len(data) > MOST_BYTES:
        raise Unreadable(
            "it is larger than that", f"at most {MOST_BYTES >> 20} MiB, unpacked"
        )
    return data


def decode(data: bytes) -> str:
    """Return bytes as text with plain line ends: UTF-8, what a byte-order mark
    says, or Latin-1.

    GML, Pajek and lists were written in Latin-1 for decades, and say so nowhere.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise Unreadable("it holds a zero byte, which is no text", "a text file", line)
    return text
