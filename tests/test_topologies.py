"""Theorems about topologies and weights, and numbers that were found by independent code."""

from __future__ import annotations

from itertools import permutations
from math import ceil, cos, log, pi
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap
from decentral.registry import build
from decentral.topology.base import Links, Topology, statistics


def mixer(topology: str, nodes: int, weights: str = "auto", seed: int = 0) -> Mixer:
    return Mixer.make(Topology(build("topology", topology), nodes, seed), weights)


def period(made: Mixer) -> list[np.ndarray]:
    return [made.mixing(r).dense() for r in range(made.topology.period)]


def product(matrices: list[np.ndarray]) -> np.ndarray:
    found = np.eye(len(matrices[0]))
    for matrix in matrices:
        found = matrix @ found
    return found


def assert_exact(matrices: list[np.ndarray]) -> None:
    np.testing.assert_allclose(product(matrices), 1 / len(matrices[0]), atol=1e-12)


# --- finite time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_base_k_averages_exactly_for_every_n_with_at_most_k_peers(k: int) -> None:
    """Takezawa et al. (2023), theorem 1, for many n up to 100; and length <= 2 log_{k+1} n + 2."""
    for nodes in (*range(1, 41), 64, 81, 97, 100):
        matrices = period(mixer(f"base_k(k={k})", nodes))
        assert_exact(matrices)
        peers = [(matrix > 0).sum(1).max() - 1 for matrix in matrices]
        assert max(peers) <= k
        assert nodes == 1 or len(matrices) <= 2 * log(nodes) / log(k + 1) + 2 + 1e-9
        for matrix in matrices:
            np.testing.assert_allclose(matrix, matrix.T, atol=0)


@pytest.mark.parametrize(
    ("k", "lengths"),
    [
        (1, {8: 3, 16: 4, 25: 9, 32: 5, 64: 6}),
        (2, {8: 3, 16: 4, 25: 6, 32: 5, 64: 6}),
        (3, {8: 2, 16: 2, 25: 5, 32: 3, 64: 3}),
    ],
)
def test_base_k_takes_as_many_rounds_as_its_authors_code(
    k: int, lengths: dict[int, int]
) -> None:
    found = {n: len(period(mixer(f"base_k(k={k})", n))) for n in lengths}
    assert found == lengths


@pytest.mark.parametrize(
    ("topology", "nodes"),
    [
        ("hyper_cuboid(k=4)", 60),
        ("hyper_cuboid(sizes=[8, 4])", 32),
        ("one_peer_hypercube", 16),
    ],
)
def test_averaging_along_digits_is_exact_in_any_order(topology: str, nodes: int) -> None:
    for order in permutations(period(mixer(topology, nodes))):
        assert_exact(list(order))


@pytest.mark.parametrize(("k", "nodes", "rounds"), [(1, 32, 5), (2, 27, 3), (5, 12, 2)])
def test_de_bruijn_averages_exactly_where_n_divides_a_power(
    k: int, nodes: int, rounds: int
) -> None:
    made = mixer(f"de_bruijn(k={k})", nodes)
    assert made.topology.exact_after == rounds
    assert_exact([made.mixing(0).dense()] * rounds)


@pytest.mark.parametrize("nodes", [6, 13, 25])
def test_de_bruijn_keeps_the_mean_for_any_n(nodes: int) -> None:
    assert mixer("de_bruijn", nodes).doubly_stochastic


# --- random sequences -----------------------------------------------------------------------------


def shrinkage(topology: str, nodes: int, rounds: int = 600) -> tuple[float, float]:
    """Return the mean of ||W x||^2 / ||x||^2 over rounds for an x of mean 0, and its error."""
    made = mixer(topology, nodes)
    x = np.random.default_rng(0).normal(size=nodes)
    x -= x.mean()
    ratios = [((made.mixing(r).dense() @ x) ** 2).sum() / (x @ x) for r in range(rounds)]
    return float(np.mean(ratios)), float(np.std(ratios) / np.sqrt(rounds))


