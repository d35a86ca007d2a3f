"""Graph files as people have them: dialects, directions, labels, weights, parallel links."""

from __future__ import annotations

import gzip
import io
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from decentral import ConfigError
from decentral.mixing.base import Mixer
from decentral.mixing.summary import describe_mixing, summary_line
from decentral.registry import build
from decentral.topology.base import Topology
from decentral.topology.files.assemble import file_of

HEAD = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
MTX = "%%MatrixMarket matrix"


def read(folder: Path, name: str, data: str | bytes, **settings: Any) -> Any:
    """Write a file and read it as a topology does."""
    place = folder / name
    place.write_bytes(data.encode() if isinstance(data, str) else data)
    return build("topology", {"name": str(place), **settings})(0)


def links(graph: Any) -> set[tuple[str, str]]:
    """Return links by label, of an undirected graph each way sorted."""
    names = graph.nodes(data="label")
    found = {(names[a], names[b]) for a, b in graph.edges()}
    return found if graph.is_directed() else {(min(pair), max(pair)) for pair in found}


def mixer(folder: Path, name: str, data: str | bytes, weights: str = "auto") -> Mixer:
    graph = read(folder, name, data)
    topology = Topology(build("topology", str(folder / name)), len(graph))
    return Mixer.make(topology, weights)


def as_json(nodes: list[Any], edges: list[Any], **more: Any) -> str:
    return json.dumps({"nodes": nodes, "links": edges, **more})


# --- what other readers get wrong -----------------------------------------------------------------


def test_a_list_with_commas_has_nodes(tmp_path: Path) -> None:
    for text in (
        "0,1\n1,2\n",
        "0, 1, 0.5\n1, 2, 0.5\n",
        "0;1\n1;2\n",
        "a,b\nb,c\n",
        "u,v\nv,w\n",
    ):
        for ending in (".csv", ".txt", ".edgelist", ".CSV"):
            assert len(read(tmp_path, f"a{ending}", text)) == 3


def test_links_by_place_lead_to_nodes(tmp_path: Path) -> None:
    """D3 3 and networkx 1 name nodes by their places; ids win where all links fit them."""
    names = [{"name": n} for n in ("Myriel", "Valjean", "Javert")]
    ends = [
        {"source": 1, "target": 0, "value": 3},
        {"source": 2, "target": 1, "value": 8},
    ]
    wanted = {("Myriel", "Valjean"), ("Javert", "Valjean")}
    assert links(read(tmp_path, "d3.json", as_json(names, ends))) == wanted
    same = [{"name": "x"}, {"name": "x"}, {"name": "y"}]
    assert read(tmp_path, "d3.json", as_json(same, ends)).number_of_edges() == 2
    old = [{"id": n} for n in ("Myriel", "Valjean", "Javert")]
    assert links(read(tmp_path, "nx1.json", as_json(old, ends))) == wanted
    ids = [{"id": 2}, {"id": 1}, {"id": 0}]
    assert links(read(tmp_path, "ids.json", as_json(ids, ends))) == {
        ("0", "1"),
        ("1", "2"),
    }
    by_name = [
        {"source": "Myriel", "target": "Valjean"},
        {"source": "Javert", "target": "Valjean"},
    ]
    assert links(read(tmp_path, "names.json", as_json(names, by_name))) == wanted


