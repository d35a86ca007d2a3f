"""Laws of mixing weights, on every topology."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import example, fits

from decentral import ConfigError
from decentral.mixing.base import Mixer, Mixing
from decentral.registry import build, find, names
from decentral.topology.base import Topology
from decentral.traits import WeightsTraits, traits_of

SIZES = (1, 2, 3, 5, 7, 8, 13, 16, 17)
INTENSITIES = (1.0, 0.5, 0.07)
ROUNDS = (0, 1, 4)


@cache
def topology(name: str, nodes: int, seed: int = 0) -> Topology:
    return Topology(example("topology", name), nodes, seed)


@cache
def make(name: str, weights: str, nodes: int, seed: int = 0) -> Mixer:
    rule = weights if weights == "auto" else example("weights", weights)
    return Mixer.make(topology(name, nodes, seed), rule)


@cache
def sizes(name: str) -> list[int]:
    return [nodes for nodes in SIZES if fits(name, nodes)]


def usual(name: str) -> int:
    """Return a size of a topology that has room for what is its own."""
    return next(nodes for nodes in sizes(name) if nodes > 3)


@cache
def refusal(name: str, weights: str) -> str:
    """Return why a rule declares that it does not weigh a topology; empty where it does."""
    auto = weights == "auto"
    traits = (
        WeightsTraits() if auto else traits_of(find("weights", weights), WeightsTraits)
    )
    found = topology(name, usual(name))
    if traits.undirected and found.links(0).directed:
        return "undirected"
    return "does not change" if traits.fixed and found.time_varying else ""


def claims(name: str, weights: str) -> bool:
    """Whether a mixer says of any size that it keeps the mean; small ones may be special."""
    tried = [nodes for nodes in (1, 2, usual(name)) if fits(name, nodes)]
    return any(make(name, weights, nodes).doubly_stochastic for nodes in tried)


def denies(name: str, weights: str) -> bool:
    mixer = make(name, weights, usual(name))
    return not mixer.doubly_stochastic and mixer.keeps != "nothing"  # sums never claim it


def symmetric(name: str, weights: str) -> bool:
    rule = make(name, weights, usual(name)).rule
    return rule is not None and traits_of(rule, WeightsTraits).symmetric


@cache
def combined(whole: bool) -> list[tuple[int, float, int]]:
    """Return sizes, intensities and rounds: all together, or so that any two values meet."""
    every = list(product(range(len(SIZES)), range(len(INTENSITIES)), range(len(ROUNDS))))
    return [
        (SIZES[a], INTENSITIES[b], ROUNDS[c])
        for a, b, c in every
        if whole or (a + b + c) % 3 == 0
    ]


def mixings(name: str, weights: str, whole: bool) -> Iterator[tuple[Mixer, float, int]]:
    """Yield mixers of all sizes with an intensity and a round."""
    for nodes, intensity, round in combined(whole):
        if fits(name, nodes):
            yield make(name, weights, nodes), intensity, round


TOPOLOGIES, RULES = names("topology"), ["auto", *names("weights")]
PAIRS = [(name, weights) for name in TOPOLOGIES for weights in RULES]
WEIGHED = [pair for pair in PAIRS if not refusal(*pair)]
LINKWISE = [name for name in TOPOLOGIES if topology(name, 8).activation == "link"]

on_every_topology = pytest.mark.parametrize("name", TOPOLOGIES)
by_every_rule = pytest.mark.parametrize(("name", "weights"), WEIGHED)
pairwise_and_all = pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, id="pairwise"),
        pytest.param(True, id="all", marks=pytest.mark.soak),
    ],
)


def sums_to_one(mixer: Mixer, matrix: np.ndarray) -> None:
    """Rows, or columns where a node keeps what it does not send; plain sums promise nothing."""
    axis = {"rest": 1, "unsent": 0}.get(mixer.keeps)
    if axis is None:
        assert (np.diag(matrix) == 0).all()
    else:
        np.testing.assert_allclose(matrix.sum(axis), 1.0, atol=1e-12)


@cache
def mixed(name: str, weights: str, nodes: int, round: int, intensity: float) -> Mixing:
    return make(name, weights, nodes).mixing(round, intensity)


def mixers(name: str, weights: str) -> list[Mixer]:
    return [make(name, weights, nodes) for nodes in sizes(name)]


@pytest.mark.parametrize(("name", "weights"), [pair for pair in PAIRS if refusal(*pair)])
def test_a_rule_is_refused_for_the_declared_reason(name: str, weights: str) -> None:
    for nodes in sizes(name):
        with pytest.raises(ConfigError, match=refusal(name, weights)):
            make(name, weights, nodes)


@pairwise_and_all
@by_every_rule
def test_rows_or_columns_sum_to_one_and_weights_are_non_negative(
    name: str, weights: str, whole: bool
) -> None:
    for mixer, intensity, round in mixings(name, weights, whole):
        matrix = mixed(name, weights, mixer.topology.nodes, round, intensity).dense()
        sums_to_one(mixer, matrix)
        assert matrix.min() >= -1e-12


@pairwise_and_all
@by_every_rule
def test_weights_lie_only_on_links_that_are_on(
    name: str, weights: str, whole: bool
) -> None:
    for mixer, intensity, round in mixings(name, weights, whole):
        topology = mixer.topology
        mixing = mixed(name, weights, topology.nodes, round, intensity)
        links = topology.links(round, intensity)
        allowed = np.eye(topology.nodes, dtype=bool)
        allowed[links.receivers, links.senders] = True
        used = mixing.dense() > 0
        assert not (used & ~allowed).any()
        assert mixing.messages == (used & ~np.eye(topology.nodes, dtype=bool)).sum()
        if intensity == 1.0:
            assert mixing.messages == len(links)


@pytest.mark.parametrize(("name", "weights"), [pair for pair in WEIGHED if claims(*pair)])
@given(
    place=st.integers(0, 19),
    seed=st.integers(0, 5),
    round=st.integers(0, 50),
    intensity=st.floats(0.01, 1.0),
)
@settings(max_examples=3)
def test_who_says_doubly_stochastic_keeps_the_mean_in_every_round(
    name: str, weights: str, place: int, seed: int, round: int, intensity: float
) -> None:
    fitting = [nodes for nodes in range(1, 21) if fits(name, nodes)]
    from_there = fitting[place % len(fitting) :] + fitting[: place % len(fitting)]
    tried = (make(name, weights, nodes, seed) for nodes in from_there)
    mixing = next(mixer for mixer in tried if mixer.doubly_stochastic).mixing(
        round, intensity
    )
    assert mixing.doubly_stochastic
    np.testing.assert_allclose(mixing.dense().sum(0), 1.0, atol=1e-9)


@pytest.mark.parametrize(("name", "weights"), [pair for pair in WEIGHED if denies(*pair)])
def test_nobody_denies_being_doubly_stochastic_in_vain(name: str, weights: str) -> None:
    for mixer in mixers(name, weights):
        if mixer.topology.nodes > 3:
            assert not mixer.doubly_stochastic
            tried = (mixer.mixing(r, i).dense() for r in range(12) for i in INTENSITIES)
            both = (np.r_[matrix.sum(0), matrix.sum(1)] for matrix in tried)
            assert any(np.abs(sums - 1).max() > 1e-3 for sums in both)


@pytest.mark.parametrize(
    ("name", "weights"), [pair for pair in WEIGHED if symmetric(*pair)]
)
def test_symmetric_rules_weigh_both_directions_alike(name: str, weights: str) -> None:
    for mixer in mixers(name, weights):
        for intensity in INTENSITIES:
            matrix = mixer.mixing(3, intensity).dense()
            np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("name", LINKWISE)
def test_a_link_that_is_on_is_on_in_both_directions(name: str) -> None:
    for mixer in mixers(name, "auto"):
        for round in range(12):
            on = mixer.mixing(round, 0.4).dense() > 0
            assert (on == on.T).all()


@pytest.mark.parametrize("name", LINKWISE)
def test_link_activation_is_fair_and_independent_between_rounds(name: str) -> None:
    """Every link is on in a share of the rounds near the intensity, and not in step with others."""
    mixer = make(name, "auto", 8)
    rounds, intensity = 400, 0.3
    on = np.stack([(mixer.mixing(r, intensity).dense() > 0) for r in range(rounds)])
    tolerance = 4.5 * np.sqrt(intensity * (1 - intensity) / rounds)
    links = mixer.topology.links(0)
    if mixer.topology.time_varying:  # then links are counted, not followed
        there = len(links)
        shares = (on.sum((1, 2)) - 8) / there
        assert np.abs(shares.mean() - intensity) < tolerance
        return
    seen = on[:, links.receivers, links.senders].astype(float)  # [rounds, links]
    assert np.abs(seen.mean(0) - intensity).max() < tolerance
    apart = links.receivers < links.senders
    correlation = np.corrcoef(seen[:, apart].T) - np.eye(apart.sum())
    assert np.abs(correlation).max() < 4.5 / np.sqrt(rounds)


@by_every_rule
def test_absent_nodes_get_no_links_and_the_rest_goes_on(name: str, weights: str) -> None:
    for mixer in mixers(name, weights):
        nodes = mixer.topology.nodes
        absent = frozenset({0, nodes // 2})
        for round in ROUNDS:
            mixing = mixer.mixing(round, 1.0, absent)
            matrix = mixing.dense()
            sums_to_one(mixer, matrix)
            for node in absent:
                alone = np.eye(nodes)[node] * (mixer.keeps != "nothing")
                np.testing.assert_array_equal(matrix[node], alone)
                np.testing.assert_array_equal(matrix[:, node], alone)
            links = mixer.topology.links(round)
            kept = [
                pair for pair in zip(links.receivers, links.senders, strict=True)
                if not absent & {int(v) for v in pair}
            ]  # fmt: skip
            assert mixing.messages == len(kept)


@on_every_topology
@pytest.mark.parametrize("intensity", [1.0, 0.6, 0.15])
@pytest.mark.parametrize("nodes", [2, 8])
def test_expected_messages_are_the_mean_over_many_rounds(
    name: str, intensity: float, nodes: int
) -> None:
    """Within five standard errors (the central limit theorem); exactly where nothing is drawn."""
    mixer = make(name, "auto", nodes)
    # Whole links leave nothing to chance but graphs that are drawn.
    steps = (40 if intensity == 1.0 else 160) * mixer.topology.period
    sent = np.array([
        mixer.mixing(step, intensity).messages if mixer.is_active(step, intensity) else 0
        for step in range(steps)
    ])  # fmt: skip
    error = 5 * sent.std() / np.sqrt(steps)
    assert abs(sent.mean() - mixer.expected_messages(intensity)) <= error + 1e-9


@on_every_topology
def test_mixings_are_pure_in_seed_and_round(name: str) -> None:
    for nodes in (nodes for nodes in (5, 8) if fits(name, nodes)):
        once = make(name, "auto", nodes)
        again = Mixer.make(Topology(example("topology", name), nodes), "auto")
        forward = [once.mixing(r, 0.5).dense() for r in range(6)]
        backward = [again.mixing(r, 0.5).dense() for r in reversed(range(6))]
        np.testing.assert_array_equal(forward, backward[::-1])


def test_weights_that_give_away_more_than_everything_are_refused() -> None:
    def greedy(receivers, senders, nodes):  # type: ignore[no-untyped-def]
        return np.ones(len(receivers))

    mixer = Mixer.make(Topology(build("topology", "ring"), 5), greedy)
    with pytest.raises(ConfigError, match="gives away more than 1"):
        mixer.mixing(0)


def test_a_topology_with_unbalanced_prescribed_weights_does_not_claim_to_keep_the_mean() -> (
    None
):
    def unbalanced(n: int) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(range(n))
        graph.add_weighted_edges_from(
            (i, (i + 1) % n, 0.1 + 0.8 * i / n) for i in range(n)
        )
        return graph

    assert not Mixer.make(Topology(build("topology", unbalanced), 5)).doubly_stochastic


def test_one_balanced_round_does_not_vouch_for_later_ones() -> None:
    def changing(n: int, round: int) -> nx.DiGraph:
        graph = nx.empty_graph(n, create_using=nx.DiGraph)
        graph.add_edges_from((i, (i + 1) % n) for i in range(n))
        if round:
            graph.add_edge(0, 2)
        return graph

    assert not Mixer.make(Topology(build("topology", changing), 5)).doubly_stochastic