@pytest.mark.parametrize("nodes", [8, 32, 96])
def test_one_random_hop_shrinks_disagreement_at_a_rate_that_n_does_not_change(
    nodes: int,
) -> None:
    """OD-EquiDyn at eta = 1/2: E||Wx||^2 = (1 - 1/n)/2 ||x||^2, exactly."""
    mean, error = shrinkage("equi_dynamic", nodes)
    assert abs(mean - (1 - 1 / nodes) / 2) < 4 * error


@pytest.mark.parametrize("nodes", [9, 32, 96])
def test_matched_hops_do_so_too(nodes: int) -> None:
    """OU-EquiDyn: nearly all nodes find a partner along the hop; at best (1 - 1/n)/2."""
    mean, error = shrinkage("equi_dynamic(directed=false)", nodes)
    assert (1 - 1 / nodes) / 2 - 4 * error < mean < 0.75


@pytest.mark.parametrize("nodes", [8, 32, 96])
def test_random_matchings_shrink_disagreement_by_half(nodes: int) -> None:
    """E||Wx||^2 = (1/2 - 1/(2(n - 1))) ||x||^2 for even n."""
    mean, error = shrinkage("random_matchings", nodes)
    assert abs(mean - (0.5 - 0.5 / (nodes - 1))) < 4 * error


@pytest.mark.parametrize("directed", ["true", "false"])
def test_the_gap_of_equi_static_does_not_fall_with_n(directed: str) -> None:
    """With M proportional to ln n (theorems 1 and 2 of Song et al.); a ring's falls like 1/n^2."""
    for nodes in (16, 64, 256):
        hops = ceil(4 * log(nodes))
        name = f"equi_static(hops={hops}, directed={directed})"
        gaps = [spectral_gap(mixer(name, nodes, seed=seed)) for seed in range(3)]
        assert min(gaps) > 0.35


# --- closed forms ---------------------------------------------------------------------------------

#: 1 - ||W - J||_2 with Metropolis weights, found by an independent program, four digits.
MEASURED = {
    "grid": {8: 0.1464, 16: 0.1314, 25: 0.0838, 32: 0.0342, 64: 0.0323},
    "torus": {16: 0.4, 25: 0.2764, 32: 0.1172, 64: 0.1172},
    "hypercube": {8: 0.5, 16: 0.4, 32: 0.3333, 64: 0.2857},
    "clusters": {32: 0.0199, 64: 0.0051},
}


@pytest.mark.parametrize(("name", "gaps"), MEASURED.items())
def test_gaps_agree_with_independent_measurements(
    name: str, gaps: dict[int, float]
) -> None:
    found = {nodes: spectral_gap(mixer(name, nodes)) for nodes in gaps}
    assert found == pytest.approx(gaps, abs=1e-4)


@pytest.mark.parametrize("nodes", [4, 9, 16])
def test_gaps_have_their_closed_forms(nodes: int) -> None:
    assert spectral_gap(mixer("line", nodes)) == pytest.approx(
        2 / 3 * (1 - cos(pi / nodes))
    )
    side = int(nodes**0.5)
    if side > 2:
        wanted = 2 / 5 * (1 - cos(2 * pi / side))
        assert spectral_gap(mixer("torus", nodes)) == pytest.approx(wanted)
    if nodes != 9:
        wanted = 2 / (1 + log(nodes, 2))
        assert spectral_gap(mixer("hypercube", nodes)) == pytest.approx(wanted)


