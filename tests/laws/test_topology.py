"""Laws of topologies."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import numpy as np
import pytest
from support import example, fits, in_turns, planner, round_actions

from decentral import ConfigError
from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap
from decentral.registry import find, names
from decentral.topology.base import Topology
from decentral.traits import TopologyTraits, traits_of

SIZES = (1, 2, 3, 5, 7, 8, 13, 16, 17)
ROUNDS = (0, 1, 2, 5)


def promised(name: str) -> TopologyTraits:
    return traits_of(find("topology", name), TopologyTraits)


def topology(name: str, nodes: int, seed: int = 0) -> Topology:
    return Topology(example("topology", name), nodes, seed)


every = pytest.mark.parametrize("name", names("topology"))
EVERY_SIZE = [(name, n) for name in names("topology") for n in SIZES if fits(name, n)]
at_every_size = pytest.mark.parametrize(("name", "nodes"), EVERY_SIZE)
#: Rounds until mixing has averaged exactly, where a topology says that it does.
EXACT_AFTER = {case: topology(*case).exact_after or 0 for case in EVERY_SIZE}


def edges(found: Topology, round: int, intensity: float = 1.0) -> list[tuple[int, int]]:
    links = found.links(round, intensity)
    return list(zip(links.receivers.tolist(), links.senders.tolist(), strict=True))


@at_every_size
def test_labels_are_0_to_n_minus_1_and_nobody_hears_itself(name: str, nodes: int) -> None:
    found = topology(name, nodes)
    for round in ROUNDS:
        graph = found.graph(round)
        assert sorted(graph) == list(range(nodes))
        assert nx.number_of_selfloops(graph) == 0
        pairs = edges(found, round)
        assert len(set(pairs)) == len(pairs)
        assert all(0 <= a < nodes and 0 <= b < nodes and a != b for a, b in pairs)


@at_every_size
def test_one_period_connects_all_nodes_or_says_why_not(name: str, nodes: int) -> None:
    found = topology(name, nodes)
    union = found.union()
    connected = nx.is_strongly_connected if union.is_directed() else nx.is_connected
    reason = found.traits.disconnected
    assert connected(union) or len(reason.split()) > 2
    if reason:  # then in expectation: many rounds together connect everybody
        assert connected(nx.compose_all([found.graph(r) for r in range(8 * nodes)]))


@pytest.mark.parametrize(
    "name", [name for name in names("topology") if promised(name).disconnected]
)
def test_nobody_excuses_itself_from_being_connected_in_vain(name: str) -> None:
    union = topology(name, 16).union()
    connected = nx.is_strongly_connected if union.is_directed() else nx.is_connected
    assert not connected(union)


@at_every_size
def test_the_same_seed_gives_the_same_graph_in_any_order_of_rounds(
    name: str, nodes: int
) -> None:
    once, again = topology(name, nodes), topology(name, nodes)
    forward = {r: edges(once, r, 0.6) for r in ROUNDS}
    backward = {r: edges(again, r, 0.6) for r in reversed(ROUNDS)}
    assert forward == backward


@every
def test_a_topology_depends_on_exactly_what_it_asks_for(name: str) -> None:
    found = topology(name, 16)
    seeds = [edges(topology(name, 16, seed), 0) for seed in range(6)]
    assert (len(set(map(tuple, seeds))) > 1) == ("seed" in found.parameters)
    rounds = [edges(found, round) for round in range(6)]
    assert (len(set(map(tuple, rounds))) > 1) == ("round" in found.parameters)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        (name, n)
        for name, n in EVERY_SIZE
        if topology(name, n).time_varying and promised(name).period is not None
    ],
)
def test_the_sequence_of_graphs_repeats_after_the_declared_period(
    name: str, nodes: int
) -> None:
    found = topology(name, nodes)
    for round in range(2 * found.period):
        assert edges(found, round) == edges(found, round + found.period)


@pytest.mark.parametrize(
    ("name", "nodes", "communication"),
    in_turns(
        [case for case, need in EXACT_AFTER.items() if need],
        ["constant", "constant(0.3)", "late(50%, 0.4)"],
    ),
)
def test_finite_time_families_average_exactly_whatever_the_clock_and_the_schedule(
    name: str, nodes: int, communication: str
) -> None:
    """``exact_after`` whole rounds from the start of a period multiply to J = 1 1^T / n, and so
    does every run of rounds that is long enough to hold them."""
    need, period = EXACT_AFTER[name, nodes], topology(name, nodes).period
    for local_steps in {1, 3, 10, max(1, (nodes - 1).bit_length())}:
        steps = local_steps * (12 * need + 24)
        talk = planner(
            name, communication, nodes=nodes, steps=steps, local_steps=local_steps
        )
        whole = talk.mixer.topology.activation == "round"
        run: list[np.ndarray] = []
        checked = 0
        for round, (_, action) in enumerate(round_actions(talk)):
            if action.mixing is None or not (whole or action.intensity == 1.0):
                run = []
                continue
            run.append(action.mixing.dense())
            aligned = (round + 1 - need) % period == 0
            length = need if aligned else need + period - 1
            if len(run) >= length:
                product = np.linalg.multi_dot([np.eye(nodes), *run[: -length - 1 : -1]])
                np.testing.assert_allclose(product, 1 / nodes, atol=1e-12)
                checked += 1
        assert checked or not (whole or communication != "constant(0.3)")


@pytest.mark.parametrize(
    "tried",
    [
        pytest.param((*range(1, 18), 25, 27, 32, 49, 64), id="some"),
        pytest.param(range(1, 65), id="all", marks=pytest.mark.soak),
    ],
)
@every
def test_every_size_up_to_64_works_or_is_refused_in_one_line(
    name: str, tried: Sequence[int]
) -> None:
    for nodes in tried:
        if not fits(name, nodes):
            with pytest.raises(ConfigError, match=rf"that is .*, not {nodes}; use \d+"):
                topology(name, nodes)
            continue
        mixer = Mixer.make(topology(name, nodes))
        matrix = mixer.mixing(0).dense()
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)
        if mixer.doubly_stochastic:
            np.testing.assert_allclose(matrix.sum(0), 1.0, atol=1e-12)
        gap = spectral_gap(mixer)
        assert 0 < gap <= 1 or not mixer.doubly_stochastic


@pytest.mark.parametrize(
    ("name", "nodes"), [case for case, need in EXACT_AFTER.items() if need >= 2]
)
def test_mixing_does_not_average_sooner_than_declared(name: str, nodes: int) -> None:
    mixer = Mixer.make(topology(name, nodes))
    product = np.eye(nodes)
    for round in range(EXACT_AFTER[name, nodes] - 1):
        product = mixer.mixing(round).dense() @ product
    assert np.abs(product - 1 / nodes).max() > 1e-3