@pytest.mark.parametrize(
    "order", [*permutations(("*Edges\n1 2\n", "*Arcs\n2 3\n", "*arcslist\n3 1\n"))]
)
def test_sections_of_pajek_say_the_direction_of_their_own_links(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    text = '*Vertices 3\n1 "a b" 0.1 0.2 ic Red\n3 "c"\n' + "".join(order)
    graph = read(tmp_path, "a.NET", text)
    assert links(graph) == {("a b", "2"), ("2", "a b"), ("2", "c"), ("c", "a b")}


def test_vertices_of_one_label_stay_apart(tmp_path: Path) -> None:
    graph = read(
        tmp_path, "a.net", '*Vertices 3\n1 "x"\n2 "x"\n3 "y"\n*Edges\n1 3\n2 3\n'
    )
    assert (len(graph), graph.number_of_edges()) == (3, 2)


def test_a_matrix_of_pajek_holds_decimals(tmp_path: Path) -> None:
    graph = read(tmp_path, "a.net", "*Vertices 2\n*Matrix\n0 0.5\n0 0\n")
    assert graph.is_directed()
    assert graph[0][1]["weight"] == 0.5


def test_gml_needs_no_flag_for_parallel_links(tmp_path: Path) -> None:
    edge = "edge [ source 0 target 1 ]\n"
    text = f"graph [ node [ id 0 ] node [ id 1 ]\n{edge}{edge}]"
    for written in (text, text.replace("[ node", "[ multigraph 1 node", 1)):
        file = file_of(read(tmp_path, "a.GML", written))
        assert file is not None
        assert (file.links, file.parallel) == (1, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig", "utf-16"])
def test_names_of_gml_need_not_be_ascii(tmp_path: Path, encoding: str) -> None:
    text = 'graph [ node [ id 4 label "Göteborg" ] node [ id 7 label "M&#246;ln&quot;dal" ]\n'
    graph = read(
        tmp_path, "a.gml", (text + "edge [ source 4 target 7 ] ]").encode(encoding)
    )
    assert links(graph) == {("Göteborg", 'Möln"dal')}


def test_directions_of_single_links_are_kept(tmp_path: Path) -> None:
    """A graph with links of both kinds is directed; the others go both ways."""
    nodes = "".join(f'<node id="{n}"/>' for n in "abc")
    text = f'{HEAD}<graph edgedefault="undirected">{nodes}<edge source="a" target="b"/>'
    text += '<edge source="b" target="c" directed="true"/></graph></graphml>'
    wanted = {("a", "b"), ("b", "a"), ("b", "c")}
    assert links(read(tmp_path, "a.graphml", text)) == wanted
    text = '<gexf><graph defaultedgetype="directed"><nodes><node id="a"><nodes><node id="b"/>'
    text += '<node id="c"/></nodes></node></nodes><edges><edge source="b" target="c"/>'
    text += '<edge source="a" target="b" type="mutual"/></edges></graph></gexf>'
    assert links(read(tmp_path, "a.gexf", text)) == wanted
    edges = [
        {"source": "a", "target": "b", "directed": False},
        {"source": "b", "target": "c"},
    ]
    whole = {"graph": {"nodes": {n: {} for n in "abc"}, "edges": edges}}
    assert links(read(tmp_path, "a.jgf", json.dumps(whole))) == wanted
    table = "Source,Target,Type\na,b,Undirected\nb,c,Directed\n"
    assert links(read(tmp_path, "a.csv", table)) == wanted


# --- lists ----------------------------------------------------------------------------------------


def test_konect_says_directions_and_skips_no_node(tmp_path: Path) -> None:
    graph = read(tmp_path, "out.moreno", "% asym unweighted\n% 2 4 4\n3 1\n1 2\n")
    assert graph.is_directed()
    assert len(graph) == 4
    assert links(graph) == {("3", "1"), ("1", "2")}
    assert not read(
        tmp_path, "out.b.GZ", gzip.compress(b"% sym\n2 1 -1 99\n")
    ).is_directed()
    sides = read(tmp_path, "out.c", "% bip\n% 3 2 3\n1 1\n2 1\n2 3\n")
    assert links(sides) == {
        ("left 1", "right 1"),
        ("left 2", "right 1"),
        ("left 2", "right 3"),
    }
    assert len(sides) == 5


def test_snap_says_directions_and_how_much_follows(tmp_path: Path) -> None:
    text = (
        "# Directed graph: wiki.txt\n# Nodes: 3 Edges: 2\n# From\tTo\n30\t1412\n30\t3\n"
    )
    graph = read(tmp_path, "wiki.txt", text)
    assert links(graph) == {("30", "1412"), ("30", "3")}
    assert [graph.nodes[k]["label"] for k in range(3)] == ["3", "30", "1412"]


def test_who_knows_the_direction_of_a_list_says_so(tmp_path: Path) -> None:
    assert not read(tmp_path, "a.txt", "0 1\n").is_directed()
    assert read(tmp_path, "a.txt", "0 1\n", directed=True).is_directed()
    assert read(tmp_path, "a.csv", "0,1\n", directed=True).is_directed()
    place = tmp_path / "a.txt"
    assert build("topology", f"{place}(directed=true)")(0).is_directed()


def test_lists_of_networkx_carry_dictionaries(tmp_path: Path) -> None:
    stream = io.BytesIO()
    graph = nx.path_graph(3)
    nx.set_edge_attributes(
        graph, {(0, 1): {"weight": 0.25, "latency": "2ms"}, (1, 2): {"x": [1]}}
    )
    nx.write_edgelist(graph, stream, delimiter=",")
    found = read(tmp_path, "a.edgelist", stream.getvalue())
    assert found[0][1] == {"weight": 0.25, "latency_s": 0.002}
    assert found[1][2] == {"x": [1]}


def test_tables_of_spreadsheets_are_read_as_they_come(tmp_path: Path) -> None:
    """The separator in a line of its own, empty columns and rows, names in capitals."""
    graph = read(
        tmp_path,
        "a.csv",
        "\ufeffsep=;\r\nSource;Target;Latency;Bandwidth;;\r\n"
        "Oslo, NO;Rome;20ms;1Gbit/s;;\r\n;;;;;\r\nRome;Bern;7ms;1Gbit/s;;\r\n",
    )
    assert [label for _, label in graph.nodes(data="label")] == [
        "Oslo, NO",
        "Rome",
        "Bern",
    ]
    assert graph.edges[0, 1] == {"latency_s": 0.02, "bandwidth_Bps": 1.25e8}
    assert graph.edges[1, 2]["latency_s"] == 0.007


@pytest.mark.parametrize(
    ("name", "cell", "found"),
    [
        ("Latency (ms)", "5", {"latency_s": 0.005}),
        ("latency [s]", "0.5", {"latency_s": 0.5}),
        ("latency_ms", "5 s", {"latency_s": 5.0}),
        ("Latency (ms)", "", {}),
        ("latency_note", "old", {"latency_note": "old"}),
        ("Bandwidth (Mbps)", "10", {"bandwidth_Bps": 1.25e6}),
        ("bandwidth_Gbit/s", "1", {"bandwidth_Bps": 1.25e8}),
        ("bandwidth MBps", "2", {"bandwidth_Bps": 2e6}),
    ],
)
def test_units_may_stand_in_the_names_of_quantities(
    tmp_path: Path, name: str, cell: str, found: dict[str, Any]
) -> None:
    table = f"source;target;{name}\n0;1;{cell}\n1;2;{cell}\n"
    assert read(tmp_path, "a.csv", table).edges[0, 1] == found
    value = float(cell) if cell.replace(".", "").isdigit() else cell
    link = {"source": 0, "target": 1, **({name: value} if cell else {})}
    text = json.dumps({"nodes": [{"id": 0}, {"id": 1}], "links": [link]})
    assert read(tmp_path, "a.json", text).edges[0, 1] == found


def test_a_unit_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="link 0-1: latency: unknown unit 'mm' in '5 mm'"
    ):
        read(tmp_path, "a.csv", "source;target;Latency (mm)\n0;1;5\n")


def test_commas_of_names_set_no_cells_apart(tmp_path: Path) -> None:
    for mark in (";", "\t"):
        rows = [("Oslo, NO", "Rome, IT"), ("Rome, IT", "Bern, CH")]
        for ending in (".csv", ".txt"):
            text = "".join(f"{mark.join(row)}\n" for row in rows)
            assert links(read(tmp_path, f"a{ending}", text)) == {
                ("Oslo, NO", "Rome, IT"),
                ("Bern, CH", "Rome, IT"),
            }


def test_nodes_of_a_json_object_go_by_their_keys(tmp_path: Path) -> None:
    graph = read(
        tmp_path,
        "a.json",
        '{"nodes": {"a": {}, "b": {"label": "Rome"}}, "links": [{"source": "b", "target": "a"}]}',
    )
    assert [label for _, label in graph.nodes(data="label")] == ["a", "Rome"]
    assert list(graph.edges) == [(0, 1)]


def test_a_list_with_the_comment_of_konect_may_have_commas(tmp_path: Path) -> None:
    graph = read(tmp_path, "a.edges", "% sym unweighted\n1,2\n2,3\n")
    assert list(graph.edges) == [(0, 1), (1, 2)]


def test_columns_carry_quantities(tmp_path: Path) -> None:
    table = '"From node";to;latency;bandwidth\n"Oslo; city";Rome;20ms;1Gbit/s\n'
    graph = read(tmp_path, "a.csv", table)
    assert links(graph) == {("Oslo; city", "Rome")}
    assert graph[0][1] == {"latency_s": 0.02, "bandwidth_Bps": 125e6}
    tabs = "New York\tSan Jose\t0.5\n"
    assert links(read(tmp_path, "a.txt", tabs)) == {("New York", "San Jose")}


# --- matrices -------------------------------------------------------------------------------------


def saved(matrix: Any, save: Any = sparse.save_npz) -> bytes:
    stream = io.BytesIO()
    save(stream, matrix)
    return stream.getvalue()


def test_ones_are_links_and_rows_that_sum_to_one_are_weights(tmp_path: Path) -> None:
    """x_i <- sum_j W_ij x_j: entry (i, j) of weights is a link from j to i."""
    ring = np.roll(np.eye(3, dtype=int), 1, axis=1)  # 0 -> 1 -> 2 -> 0
    assert links(read(tmp_path, "a.npy", saved(ring, np.save))) == {
        ("0", "1"),
        ("1", "2"),
        ("2", "0"),
    }
    weights = np.array([[0.5, 0.5, 0.0], [0.0, 0.75, 0.25], [1.0, 0.0, 0.0]])
    for save, name in ((sparse.save_npz, "a.npz"), (np.save, "b.npy")):
        held = sparse.csr_array(weights) if save is sparse.save_npz else weights
        made = mixer(tmp_path, name, saved(held, save))
        np.testing.assert_allclose(made.mixing(0).dense(), weights)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_matrices_of_every_form_are_read(tmp_path: Path, form: str) -> None:
    matrix = nx.to_scipy_sparse_array(nx.cycle_graph(4)).asformat(form)
    assert nx.is_isomorphic(read(tmp_path, "a.npz", saved(matrix)), nx.cycle_graph(4))


def test_archives_name_their_matrix(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, features=np.ones((4, 9)), adj=nx.to_numpy_array(nx.star_graph(3)))
    assert read(tmp_path, "a.npz", stream.getvalue()).number_of_edges() == 3
    parts, stream = nx.to_scipy_sparse_array(nx.star_graph(3), format="csr"), io.BytesIO()
    np.savez(stream, adj_data=parts.data, adj_indices=parts.indices, adj_indptr=parts.indptr,
             adj_shape=parts.shape, labels=np.zeros(4))  # fmt: skip
    assert read(tmp_path, "b.npz", stream.getvalue()).number_of_edges() == 3


def test_matrix_market_mirrors_what_is_written_once(tmp_path: Path) -> None:
    text = f"{MTX} coordinate pattern symmetric\n% a note\n\n3 3 2\n2 1\n3 2\n"
    graph = read(tmp_path, "a.MTX.GZ", gzip.compress(text.encode()))
    assert links(graph) == {("0", "1"), ("1", "2")}
    dense = f"{MTX} array real symmetric\n2 2\n0\n0.5\n0\n"
    assert read(tmp_path, "b.mtx", dense)[0][1]["weight"] == 0.5
    skew = read(tmp_path, "c.mtx", f"{MTX} array real skew-symmetric\n2 2\n0.5\n")
    assert (skew[0][1]["weight"], skew[1][0]["weight"]) == (-0.5, 0.5)


def test_tables_may_be_matrices(tmp_path: Path) -> None:
    square = "0,1,0,1\n1,0,1,0\n0,1,0,1\n1,0,1,0\n"
    assert nx.is_isomorphic(read(tmp_path, "a.csv", square), nx.cycle_graph(4))
    labelled = ",Oslo,Rome\nOslo,0,2.5\nRome,2.5,0\n"
    graph = read(tmp_path, "b.csv", labelled)
    assert links(graph) == {("Oslo", "Rome")}
    assert graph[0][1]["weight"] == 2.5


def test_metis_passes_over_sizes_of_nodes(tmp_path: Path) -> None:
    text = "3 2 111 2\n9 8 7 2 5\n9 8 7 1 5 3 6\n9 8 7 2 6\n"
    graph = read(tmp_path, "a.graph", text)
    assert graph[0][1]["weight"] == 5
    assert graph[1][2]["weight"] == 6


# --- weights --------------------------------------------------------------------------------------

WEIGHTED = "1 2 0.5\n2 3 0.25\n3 1 0.25\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            WEIGHTED.replace("0.5", "-0.5"),
            r"that of link 1-2 \(line 1\) is -0.5, below 0",
        ),
        (
            WEIGHTED.replace("0.25", "nan", 1),
            r"that of link 2-3 \(line 2\) is nan, no finite number",
        ),
        (WEIGHTED.replace(" 0.5", ""), r"link 1-2 has none, and others have"),
        (
            WEIGHTED.replace("0.5", "7"),
            r"those of node 0 \(1\)'s neighbours sum to 7.25, more than 1",
        ),
        (
            WEIGHTED + "1 2 0.75\n",
            r"link 1-2 \(line 1\) has parallel links of the weights 0.5 and 0.75",
        ),
        (
            WEIGHTED + "1 1 0.5\n",
            r"node 0 \(1\)'s own, .* is 0.5, and its neighbours leave 0.25",
        ),
    ],
)
def test_weights_that_cannot_mix_are_named_with_link_and_file(
    tmp_path: Path, text: str, reason: str
) -> None:
    for weights in ("auto", "file"):
        with pytest.raises(
            ConfigError, match=rf"a\.txt' prescribes.*{reason}; use weights=metropolis"
        ):
            mixer(tmp_path, "a.txt", text, weights)
    assert mixer(tmp_path, "a.txt", text, "metropolis").doubly_stochastic