def test_gaps_of_many_nodes_have_their_closed_forms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by products with vectors, also where W is not symmetric, and else by all values."""
    from scipy.sparse.linalg import ArpackNoConvergence

    for nodes in (300, 2000):
        wanted = 2 / 3 * (1 - cos(2 * pi / nodes))
        assert spectral_gap(mixer("ring", nodes)) == pytest.approx(wanted, rel=1e-6)
    assert spectral_gap(mixer("complete", 300)) == 1.0
    uneven = mixer("nx:gnp_random_graph(p=0.05)", 300, "uniform")
    matrix = uneven.mixing(0).dense()
    assert not np.allclose(matrix, matrix.T)
    wanted = 1 - np.linalg.norm(matrix - matrix.mean(0), 2)
    assert spectral_gap(uneven) == pytest.approx(wanted, rel=1e-9)

    def fails(*given: object, **settings: object) -> None:
        raise ArpackNoConvergence("too few rounds", np.empty(0), np.empty(0))

    monkeypatch.setattr("scipy.sparse.linalg.eigsh", fails)
    assert spectral_gap(uneven) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("topology", "nodes", "links", "degree", "diameter"),
    [
        ("line", 10, 9, 2, 9),
        ("torus", 20, 40, 4, 4),
        ("torus(rows=2)", 10, 15, 3, 3),
        ("grid(rows=3)", 8, 10, 4, 4),
        ("hypercube", 32, 80, 5, 5),
        ("binary_tree", 15, 14, 3, 6),
        ("barbell", 10, 21, 5, 3),
        ("barbell(bar=2)", 10, 15, 4, 5),
        ("lollipop", 10, 15, 5, 6),
        ("random_regular(degree=3)", 20, 30, 3, 4),
        ("watts_strogatz(p=0)", 20, 40, 4, 5),
        ("clusters(size=5)", 20, 44, 5, 5),
        ("clusters(size=4, bridges=2)", 8, 14, 4, 3),
    ],
)
def test_shapes(
    topology: str, nodes: int, links: int, degree: int, diameter: int
) -> None:
    found = statistics(Topology(build("topology", topology), nodes))
    assert (found["links"], found["degree_max"]) == (links, degree)
    assert found["diameter"] == diameter or "random" in topology


# --- weights --------------------------------------------------------------------------------------


def second(topology: str, nodes: int, weights: str) -> float:
    return 1 - spectral_gap(mixer(topology, nodes, weights))


@pytest.mark.parametrize("nodes", [2, 3, 8, 15])
def test_the_fastest_weights_of_a_path_are_one_half(nodes: int) -> None:
    """mu = cos(pi / n) (Boyd, Diaconis, Sun & Xiao, 2006)."""
    assert second("line", nodes, "fastest_mixing") == pytest.approx(
        cos(pi / nodes), abs=2e-4
    )


@pytest.mark.parametrize("nodes", [4, 8, 17])
def test_the_fastest_weights_of_a_star_leave_its_hub_nothing(nodes: int) -> None:
    """By symmetry all spokes weigh the same, at most 1/(n - 1): mu = 1 - 1/(n - 1)."""
    found = second("star", nodes, "fastest_mixing")
    assert found == pytest.approx(1 - 1 / (nodes - 1), abs=2e-4)


@pytest.mark.parametrize(
    ("topology", "nodes", "second_and_last"),
    [
        ("star", 16, (1, 16)),
        ("ring", 9, (2 - 2 * cos(2 * pi / 9), 2 - 2 * cos(8 * pi / 9))),
        ("hypercube", 16, (2, 8)),
        ("complete", 5, (5, 5)),
        ("line", 2, (2, 2)),
    ],
)
def test_without_bounds_alike_links_weigh_what_balances_the_spectrum(
    topology: str, nodes: int, second_and_last: tuple[float, float]
) -> None:
    """mu = (l_n - l_2)/(l_n + l_2) where every link looks like every other (Xiao & Boyd, 2004)."""
    low, high = second_and_last
    found = second(topology, nodes, "fastest_mixing(nonnegative=false)")
    assert found == pytest.approx((high - low) / (high + low), abs=1e-9)


def test_a_negative_weight_nearly_doubles_the_gap_of_a_star() -> None:
    bounded = mixer("star", 16, "fastest_mixing(nonnegative=true)")
    free = mixer("star", 16, "fastest_mixing(nonnegative=false)")
    assert spectral_gap(bounded) == pytest.approx(0.0667, abs=5e-5)
    assert spectral_gap(free) == pytest.approx(0.1176, abs=5e-5)
    assert bounded.mixing(0).weights.min() >= 0
    assert free.mixing(0).dense()[0, 0] == pytest.approx(1 - 15 * 2 / 17)
    assert free.mixing(0).doubly_stochastic


@pytest.mark.parametrize(
    ("topology", "gain"), [("barbell", 1.3), ("lollipop", 1.05), ("grid", 1)]
)
def test_without_bounds_gaps_are_no_smaller(topology: str, gain: float) -> None:
    bounded = spectral_gap(mixer(topology, 16, "fastest_mixing"))
    assert (
        spectral_gap(mixer(topology, 16, "fastest_mixing(nonnegative=false)"))
        > gain * bounded - 1e-3
    )


@pytest.mark.parametrize("nodes", [6, 8, 16, 25])
def test_the_fastest_weights_of_a_ring_balance_its_ends_of_the_spectrum(
    nodes: int,
) -> None:
    """All links weigh 2/(l_2 + l_n), the Laplacian's: mu = (l_n - l_2)/(l_n + l_2)."""
    spectrum = sorted(2 - 2 * cos(2 * pi * j / nodes) for j in range(nodes))
    low, high = spectrum[1], spectrum[-1]
    found = second("ring", nodes, "fastest_mixing")
    assert found == pytest.approx((high - low) / (high + low), abs=2e-3)


