"""Graphs that are held in Python: objects, functions, matrices, lists of links."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from support import tiny_run, tiny_setup

from decentral import ConfigError
from decentral.api import run_config
from decentral.config import make_config
from decentral.registry import build
from decentral.topology.base import Topology
from decentral.topology.held import graph_of

CYCLE = nx.to_numpy_array(nx.cycle_graph(5))
LAZY = (np.eye(5) + CYCLE / 2) / 2
CITIES = nx.Graph(
    [("Oslo", "Bergen"), ("Bergen", "Kiel"), ("Kiel", "Oslo"), ("Kiel", "Ulm")]
)


def same(graph: Any, links: Any, directed: bool = False) -> None:
    assert graph.is_directed() == directed
    found = {tuple(link) if directed else frozenset(link) for link in graph.edges()}
    assert found == {tuple(link) if directed else frozenset(link) for link in links}


@pytest.mark.parametrize(
    "matrix",
    [CYCLE, CYCLE.astype(int), CYCLE.astype(bool), scipy.sparse.csr_matrix(CYCLE),
     scipy.sparse.coo_array(CYCLE), torch.tensor(CYCLE), torch.tensor(CYCLE).to_sparse(),
     pd.DataFrame(CYCLE, index=list("abcde"), columns=list("abcde"))],
    ids=lambda one: f"{type(one).__module__}.{type(one).__name__}",
)  # fmt: skip
def test_an_adjacency_of_any_library_is_the_same_graph(matrix: Any) -> None:
    graph, said = graph_of(matrix)
    same(graph, nx.cycle_graph(5).edges())
    assert said.startswith("topology: a matrix of 5 x 5, read as an adjacency (0 and 1")
    assert not nx.get_edge_attributes(graph, "weight")
    labels = list("abcde") if isinstance(matrix, pd.DataFrame) else []
    assert list(nx.get_node_attributes(graph, "label").values()) == labels


def test_rows_that_sum_to_one_are_mixing_weights() -> None:
    graph, said = graph_of(LAZY)
    assert said.endswith("read as mixing weights (rows sum to 1); links go both ways.")
    assert set(nx.get_edge_attributes(graph, "weight").values()) == {0.25}
    setup = tiny_setup(topology=LAZY, nodes=5)
    assert setup.planner is not None
    mixing = setup.planner.mixer.mixing(0)
    rows = np.repeat(np.arange(5), np.diff(mixing.indptr))
    dense = np.zeros((5, 5))
    dense[rows, mixing.senders] = mixing.weights
    np.testing.assert_allclose(dense, LAZY)


def test_a_directed_matrix_of_weights_says_what_a_node_receives() -> None:
    weights = np.array([[0.5, 0.5, 0], [0, 0.2, 0.8], [0.3, 0, 0.7]])
    graph, _ = graph_of(weights)
    same(graph, [(1, 0), (2, 1), (0, 2)], directed=True)
    assert graph.edges[1, 0]["weight"] == 0.5
    adjacency, _ = graph_of((weights > 0) & ~np.eye(3, dtype=bool))
    same(adjacency, [(0, 1), (1, 2), (2, 0)], directed=True)


def test_any_other_matrix_must_be_said_to_be_one() -> None:
    odd = CYCLE * 3
    with pytest.raises(ConfigError, match="say what it holds"):
        graph_of(odd)
    graph, said = graph_of(odd, "adjacency")
    same(graph, nx.cycle_graph(5).edges())
    assert "as was said" in said
    with pytest.raises(ConfigError, match="rows of a matrix of weights sum to 1"):
        graph_of(odd, "weights")
    config = make_config({"topology": {"name": odd, "kind": "adjacency"}})
    assert config.nodes == 5


def test_lists_of_links_hold_weights_and_what_links_are_like() -> None:
    graph, said = graph_of([("a", "b"), ("b", "c", 0.25), ("c", "a", {"latency_s": 0.5})])
    same(graph, [("a", "b"), ("b", "c"), ("c", "a")])
    assert graph.edges["b", "c"] == {"weight": 0.25}
    assert graph.edges["c", "a"] == {"latency_s": 0.5}
    assert said == "topology: a list of 3 links between 3 nodes, both ways."
    same(graph_of(torch.tensor([[0, 1, 2], [1, 2, 3]]))[0], [(0, 1), (1, 2), (2, 3)])
    same(graph_of(np.array([[0, 1], [1, 2], [2, 3]]))[0], [(0, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize(
    "topology",
    [
        {0: [1, 2], 1: [2], 2: []},
        {"a": {"b", "c"}, "b": ("c",), "c": []},
        nx.to_dict_of_dicts(nx.cycle_graph(3)),
    ],
)
def test_a_mapping_may_say_who_is_linked_to_whom(topology: Any) -> None:
    setup = tiny_setup(topology=topology, nodes=3)
    assert setup.planner is not None
    graph = setup.planner.mixer.topology.rule(3)
    assert (graph.number_of_edges(), len(graph)) == (3, 3)


def test_numbers_of_such_a_mapping_are_weights() -> None:
    graph, _ = graph_of({0: {1: 0.5}, 1: {0: 0.5}})
    assert graph.edges[0, 1] == {"weight": 0.5}


def test_a_mapping_of_settings_is_no_graph() -> None:
    with pytest.raises(ConfigError, match="topology 'ring' has no setting 'sizes'"):
        tiny_setup(topology={"sizes": [2, 3]}, nodes=3)
    with pytest.raises(ConfigError, match="the graph holds no node"):
        tiny_setup(topology=nx.Graph())


def test_graphs_of_other_libraries_come_by_their_own_way() -> None:
    igraph = SimpleNamespace(to_networkx=lambda: CITIES)
    assert graph_of(igraph)[0] is CITIES
    geometric = SimpleNamespace(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=4)
    graph, _ = graph_of(geometric)
    same(graph, [(0, 1), (1, 2)])
    assert len(graph) == 4


@pytest.mark.parametrize(
    ("topology", "nodes"),
    [(CITIES, 4), (nx.petersen_graph(), 10), ("nx:petersen_graph", 10), (CYCLE, 5),
     (nx.petersen_graph, 10), ("nx:grid_2d_graph(m=2, n=3)", 6), (nx.cycle_graph, 16),
     ("ring", 16), ("nx:cycle_graph", 16), ([(0, 1), (1, 2)], 3)],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_nodes_follow_the_graph(topology: Any, nodes: int) -> None:
    assert make_config({"topology": topology}).nodes == nodes


def test_nodes_follow_a_file_of_a_graph(tmp_path: Path) -> None:
    nx.write_graphml(CITIES, tmp_path / "cities.graphml")
    assert make_config({"topology": str(tmp_path / "cities.graphml")}).nodes == 4
    assert (
        make_config({"topology": str(tmp_path / "cities.graphml"), "nodes": 3}).nodes == 3
    )


def test_a_run_over_a_graph_of_ones_own(tmp_path: Path) -> None:
    given: dict[str, Any] = {"topology": CITIES, "node_lr": {"Ulm": 0.5}, "steps": 4}
    setup = tiny_setup(**given, nodes=4)
    assert setup.config.node_lr == {3: 0.5}
    tiny_run(tmp_path / "run", task="quadratic", model="mlp", **given).run(lambda _: None)
    written = json.loads((tmp_path / "run/topology.json").read_text())
    assert written["labels"] == ["Oslo", "Bergen", "Kiel", "Ulm"]
    config = run_config(tmp_path / "run", topology=CITIES)
    assert config.nodes == 4
    assert Topology(build("topology", config.topology), 4).labels[3] == "Ulm"
    with pytest.raises(ConfigError, match="its topology was given from Python"):
        run_config(tmp_path / "run")


def test_paths_of_python_are_taken(tmp_path: Path) -> None:
    assert make_config({"out": tmp_path / "run"}).out == str(tmp_path / "run")


# --- what weights do ------------------------------------------------------------------------------

SWAP = {"name": np.array([[0.0, 1.0], [1.0, 0.0]]), "kind": "weights"}


@pytest.mark.parametrize(
    ("topology", "nodes", "algorithm", "said"),
    [
        ("random_neighbors(r=2)", 4, "dsgd", "row-stochastic, so that the mean"),
        ("random_neighbors(r=2)", 4, "push_sum", ""),
        (SWAP, 2, "dsgd", "the spectral gap is 0, so that nodes never agree"),
        ({**SWAP, "name": np.full((2, 2), 0.5)}, 2, "dsgd", ""),
        (
            {**SWAP, "name": np.array([[0.9, 0.1], [0.5, 0.5]])}, 2, "dsgd",
            "row-stochastic, so that the mean",
        ),
        ("ring", 4, "dsgd", ""), ("one_peer_exponential", 4, "dsgd", ""),
    ],
)  # fmt: skip
def test_a_run_says_where_the_mean_drifts_and_where_nodes_never_agree(
    topology: Any, nodes: int, algorithm: str, said: str
) -> None:
    setup = tiny_setup(topology=topology, nodes=nodes, algorithm=algorithm)
    about = [
        note for note in setup.notes if "weights" in note and "matrix of" not in note
    ]
    assert len(about) == bool(said)
    assert said in "".join(about)