def test_text_is_no_weight(tmp_path: Path) -> None:
    edges = [{"source": "a", "target": "b", "weight": "0.5"}]
    nodes = [{"id": "a"}, {"id": "b"}]
    assert mixer(tmp_path, "a.json", as_json(nodes, edges)).mixing(0).dense()[0, 1] == 0.5
    edges[0]["weight"] = "heavy"
    with pytest.raises(
        ConfigError, match=r"link a-b \(line 1\) is 'heavy', no finite number"
    ):
        mixer(tmp_path, "a.json", as_json(nodes, edges))


def test_weights_of_a_file_are_asked_for_by_name(tmp_path: Path) -> None:
    made = mixer(tmp_path, "a.txt", WEIGHTED, "file")
    assert made.weights_name == "prescribed"
    for text, reason in (
        ("1 2\n", "no link carries"),
        ("1 2 1\n", "the weight 1, which says nothing"),
    ):
        with pytest.raises(ConfigError, match=f"weights: file asks .*{reason}"):
            mixer(tmp_path, "b.txt", text, "file")
        assert mixer(tmp_path, "b.txt", text).weights_name == "metropolis"


def test_weights_that_are_left_aside_have_no_say_in_what_is_on(tmp_path: Path) -> None:
    """Links are tossed one by one where weights are computed, rounds where prescribed."""
    assert mixer(tmp_path, "a.txt", WEIGHTED).topology.activation == "round"
    assert mixer(tmp_path, "a.txt", WEIGHTED, "metropolis").topology.activation == "link"