@pytest.mark.parametrize(
    ("topology", "gain"),
    [("erdos_renyi", 1.3), ("barbell", 1.5), ("grid", 1.2), ("complete", 1)],
)
def test_the_fastest_weights_beat_metropolis(topology: str, gain: float) -> None:
    slow = spectral_gap(mixer(topology, 16))
    assert spectral_gap(mixer(topology, 16, "fastest_mixing")) >= gain * slow * (1 - 1e-9)


def test_fastest_weights_are_computed_once_and_links_that_are_off_keep_theirs() -> None:
    made = mixer("grid", 9, "fastest_mixing")
    whole, part = made.mixing(0).dense(), made.mixing(3, 0.5).dense()
    on = (part > 0) & ~np.eye(9, dtype=bool)
    assert 0 < on.sum() < 24
    np.testing.assert_array_equal(part[on], whole[on])


@pytest.mark.parametrize("topology", ["ring", "star", "erdos_renyi"])
def test_lazy_weights_have_no_negative_eigenvalue(topology: str) -> None:
    lazy = mixer(topology, 12, "lazy").mixing(0).dense()
    plain = mixer(topology, 12, "metropolis").mixing(0).dense()
    np.testing.assert_allclose(lazy, (np.eye(12) + plain) / 2, atol=1e-15)
    assert np.linalg.eigvalsh(lazy).min() >= -1e-12


def test_max_degree_weighs_every_link_of_a_round_the_same() -> None:
    matrix = mixer("star", 6, "max_degree").mixing(0).dense()
    assert set(matrix[0, 1:].round(12)) == {round(1 / 6, 12)}


@pytest.mark.parametrize(("base", "most"), [("exponential", 5), ("ring", 2)])
def test_random_neighbors_among_a_graph_are_drawn_from_its_links(
    base: str, most: int
) -> None:
    """``exponential+random`` of the authors: r others on average, no more than there are."""

    def pairs(links: Links) -> set[tuple[int, int]]:
        return set(zip(links.receivers.tolist(), links.senders.tolist(), strict=True))

    allowed = pairs(Topology(build("topology", base), 20).links(0))
    for r, wanted in ((0.4, 0.4), (1.5, 1.5), (9.0, most)):
        rule = build("topology", f"random_neighbors(r={r}, among={base})")
        drawn = Topology(rule, 20)
        rounds = [drawn.links(k) for k in range(200)]
        assert set().union(*map(pairs, rounds)) == allowed
        assert sum(map(len, rounds)) / 4000 == pytest.approx(wanted, rel=0.06)
        assert drawn.traits.expected_links(20, 1.0, rule.settings) == pytest.approx(
            20 * wanted
        )


def test_random_neighbors_keep_the_cables_of_the_graph_that_they_are_drawn_from(
    tmp_path: Path,
) -> None:
    graph = nx.cycle_graph(6)
    nx.set_edge_attributes(graph, 0.25, "latency_s")
    nx.write_graphml(graph, tmp_path / "ring.graphml")
    among = {"name": "random_neighbors", "r": 1, "among": str(tmp_path / "ring.graphml")}
    drawn = Topology(build("topology", among), 6).graph(0)
    assert {data["latency_s"] for *_, data in drawn.edges(data=True)} == {0.25}
