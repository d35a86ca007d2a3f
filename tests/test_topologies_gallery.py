"""The files of ``topologies/``: facts on every link, and latencies that light can reach."""

from __future__ import annotations

import doctest
import json
from math import asin, cos, radians, sin, sqrt
from pathlib import Path
from typing import Any

import pytest

from decentral.registry import build
from decentral.topology.base import Topology
from decentral.userfile import load_file

GALLERY = Path(__file__).resolve().parent.parent / "topologies"
FILES = sorted(GALLERY.glob("*.json"))

EARTH_KM, FIBRE_KM_S = 6371.0088, 299_792.458 * 2 / 3

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def graph_of(file: Path) -> Any:
    graph = build("topology", str(file))(0)
    return Topology(build("topology", str(file)), graph.number_of_nodes()).graph(0)


@every_file
def test_every_link_has_a_latency_and_a_bandwidth(file: Path) -> None:
    for _, _, link in graph_of(file).edges(data=True):
        assert 0 < link["latency_s"] < 1
        assert 1e6 < link["bandwidth_Bps"] < 1e12
        assert not {"latency", "bandwidth"} & set(link), "quantities are read once"


@every_file
def test_a_file_says_what_is_published_and_what_is_not(file: Path) -> None:
    about = json.loads(file.read_text())["graph"]
    assert about["name"]
    assert set(about) & {"published", "assumed"}
    assert (
        "published" not in about
        or "http" in about["published"]
        or "(" in about["published"]
    )


@pytest.mark.parametrize("name", ["abilene", "geant"])
def test_latencies_are_great_circles_at_two_thirds_of_the_speed_of_light(
    name: str,
) -> None:
    whole = json.loads((GALLERY / f"{name}.json").read_text())
    places = {
        node["id"]: (node["latitude"], node["longitude"]) for node in whole["nodes"]
    }
    for link in whole["edges"]:
        away = great_circle_km(places[link["source"]], places[link["target"]])
        written = float(link["latency"].removesuffix("ms")) / 1e3
        assert written == pytest.approx(away / FIBRE_KM_S, abs=1e-5)


def great_circle_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    (north, east), (north2, east2) = map(radians, one), map(radians, other)
    half = sin((north2 - north) / 2) ** 2
    half += cos(north) * cos(north2) * sin((east2 - east) / 2) ** 2
    return 2 * EARTH_KM * asin(sqrt(half))


def test_nodes_keep_their_names_and_their_order() -> None:
    graph = graph_of(GALLERY / "abilene.json")
    assert [graph.nodes[node]["label"] for node in (0, 10)] == [
        "New York",
        "Indianapolis",
    ]


def test_the_example_of_a_plugin_holds() -> None:
    results = doctest.testmod(load_file(str(GALLERY / "nearest.py")))
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("links", [1, 2, 10])
def test_near_links_are_kept_and_nobody_is_cut_off(links: int) -> None:
    whole = graph_of(GALLERY / "cloud_regions.json")
    kept = Topology(
        build("topology", f"{GALLERY / 'nearest.py'}:nearest(links={links})"), 11
    )
    graph = kept.graph(0)
    for node in whole:
        quickest = sorted(whole[node], key=lambda other: whole[node][other]["latency_s"])
        assert set(quickest[:links]) <= set(graph[node])
    assert graph.number_of_edges() < 55 or links == 10
