"""Graphs from outside: weights that cannot mix, and parallel links in any order."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from decentral import ConfigError
from decentral.mixing.base import Mixer
from decentral.network import presets
from decentral.registry import build
from decentral.topology.base import Topology

FAST = {"latency": "5ms", "bandwidth": "10Gbit/s"}
NEAR = {"latency": "1ms", "bandwidth": "1Mbit/s"}
SLOW = {"latency": "500ms", "bandwidth": "1Mbit/s"}


def weighted(*weights: object) -> nx.Graph[int]:
    graph = nx.cycle_graph(len(weights))
    for (one, other), weight in zip(graph.edges(), weights, strict=True):
        if weight is not None:
            graph[one][other]["weight"] = weight
    return graph


def mixer(graph: object, weights: str = "auto", nodes: int = 3) -> Mixer:
    return Mixer.make(Topology(build("topology", graph), nodes), weights)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ((0.6, 0.6, 0.3), "sum to 1.2, more than 1"),
        ((0.3, -0.1, 0.3), r"link \d-\d is -0.1, below 0"),
        ((0.3, float("nan"), 0.3), "is nan, no finite number"),
        ((0.3, "heavy", 0.3), "is 'heavy', no finite number"),
        ((0.3, None, 0.3), "has none, and others have"),
    ],
)
def test_prescribed_weights_that_cannot_mix_are_refused(
    weights: tuple[object, ...], reason: str
) -> None:
    def own(n: int) -> nx.Graph[int]:
        return weighted(*weights)

    with pytest.raises(
        ConfigError, match=f"edge attribute 'weight'.*{reason}.*weights=metropolis"
    ):
        mixer(own)
    assert mixer(own, "metropolis").mixing(0).doubly_stochastic


def test_karate_club_is_refused_before_a_run() -> None:
    with pytest.raises(
        ConfigError, match=r"sum to 48, more than 1; use weights=metropolis"
    ):
        mixer("nx:karate_club_graph", nodes=34)


def test_later_rounds_are_checked_too() -> None:
    def own(n: int, round: int) -> nx.Graph[int]:
        return weighted(*[0.9 if round == 7 else 0.3] * n)

    with pytest.raises(ConfigError, match=r"in round 7: .* sum to 1\.8"):
        mixer(own)


def test_a_round_without_links_leaves_everybody_alone() -> None:
    def own(n: int, round: int) -> nx.Graph[int]:
        return nx.empty_graph(n) if round == 1 else weighted(0.3, 0.3, 0.3)

    assert np.array_equal(mixer(own).mixing(1).dense(), np.eye(3))


def write(folder: Path, form: str, cables: tuple[dict[str, object], ...]) -> str:
    """Write the links 0-1, as many as there are cables, and 1-2 in a format."""
    links = [(0, 1, cable) for cable in cables] + [(1, 2, FAST)]
    graph = nx.MultiGraph()
    graph.add_edges_from(links)
    place = folder / f"graph.{form}"
    if form == "graphml":
        nx.write_graphml(graph, place)
    elif form == "gml":
        nx.write_gml(graph, place)
    elif form == "edgelist":
        place.write_text("".join(f"{a} {b} {data}\n" for a, b, data in links))
    else:
        found = [{"source": a, "target": b, "key": 0, **data} for a, b, data in links]
        nodes = [{"id": node} for node in range(3)]
        place.write_text(
            json.dumps({"multigraph": False, "nodes": nodes, "links": found})
        )
    return str(place)


@pytest.mark.parametrize("form", ["graphml", "gml", "edgelist", "json"])
def test_the_better_cable_stands_for_parallel_links_in_any_order(
    tmp_path: Path, form: str
) -> None:
    """As a whole: the highest bandwidth, of equals the lowest latency, as topology and network."""
    for best, cables in ((FAST, (FAST, NEAR, SLOW)), (NEAR, (NEAR, SLOW))):
        for order in permutations(cables):
            name = write(tmp_path, form, order)
            link = Topology(build("topology", name), 3).graph(0)[0][1]
            assert (
                link["bandwidth_Bps"]
                == {"10Gbit/s": 1.25e9, "1Mbit/s": 1.25e5}[best["bandwidth"]]
            )
            assert link["latency_s"] == {"5ms": 0.005, "1ms": 0.001}[best["latency"]]
            network, _ = presets.make(name, 3)
            assert network.latency_s[0, 1] == link["latency_s"]
            assert network.bandwidth_Bps[0, 1] == link["bandwidth_Bps"]


def test_weights_of_parallel_links_agree_or_are_refused() -> None:
    def own(n: int) -> nx.Graph[int]:
        return graph

    for order in permutations(({"weight": 0.25, **FAST}, {"weight": 0.5, **SLOW})):
        links = [(0, 1, cable) for cable in order] + [(1, 2, {"weight": 0.25})]
        graph = nx.MultiGraph(links)
        with pytest.raises(
            ConfigError, match=r"parallel links of the weights 0\.25 and 0\.5"
        ):
            mixer(own)
    graph = nx.MultiGraph([(0, 1, {"weight": 0.25})] * 2 + [(1, 2, {"weight": 0.25})])
    assert mixer(own).mixing(0).dense()[0, 1] == 0.25
