"""Generators of networkx by name, and the networks of topohub."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from math import comb
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from decentral import ConfigError
from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap
from decentral.registry import build
from decentral.topology.base import Topology
from decentral.topology.files.assemble import file_of

# --- networkx -------------------------------------------------------------------------------------


def refusal(name: str, nodes: int) -> str:
    with pytest.raises(ConfigError) as caught:
        Topology(build("topology", name), nodes)
    return str(caught.value)


def test_the_n_of_a_hypercube_is_its_dimension() -> None:
    said = refusal("nx:hypercube_graph", 4)
    assert "its n is not the number of nodes (Dimension of the hypercube" in said
    assert said.endswith(
        "n=1, 2 give 2, 4 nodes; write nx:hypercube_graph(n=2) for 4 nodes."
    )
    assert Topology(build("topology", "nx:hypercube_graph(n=2)"), 4).nodes == 4
    said = refusal("nx:hypercube_graph", 1000)
    assert "n=7, 8, 9, 10 give 128, 256, 512, 1024 nodes; none gives 1000; write" in said


@pytest.mark.parametrize(
    ("name", "nodes", "spelled"),
    [
        ("nx:star_graph", 16, "nx:star_graph(n=15)"),
        ("nx:star_graph", 333, "nx:star_graph(n=332)"),
        ("nx:ladder_graph", 100, "nx:ladder_graph(n=50)"),
        ("nx:circular_ladder_graph", 12, "nx:circular_ladder_graph(n=6)"),
        ("nx:binomial_tree", 8, "nx:binomial_tree(n=3)"),
        ("nx:margulis_gabber_galil_graph", 36, "nx:margulis_gabber_galil_graph(n=6)"),
        ("nx:kneser_graph(k=2)", comb(7, 2), "nx:kneser_graph(n=7, k=2)"),
        ("nx:grid_2d_graph(m=4)", 20, "nx:grid_2d_graph(n=5, m=4)"),
        ("nx:lollipop_graph(m=4)", 30, "nx:lollipop_graph(n=26, m=4)"),
    ],
)
def test_what_a_refusal_writes_fits(name: str, nodes: int, spelled: str) -> None:
    said = refusal(name, nodes)
    assert said.endswith(f"write {spelled} for {nodes} nodes.")
    assert len(build("topology", spelled)(nodes, 0)) == nodes


def test_a_size_that_costs_too_much_to_look_for_is_not_looked_for() -> None:
    said = refusal("nx:kneser_graph(k=2)", comb(100, 2))
    assert said.endswith(
        "write nx:kneser_graph(n=..., k=2) and set nodes to what it gives."
    )
    assert "none gives" not in said


@pytest.mark.parametrize(
    "name",
    ["nx:cycle_graph", "nx:wheel_graph", "nx:random_regular_graph(d=3)", "nx:turan_graph(r=3)",
     "nx:full_rary_tree(r=2)", "nx:random_internet_as_graph"],
)  # fmt: skip
def test_generators_that_count_nodes_are_drawn(name: str) -> None:
    assert Topology(build("topology", name), 16).nodes == 16


# --- topohub --------------------------------------------------------------------------------------


def networks() -> dict[str, Path]:
    """Return the networks of topohub by key, from its installed files."""
    found = find_spec("topohub")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "data"
    places = sorted(folder.rglob("*.json"))
    return {
        place.relative_to(folder).with_suffix("").as_posix(): place for place in places
    }


needs_topohub = pytest.mark.skipif(
    find_spec("topohub") is None, reason="needs topohub: pip install -e '.[graphs]'"
)


def check_topohub(key: str) -> None:
    """Read a network, compare its counts with the package's own, and compute its gap."""
    graph: Any = build("topology", f"topohub:{key}")(0)
    stated, own = graph.graph["stats"], file_of(graph)
    assert (len(graph), graph.number_of_edges()) == (stated["nodes"], stated["links"])
    assert own is not None
    assert (own.parallel, own.loops, own.directed) == (0, 0, False)
    degrees = [degree for _, degree in graph.degree()]
    assert (min(degrees), max(degrees)) == (stated["min_degree"], stated["max_degree"])
    topology = Topology(build("topology", lambda n: graph), len(graph))
    assert 0 < spectral_gap(Mixer.make(topology)) <= 1


@pytest.mark.slow
@needs_topohub
def test_networks_of_topohub_have_the_counts_that_it_states() -> None:
    found = networks()
    groups = Counter(key.partition("/")[0] for key in found)
    counts = {"backbone": 20, "caida": 98, "gabriel": 360, "sndlib": 26, "topozoo": 203}
    assert groups == counts
    for key in found:
        check_topohub(key)


@needs_topohub
def test_names_of_topohub_are_labels() -> None:
    graph = build("topology", "topohub:topozoo/Geant2012")(0)
    assert graph.nodes[0]["label"] == "NL"


def test_who_lacks_topohub_is_told_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("decentral.topology.outside.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"needs the package topohub; install it with: .*\[graphs\]'"
    ):
        build("topology", "topohub:topozoo/Abilene")


@needs_topohub
def test_an_unknown_network_of_topohub_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'topozoo/Geant2012'"):
        build("topology", "topohub:topozoo/Gaent2012")


# --- the gallery and the sources ------------------------------------------------------------------

GALLERY = Path(__file__).resolve().parent.parent / "topologies"


def sizes(name: str) -> tuple[int, int]:
    graph = build("topology", name)(0)
    return len(graph), graph.number_of_edges()


@needs_topohub
def test_the_gallery_and_topohub_tell_of_one_abilene_and_of_two_geants() -> None:
    """As topologies/README.md says: topohub leaves out nodes of the zoo, here three of GEANT's."""
    assert sizes(str(GALLERY / "geant.json")) == (40, 61)
    assert sizes("topohub:topozoo/Geant2012") == (37, 58)
    assert sizes(str(GALLERY / "abilene.json")) == (11, 14)
    assert sizes("topohub:topozoo/Abilene") == (11, 14)
    ours = build("topology", str(GALLERY / "abilene.json"))(0)
    theirs = build("topology", "topohub:topozoo/Abilene")(0)
    assert nx.is_isomorphic(ours, theirs)
