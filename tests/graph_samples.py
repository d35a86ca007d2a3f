"""Small graphs, and writers for every format: networkx's and scipy's where they have one."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from hypothesis import strategies as st
from scipy import io as scipy_io
from scipy import sparse

from decentral.topology.files.formats import read_graph

#: No few of these sum to 1, or a matrix of them would hold mixing weights.
WEIGHTS = (0.313, 2.71828, -3.14159, 1e-07, 7.7)
#: Text that all formats with labels can hold; nothing of it begins or ends with a space.
TEXT = st.text("abcXYZ öß漢é-_.:()&<>'1", min_size=1, max_size=6).map(
    lambda text: " ".join(f"n{text}".split())
)


@dataclass(frozen=True)
class Sample:
    """A graph: labels by place, links by places, each with a weight or none with one."""

    labels: tuple[str, ...]
    links: tuple[tuple[int, int], ...]
    weights: tuple[float, ...] | None
    directed: bool

    def graph(self, *, numbered: bool = False) -> Any:
        """Return it as a graph of networkx, by label or by place."""
        made: Any = nx.DiGraph() if self.directed else nx.Graph()
        names = range(len(self.labels)) if numbered else self.labels
        made.add_nodes_from(names)
        for k, (one, other) in enumerate(self.links):
            data = {} if self.weights is None else {"weight": self.weights[k]}
            made.add_edge(names[one], names[other], **data)
        return made

    def rows(self) -> list[tuple[int, int, str]]:
        """Return links by place, with the weight as text, empty where there is none."""
        weights = (
            [""] * len(self.links) if self.weights is None else map(repr, self.weights)
        )
        return [(*ends, weight) for ends, weight in zip(self.links, weights, strict=True)]


@dataclass(frozen=True)
class Format:
    """A writer, and what its format can hold."""

    ending: str
    write: Callable[[Sample], bytes]
    labels: str = "text"  # text; words (no spaces); whole; from 0; from 1
    isolated: bool = True  # nodes without a link
    directed: bool = True
    undirected: bool = True
    weighted: bool = True
    matrix: bool = False  # a symmetric one is undirected
    ends: str = "mark"  # how a cut shows: by a mark, by a count (of lines), or not


@st.composite
def samples(draw: st.DrawFn, form: Format) -> Sample:
    """Return a graph that the format can hold."""
    count = draw(st.integers(2, 7))
    directed = draw(
        st.sampled_from([w for w in (False, True) if (form.undirected, form.directed)[w]])
    )
    pairs = [
        (a, b)
        for a in range(count)
        for b in range(count)
        if a < b or (directed and a > b)
    ]
    links = draw(st.lists(st.sampled_from(pairs), min_size=1, unique=True))
    if not form.isolated:
        links += [(a, a + 1) for a in range(count - 1)]
        links = list(dict.fromkeys(links))
    if form.matrix and directed:
        links = [(0, 1), *(link for link in links if link not in ((0, 1), (1, 0)))]
    weighted = form.weighted and draw(st.booleans())
    weights = tuple(draw(st.sampled_from(WEIGHTS)) for _ in links) if weighted else None
    return Sample(draw(labels(form, count)), tuple(links), weights, directed)


def labels(form: Format, count: int) -> st.SearchStrategy[tuple[str, ...]]:
    ranges = {"from 0": 0, "from 1": 1}
    if form.labels in ranges:
        first = ranges[form.labels]
        return st.just(tuple(str(node) for node in range(first, first + count)))
    whole = st.integers(-50, 10**6).map(str)
    words = TEXT.map(lambda text: "".join(c for c in text if c not in " '<>&()"))
    kinds = {"text": (TEXT, whole), "words": (words, whole), "whole": (whole,)}[
        form.labels
    ]
    return st.one_of(
        *(
            st.lists(k, min_size=count, max_size=count, unique=True).map(tuple)
            for k in kinds
        )
    )


def read(folder: Path, form: Format, data: bytes, *, packed: bool = False) -> Any:
    """Read what a writer has written, perhaps compressed, under an ending in capitals."""
    ending = form.ending.upper() if packed else form.ending
    name = f"{ending[1:]}.some" if ending.lower() == "out." else f"graph{ending}"
    place = folder / (f"{name}.gz" if packed else name)
    place.write_bytes(gzip.compress(data, 1) if packed else data)
    return read_graph(place, place.name)


def same(found: Any, sample: Sample) -> None:
    """Check that a graph is the sample: labels, links, weights, direction."""
    names = dict(found.nodes(data="label"))
    assert sorted(names) == list(range(len(names)))
    assert sorted(names.values()) == sorted(sample.labels)
    if all(label.lstrip("-").isdigit() for label in sample.labels):
        assert [int(names[k]) for k in range(len(names))] == sorted(
            map(int, sample.labels)
        )
    assert found.is_directed() == sample.directed
    wanted = sample.graph()
    links = {
        frozenset([names[a], names[b]])
        if not sample.directed
        else (names[a], names[b]): d
        for a, b, d in found.edges(data=True)
    }
    expected = {
        frozenset(link) if not sample.directed else link: wanted.edges[link]
        for link in wanted.edges
    }
    assert links.keys() == expected.keys()
    for link, data in expected.items():
        assert links[link].get("weight") == data.get("weight")


# --- writers --------------------------------------------------------------------------------------


def _networkx(write: Callable[..., Any], **settings: Any) -> Callable[[Sample], bytes]:
    def wrote(sample: Sample) -> bytes:
        stream = io.BytesIO()
        write(sample.graph(), stream, **settings)
        return stream.getvalue()

    return wrote


def _json(make: Callable[[Sample], Any]) -> Callable[[Sample], bytes]:
    return lambda sample: json.dumps(make(sample), indent=1, ensure_ascii=False).encode()


def _text(
    make: Callable[[Sample], str], encoding: str = "utf-8"
) -> Callable[[Sample], bytes]:
    return lambda sample: make(sample).encode(encoding)


def _weight(text: str, key: str = "weight") -> dict[str, float]:
    return {key: float(text)} if text else {}


def _node_link(edges: str) -> Callable[[Sample], Any]:
    return lambda sample: nx.node_link_data(sample.graph(), edges=edges)


def _by_place(key: str) -> Callable[[Sample], Any]:
    """Return what D3 3 and networkx 1 wrote: links by the places of nodes."""

    def make(sample: Sample) -> Any:
        return {
            "directed": sample.directed,
            "nodes": [{key: label, "group": 1} for label in sample.labels],
            "links": [
                {"source": a, "target": b, **_weight(w)} for a, b, w in sample.rows()
            ],
        }

    return make


def _jgf(version: int) -> Callable[[Sample], Any]:
    def make(sample: Sample) -> Any:
        nodes: Any = {f"n{k}": {"label": label} for k, label in enumerate(sample.labels)}
        if version == 1:
            nodes = [{"id": key, **node} for key, node in nodes.items()]
        edges = [
            {
                "source": f"n{a}",
                "target": f"n{b}",
                "relation": "to",
                "metadata": _weight(w),
            }
            for a, b, w in sample.rows()
        ]
        return {"graph": {"directed": sample.directed, "nodes": nodes, "edges": edges}}

    return make


def _elements(sample: Sample) -> Any:
    """Return the list of cytoscape.js, which knows undirected links only."""
    nodes = [
        {"data": {"id": f"n{k}", "name": label}} for k, label in enumerate(sample.labels)
    ]
    edges = [
        {
            "group": "edges",
            "data": {
                "id": f"e{a}-{b}",
                "source": f"n{a}",
                "target": f"n{b}",
                **_weight(w),
            },
        }
        for a, b, w in sample.rows()
    ]
    return [*edges, *nodes]


def _gml(sample: Sample) -> str:
    """Return the other dialect of GML: no flag, raw characters, links before nodes."""
    links = "".join(
        f"edge [ source {a}\n target {b} {f'weight {w}' if w else ''} ]\n"
        for a, b, w in sample.rows()
    )
    nodes = "".join(
        f'node [ id {k} label "{label.replace("&", "&amp;")}" graphics [ x 0.5 y -1E-3 ] ]\n'
        for k, label in enumerate(sample.labels)
    )
    return f'Creator "me"\ngraph [\n directed {int(sample.directed)}\n{links}{nodes}]\n'


def _pajek(sample: Sample) -> str:
    nodes = "".join(
        f'{k} "{label}" 0.1 0.2\n' for k, label in enumerate(sample.labels, start=1)
    )
    kind = "*Arcs" if sample.directed else "*Edges"
    links = "".join(f"{a + 1} {b + 1} {w}\n" for a, b, w in sample.rows())
    return f"*Vertices {len(sample.labels)}\n{nodes}% a comment\n{kind}\n{links}"


def _snap(sample: Sample) -> str:
    kind = "Directed" if sample.directed else "Undirected"
    links = "".join(
        f"{sample.labels[a]}\t{sample.labels[b]}\r\n" for a, b, _ in sample.rows()
    )
    counts = f"# Nodes: {len(sample.labels)} Edges: {len(sample.links)}\r\n"
    return f"# {kind} graph: some.txt\r\n{counts}# FromNodeId\tToNodeId\r\n{links}"


def _konect(sample: Sample) -> str:
    kind, count = "asym" if sample.directed else "sym", len(sample.labels)
    links = "".join(
        f"{a + 1} {b + 1} {w} {'1085' if w else ''}\n" for a, b, w in sample.rows()
    )
    return f"% {kind} weighted\n% {len(sample.links)} {count} {count}\n{links}"


def _listed(delimiter: str, header: str = "") -> Callable[[Sample], str]:
    def make(sample: Sample) -> str:
        rows = [(sample.labels[a], sample.labels[b], w) for a, b, w in sample.rows()]
        lines = [delimiter.join(field for field in row if field) for row in rows]
        if header:
            names = header.split(",")[: 3 if sample.weights else 2]
            lines = [delimiter.join(names), *lines]
        return "\n".join(lines) + "\n"

    return make


def _gephi(sample: Sample) -> str:
    kind = "Directed" if sample.directed else "Undirected"
    lines = [
        f'"{sample.labels[a]}";"{sample.labels[b]}";{kind};{w}'
        for a, b, w in sample.rows()
    ]
    return "\n".join(["Source;Target;Type;Weight", *lines])


def _metis(sample: Sample) -> str:
    near: list[list[str]] = [[] for _ in sample.labels]
    for a, b, w in sample.rows():
        near[a].append(f"{b + 1} {w}")
        near[b].append(f"{a + 1} {w}")
    code = " 001" if sample.weights else ""
    rows = "".join(" ".join(found) + "\n" for found in near)
    return f"% a comment\n{len(near)} {len(sample.links)}{code}\n{rows}"


def _matrix(sample: Sample) -> np.ndarray:
    return nx.to_numpy_array(sample.graph(), weight="weight")


def _saved(
    write: Callable[[io.BytesIO, Any], Any], made: Callable[[Any], Any]
) -> Callable[[Sample], bytes]:
    def wrote(sample: Sample) -> bytes:
        stream = io.BytesIO()
        write(stream, made(_matrix(sample)))
        return stream.getvalue()

    return wrote


def _pandas(sample: Sample) -> str:
    rows = [",".join(["", *sample.labels])]
    for label, values in zip(sample.labels, _matrix(sample).tolist(), strict=True):
        rows.append(",".join([label, *(repr(value) for value in values)]))
    return "\n".join(rows)


def _graphml(sample: Sample) -> str:
    """Return GraphML as drawing programs write it: labels and directions of single links."""
    key = '<key id="w" for="edge" attr.name="weight" attr.type="double"/>'
    escape = str.maketrans({"&": "&amp;", "<": "&lt;"})
    nodes = "".join(
        f'<node id="n{k}"><data key="g"><y:Shape><y:NodeLabel>'
        f"{label.translate(escape)}</y:NodeLabel></y:Shape></data></node>\n"
        for k, label in enumerate(sample.labels)
    )
    links = "".join(
        f'<edge source="n{a}" target="n{b}" directed="{str(sample.directed).lower()}">'
        + (f'<data key="w">{w}</data>' if w else "")
        + "</edge>\n"
        for a, b, w in sample.rows()
    )
    return (
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml">'
        f'{key}<key id="g" for="node" yfiles.type="nodegraphics"/>\n'
        f'<graph edgedefault="undirected">{nodes}{links}</graph></graphml>'
    )


def _gexf(sample: Sample) -> str:
    """Return GEXF 1.3, which Gephi writes."""
    escape = str.maketrans({"&": "&amp;", "<": "&lt;"})
    nodes = "".join(
        f'<node id="{k}" label="{label.translate(escape)}"/>\n'
        for k, label in enumerate(sample.labels)
    )
    links = "".join(
        f'<edge id="{k}" source="{a}" target="{b}"'
        + (f' weight="{w}"' if w else "")
        + "/>\n"
        for k, (a, b, w) in enumerate(sample.rows())
    )
    kind = "directed" if sample.directed else "undirected"
    return (
        '<gexf xmlns="http://gexf.net/1.3" version="1.3">'
        f'<graph defaultedgetype="{kind}" mode="static"><nodes count="{len(sample.labels)}">\n'
        f'{nodes}</nodes><edges count="{len(sample.links)}">\n{links}</edges></graph></gexf>'
    )


def _dense(matrix: Any) -> Any:
    return matrix


_SQUARE: Any = {"labels": "from 0", "matrix": True}
_COUNTED: Any = {**_SQUARE, "ends": "count"}

FORMATS: dict[str, Format] = {
    "graphml, networkx": Format(".graphml", _networkx(nx.write_graphml)),
    "graphml, yed": Format(".graphml", _text(_graphml)),
    "gml, networkx": Format(".gml", _networkx(nx.write_gml)),
    "gml, plain": Format(".gml", _text(_gml)),
    "gexf, networkx": Format(".gexf", _networkx(nx.write_gexf)),
    "gexf 1.3": Format(".gexf", _text(_gexf)),
    "node-link, networkx 3": Format(".json", _json(_node_link("edges"))),
    "node-link, networkx 2": Format(".json", _json(_node_link("links"))),
    "node-link, networkx 1": Format(".json", _json(_by_place("id"))),
    "d3": Format(".json", _json(_by_place("name"))),
    "jgf 1": Format(".jgf", _json(_jgf(1))),
    "jgf 2": Format(".json", _json(_jgf(2))),
    "cytoscape, networkx": Format(".cyjs", _json(lambda s: nx.cytoscape_data(s.graph()))),
    "cytoscape.js": Format(".json", _json(_elements), directed=False),
    "pajek": Format(".net", _text(_pajek), ends=""),
    "edge list, networkx": Format(
        ".edgelist", _networkx(nx.write_edgelist), labels="words", isolated=False,
        directed=False, ends="",
    ),
    "edge list, weighted": Format(
        ".txt", _text(_listed(" ")), labels="words", isolated=False, directed=False, ends=""
    ),
    "snap": Format(
        ".txt", _text(_snap), labels="whole", isolated=False, weighted=False, ends="count"
    ),
    "konect": Format("out.", _text(_konect), labels="from 1", ends="count"),
    "csv, header": Format(
        ".csv", _text(_listed(",", "Source,Target,Weight")), isolated=False, directed=False,
        ends="",
    ),
    "csv": Format(".csv", _text(_listed(",")), isolated=False, directed=False, ends=""),
    "tsv": Format(
        ".tsv", _text(_listed("\t", "from,to,weight")), isolated=False, directed=False, ends=""
    ),
    "csv, gephi": Format(".csv", _text(_gephi), isolated=False, ends=""),
    "csv, pandas matrix": Format(".csv", _text(_pandas), matrix=True, ends="count"),
    "matrix market": Format(".mtx", _saved(scipy_io.mmwrite, sparse.coo_array), **_COUNTED),
    "matrix market, dense": Format(".mtx", _saved(scipy_io.mmwrite, _dense), **_COUNTED),
    "scipy": Format(".npz", _saved(sparse.save_npz, sparse.csr_array), **_SQUARE),
    "numpy archive": Format(
        ".npz", _saved(lambda f, m: np.savez_compressed(f, adjacency=m), _dense), **_SQUARE
    ),
    "numpy": Format(".npy", _saved(np.save, _dense), **_SQUARE),
    "metis": Format(".graph", _text(_metis), labels="from 1", directed=False, ends="count"),
}  # fmt: skip