# --- what is said ---------------------------------------------------------------------------------


def line(folder: Path, name: str, text: str, weights: str = "auto") -> str:
    found = summary_line(mixer(folder, name, text, weights))
    assert found is not None
    return found


def test_one_line_says_what_was_read(tmp_path: Path) -> None:
    assert line(tmp_path, "a.txt", WEIGHTED + "1 2 0.5\n2 2 0.25\n") == (
        "a.txt is edge list: 3 nodes, 3 links (left out: 1 parallel, 1 from a node to itself), "
        "undirected; weights: 0.25 to 0.5 in the file, taken as mixing weights; latency: none; "
        "bandwidth: none; labels: 1 to 3, for nodes 0 to 2."
    )
    left = line(tmp_path, "a.txt", WEIGHTED, "metropolis")
    assert "weights: 0.25 to 0.5 in the file, left aside for metropolis;" in left
    ones = line(tmp_path, "a.txt", "0 1 1\n")
    assert "weights: 1 on every link, which says nothing, so metropolis;" in ones
    assert ones.endswith("labels: none but numbers, 0 to 1.")
    table = (
        "source,target,latency,bandwidth\nOslo,Rome,5ms,1Gbit/s\nRome,Bern,7ms,1Gbit/s\n"
    )
    assert line(tmp_path, "a.csv", table).endswith(
        "weights: none in the file, so metropolis; latency: 5 ms to 7 ms; bandwidth: 1 Gbit/s; "
        "labels: Oslo, Rome, Bern."
    )
    twice = 'graph [ node [ id 0 label "x" ] node [ id 1 label "x" ] edge [ source 0 target 1 ] ]'
    assert line(tmp_path, "a.gml", twice).endswith("labels: x, x (1 of them again).")


