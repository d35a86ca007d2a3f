"""Which format a graph file has, by its ending or, where that says nothing, by its
first bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError
from decentral.spec import GRAPHS
from decentral.topology.files import gml, json_forms, markup, matrices, numbered, tables
from decentral.topology.files.assemble import graph_of
from decentral.topology.files.content import Content, Unreadable, decode, read_unpacked

#: All formats in one line, for who brings another.
FORMATS = (
    "GraphML (.graphml), GML (.gml), GEXF (.gexf), JSON (.json: node-link, D3, JGF, Cytoscape), "
    "Pajek (.net), METIS (.graph), Matrix Market (.mtx), numpy and scipy (.npz, .npy), tables "
    "(.csv, .tsv) and lists of links (.edgelist, .txt), each also compressed (.gz)"
)

_GML = re.compile(
    r"(?:\s|#[^\n]*\n|Creator\s+\"[^\"]*\"|Version\s+\S+)*graph\s*\[", re.IGNORECASE
)
#: What begins like this is of that format, whatever its ending.
_SIGNS = (
    (b"PK\x03\x04", "numpy"),
    (b"\x93NUMPY", "numpy"),
    (b"%%MatrixMarket", "matrix market"),
    (b"<", "markup"),
    (b"{", "json"),
    (b"[", "json"),
    (b"*", "pajek"),
)
#: Formats whose only end is that of their last line.
_LINES = ("list", "table", "pajek", "matrix market", "metis")
#: Formats for which the direction of links is a setting, since files do not say.
_UNDECLARED = ("list", "table")

_READERS: dict[str, Callable[[str], Content]] = {
    "gml": gml.read_gml,
    "json": json_forms.read_json,
    "pajek": numbered.read_pajek,
    "matrix market": matrices.read_matrix_market,
    "metis": numbered.read_metis,
}
_BINARY: dict[str, Callable[[bytes], Content]] = {
    "markup": markup.read_markup,
    "numpy": matrices.read_numpy,
}
_ONE_WAY: dict[str, Callable[[str, bool | None], Content]] = {
    "list": tables.read_list,
    "table": tables.read_table,
}


def read_graph(path: Path, name: str, directed: bool | None = None) -> Any:
    """Read a graph file; raises ConfigError that names file, line and what was
    expected.

    Args:
        path: Where the file lies.
        name: What messages and the summary call it.
        directed: Whether links of a list go one way; None: as it says, else no.
    """
    try:
        return graph_of(_content(path, directed), name)
    except Unreadable as error:
        raise ConfigError(error.describe(name)) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"topology file {name} cannot be opened: {reason}.") from error


def _content(path: Path, directed: bool | None) -> Content:
    data = read_unpacked(path)
    form = _form(path.name, data)
    if directed is not None and form not in _UNDECLARED:
        raise Unreadable(
            "the setting directed was given, but the format itself says which way links go",
            "it for lists and tables only",
        )
    if not data.strip():
        raise Unreadable("it is empty", FORMATS)
    if form in _BINARY:
        return _BINARY[form](data)
    text = decode(data)
    undeclared = form in _UNDECLARED
    content = _ONE_WAY[form](text, directed) if undeclared else _READERS[form](text)
    # Of other formats a cut leaves something open, which their readers refuse.
    content.ended = form not in _LINES or text.endswith("\n")
    return content


def _form(name: str, data: bytes) -> str:
    """Return the format: lists and unknown endings give way to what the content
    shows.
    """
    ending = Path(name.lower().removesuffix(".gz")).suffix
    form = GRAPHS.get(ending)
    if form not in (None, "list"):
        return form
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    signed = next((kind for sign, kind in _SIGNS if start.startswith(sign)), None)
    if signed is not None:
        return signed
    head = start[:4096].decode("latin-1")
    if _GML.match(head):
        return "gml"
    konect = name.lower().startswith("out.") or re.match(r"%\s*(a?sym|bip)\b", head)
    if form == "list" or konect:
        return "list"
    raise Unreadable(
        f"its ending is {ending or 'missing'}, and its content tells nothing", FORMATS
    )
