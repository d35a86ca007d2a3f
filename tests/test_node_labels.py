"""Nodes by label: read from files, numbered, and usable wherever numbers are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import yaml

import decentral
import decentral.cli
from decentral import ConfigError
from decentral.config import make_config, parse_assignments
from decentral.loop.preparing import prepare
from decentral.loop.setup import Setup
from decentral.registry import build
from decentral.topology.base import Topology
from decentral.topology.labels import NodeLabels, in_order, number_nodes

CITIES = ("Oslo", "St. Gallen", "None", "107", "Rome", "Rome")


@pytest.fixture
def ring(tmp_path: Path) -> str:
    """A ring of cities, two of one name, one whose name is a number."""
    place = tmp_path / "cities.json"
    nodes = [{"id": f"n{k}", "label": city} for k, city in enumerate(CITIES)]
    edges = [{"source": f"n{k}", "target": f"n{(k + 1) % 6}"} for k in range(6)]
    place.write_text(json.dumps({"nodes": nodes, "edges": edges}))
    return str(place)


def prepared(topology: str, *words: str, **settings: Any) -> Setup:
    given = {
        "task": "quadratic",
        "nodes": 6,
        "steps": 20,
        "topology": topology,
        **settings,
    }
    return prepare(make_config(given, parse_assignments(words)))


# --- numbering ------------------------------------------------------------------------------------


def test_whole_numbers_ascend_and_others_stay_in_order() -> None:
    graph = number_nodes(nx.Graph([(30, 4), (4, 111)]))
    assert dict(graph.nodes(data="label")) == {0: "4", 1: "30", 2: "111"}
    assert set(graph.edges()) == {(0, 1), (0, 2)}
    named = number_nodes(nx.DiGraph([("b", "a"), ("a", "c")]))
    assert dict(named.nodes(data="label")) == {0: "b", 1: "a", 2: "c"}
    assert named.is_directed()
    pairs = number_nodes(nx.grid_2d_graph(2, 2))
    assert pairs.nodes[3]["label"] == "(1, 1)"
    plain = nx.path_graph(3)
    assert number_nodes(plain) is plain
    assert in_order(["1", "01"]) is None
    assert in_order(["-3", "+2", "-10"]) == [2, 0, 1]


def test_topologies_from_python_are_numbered_alike() -> None:
    def own(n: int) -> nx.Graph[int]:
        return nx.Graph([(9, 5), (5, 7), (7, 9)])

    assert Topology(build("topology", own), 3).labels == ("5", "7", "9")


# --- settings -------------------------------------------------------------------------------------


def test_labels_are_usable_wherever_numbers_are(ring: str) -> None:
    setup = prepared(
        ring,
        "attack=sign_flip(nodes=[St. Gallen, 4])",
        "faults=churn(nodes=[Oslo, 2])",
        "node_lr.Oslo=0.5",
        "node_lr.St. Gallen=2",
        "node_lr.5=3",
    )
    assert setup.config.node_lr == {0: 0.5, 1: 2.0, 5: 3.0}
    assert setup.attackers.nodes == {1, 4}
    assert setup.planner is not None
    assert setup.planner.faults.rules[0].settings["nodes"] == [0, 2]


def test_a_label_that_is_a_number_goes_in_quotes(ring: str) -> None:
    setup = prepared(
        ring, "attack=sign_flip(nodes=['107'])", "node_lr.'107'=2", "node_lr.'None'=3"
    )
    assert setup.attackers.nodes == {3}
    assert setup.config.node_lr == {3: 2.0, 2: 3.0}
    written = yaml.safe_load("node_lr: {'107': 2, 2: 3, Oslo: 4}")
    assert prepared(ring, **written).config.node_lr == {3: 2.0, 2: 3.0, 0: 4.0}
    with pytest.raises(ConfigError, match=r"there is no node 107; nodes are 0 to 5\."):
        prepared(ring, "node_lr.107=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "node_lr.Olso=2",
            r"node_lr: there is no node labelled 'Olso'. Did you mean 'Oslo'\? Nodes",
        ),
        (
            "attack=sign_flip(nodes=[Paris])",
            r"attack: there is no node labelled 'Paris'\.",
        ),
        (
            "faults=churn(nodes=[OSLO])",
            r"faults: churn: .* 'OSLO'. Did you mean 'Oslo'\?",
        ),
        (
            "node_lr.Rome=2",
            r"node_lr: nodes 4 and 5 are all labelled 'Rome'; give their numbers",
        ),
    ],
)
def test_an_unknown_label_is_refused_with_the_nearest(
    ring: str, words: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(ring, words)


def test_a_node_has_one_rate(ring: str) -> None:
    with pytest.raises(ConfigError, match="node 0 is given twice, by number and label"):
        prepared(ring, "node_lr.0=2", "node_lr.Oslo=3")


def test_topologies_without_labels_say_so() -> None:
    with pytest.raises(
        ConfigError, match=r"labelled 'Oslo'.*0 to 5; the topology has no labels"
    ):
        prepared("ring", "node_lr.Oslo=2")
    assert prepared("ring", node_lr={"3": 2.0}).config.node_lr == {3: 2.0}
    assert NodeLabels(3).numbers("x", [2, "1"]) == [2, 1]


# --- what is kept and shown -----------------------------------------------------------------------


def test_a_run_keeps_labels_and_can_be_made_again_from_its_folder(
    ring: str, tmp_path: Path
) -> None:
    run = decentral.launch(
        task="quadratic", nodes=6, steps=4, topology=ring, out=str(tmp_path / "run"),
        node_lr={"Oslo": 0.5}, attack="sign_flip(nodes=[Oslo])", faults="churn(nodes=['107'])",
    )  # fmt: skip
    kept = json.loads((run.path / "topology.json").read_text())
    assert kept["labels"] == list(CITIES)
    assert "labels: Oslo, St. Gallen, None, ... (1 of them again)." in kept["summary"]
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["node_lr"] == {0: 0.5}
    assert config["attack"]["nodes"] == [0]
    again = prepare(make_config({**config, "out": None}))
    assert again.attackers.nodes == {0}
    notes = [
        json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()
    ]
    assert kept["summary"] in [event.get("text") for event in notes]


def test_labels_are_shown_beside_numbers(
    ring: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decentral.cli.run(["show", "topology", ring, "--nodes", "6"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "cities.json is JSON, node-link: 6 nodes, 6 links, undirected;" in shown
    assert "labels: 0 Oslo; 1 St. Gallen; 2 None; 3 107; 4 Rome; 5 Rome" in shown
    assert decentral.cli.run(["show", "topology", "ring", "--nodes", "6"]) == 0
    assert "labels" not in capsys.readouterr().out