def test_one_link_is_counted_as_one(tmp_path: Path) -> None:
    line = summary_line(mixer(tmp_path, "a.txt", "0 1\n"))
    assert line is not None
    assert "edge list: 2 nodes, 1 link, undirected;" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.net", "*Vertices 3\n*Edges\n1 2\n2 3\n"),
        ("a.mtx", f"{MTX} coordinate real symmetric\n3 3 2\n2 1 0.5\n3 2 0.25\n"),
        ("a.txt", "0 1\n1 2\n"),
        ("a.csv", "0,1\n1,2\n"),
        ("a.graph", "3 2\n2\n1 3\n2\n"),
    ],
)
def test_a_last_line_without_an_end_is_said(tmp_path: Path, name: str, text: str) -> None:
    """A file of lines that was cut within its last one looks whole but for that."""
    said = "; its last line has no end: if the file was cut, it is not whole."
    assert said not in line(tmp_path, name, text)
    assert line(tmp_path, name, text.rstrip("\n"), "metropolis").endswith(said)
    whole = '{"nodes": [{"id": 0}, {"id": 1}], "links": [{"source": 0, "target": 1}]}'
    assert said not in line(tmp_path, "a.json", whole)


def test_the_run_folder_keeps_labels_and_facts(tmp_path: Path) -> None:
    kept = describe_mixing(mixer(tmp_path, "a.txt", WEIGHTED))
    assert json.loads(json.dumps(kept)) == kept
    assert kept["labels"] == ["1", "2", "3"]
    assert kept["links"] == [[0, 1], [1, 2], [0, 2]] or len(kept["links"]) == 3
    assert kept["file"]["weights"] == [0.25, 0.5]
    assert kept["file"]["form"] == "edge list"
    assert kept["summary"].startswith("a.txt is edge list: 3 nodes")
    plain = describe_mixing(Mixer.make(Topology(build("topology", "ring"), 4)))
    assert not {"labels", "file", "summary"} & plain.keys()


# --- real networks --------------------------------------------------------------------------------


@pytest.fixture
def zoo(data_dir: Path) -> Path:
    """The networks of the Internet Topology Zoo, each in both formats."""
    folder = data_dir / "zoo"
    if not folder.is_dir():
        pytest.skip(f"needs the Topology Zoo: {folder} is missing")
    return folder


def twins(place: Path) -> tuple[Any, Any]:
    """Return a network of the Topology Zoo from GML and from GraphML."""
    one, other = (
        build("topology", str(place.with_suffix(ending)))(0)
        for ending in (".gml", ".graphml")
    )
    return one, other


def check_zoo(place: Path) -> None:
    one, other = twins(place)
    assert list(one.nodes(data="label")) == list(other.nodes(data="label"))
    assert set(map(frozenset, one.edges())) == set(map(frozenset, other.edges()))
    independent = nx.Graph(
        nx.read_graphml(place.with_suffix(".graphml"), force_multigraph=True)
    )
    independent.remove_edges_from(list(nx.selfloop_edges(independent)))
    assert len(one) == len(independent)
    assert one.number_of_edges() == independent.number_of_edges()
    if nx.is_connected(independent):
        assert len(Topology(build("topology", str(place)), len(one)).links(0)) == 2 * len(
            one.edges
        )
    else:
        with pytest.raises(ConfigError, match="is disconnected"):
            Topology(build("topology", str(place)), len(one))


#: With parallel links, without the flag, disconnected, large, with labels twice.
PROBLEMS = ("Airtel", "Abilene", "DeutscheTelekom", "Geant2012", "Cogentco")


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_network_of_the_zoo_is_the_same_in_both_formats(zoo: Path, name: str) -> None:
    check_zoo(zoo / f"{name}.gml")


@pytest.mark.soak
def test_all_networks_of_the_zoo_are_the_same_in_both_formats(zoo: Path) -> None:
    places = sorted(zoo.glob("*.gml"))
    assert len(places) == 261
    for place in places:
        check_zoo(place)
