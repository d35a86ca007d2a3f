"""Simulated seconds: closed forms, monotone in every cost, the same on any workers and resumed."""

from __future__ import annotations

import json
import re
from math import ceil, log2
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    TINY,
    blobs,
    exchanges,
    planner,
    silent,
    tiny_block,
    tiny_run,
    together,
    trained,
)

from decentral import ConfigError
from decentral.cli import run as cli
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.loop.block import Block
from decentral.loop.preparing import prepare
from decentral.network import presets
from decentral.network.clock import Clock, forecast, forecast_all_reduce
from decentral.network.links import Network, all_reduce_s, gossip, ring_s, tree_s, uniform
from decentral.network.presets import network_of
from decentral.registry import build
from decentral.run.checkpoint import newest_checkpoint
from decentral.run.folder import RunFolder

SIZE, RATE = 2.0**20, 2.0**20  # a message takes a second on a link
LATENCY_S = 0.25


def clock_of(network: Network, compute: Any = "1s") -> Clock:
    return Clock(network, build("compute", compute))


def rounds(clock: Clock, topology: str, count: int, nodes: int = 8) -> list[list[float]]:
    """Compute and gossip ``count`` times; return the clocks after every round."""
    mixer = planner(topology, nodes=nodes).mixer
    found: list[list[float]] = []
    for step in range(count):
        clock.work(step)
        clock.gossip(mixer.mixing(step), SIZE, range(nodes))
        found.append(clock.ready_s.tolist())
    return found


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["ring", "complete", "star", "one_peer_exponential"])
def test_links_without_a_common_line_take_latency_and_size_over_bandwidth(
    topology: str,
) -> None:
    clock = clock_of(uniform(8, LATENCY_S, RATE))
    ends = rounds(clock, topology, 3)
    assert ends == [[2.25 * (r + 1)] * 8 for r in range(3)]


@pytest.mark.parametrize("nodes", [2, 5, 9])
def test_on_a_star_the_line_of_the_hub_is_shared(nodes: int) -> None:
    """The hub hears, and sends, N - 1 messages over one line; the rest send only one."""
    clock = clock_of(uniform(nodes, LATENCY_S, RATE, RATE, RATE))
    first = rounds(clock, "star", 1, nodes)[0]
    assert first == [1 + LATENCY_S + (nodes - 1)] * nodes


def test_a_narrow_way_up_or_down_counts_by_itself() -> None:
    wide = 64 * RATE
    for up, down in ((RATE, wide), (wide, RATE)):
        clock = clock_of(uniform(8, LATENCY_S, wide, up, down))
        assert rounds(clock, "complete", 1)[0] == [1 + LATENCY_S + 7] * 8


@pytest.mark.parametrize("topology", ["ring", "nx:path_graph"])
def test_a_straggler_is_felt_one_hop_further_in_every_round(topology: str) -> None:
    """Nobody waits for the world: who is k hops away is late from round k on."""
    nodes, late = 9, 4

    def compute(ids: Any, step: int, seed: int) -> Any:
        return np.where((ids == late) & (step == 0), 11.0, 1.0)

    clock = clock_of(uniform(nodes, LATENCY_S, RATE), compute)
    distance = np.abs(np.arange(nodes) - late)  # on a ring of 9 likewise
    for index, ends in enumerate(rounds(clock, topology, 5, nodes), start=1):
        late_s = np.array(ends) - 2.25 * index
        assert (late_s[distance > index] == 0).all()
        assert (late_s[distance == index] == 10).all()
        assert (np.abs(late_s[distance < index] - 10) <= LATENCY_S).all()


def test_a_slow_node_slows_all_down_in_the_end_and_at_once_where_all_meet() -> None:
    def compute(ids: Any, step: int, seed: int) -> Any:
        return np.where(ids == 0, 4.0, 1.0)

    network = uniform(8, LATENCY_S, RATE)
    everybody = clock_of(network, compute)
    # it hears all the others
    assert rounds(everybody, "complete", 1)[0] == [5.0] + [5.25] * 7
    ring = rounds(clock_of(network, compute), "ring", 40)
    assert ring[0][4] == 2.25
    assert ring[39][4] - ring[38][4] == 5.0  # four to compute and one to send


def test_two_sites_feel_their_slow_links_from_the_border_on() -> None:
    """Nodes 0-3 and 4-7 on a ring: links 3-4 and 7-0 take 8 s more than those inside."""
    given = {
        "name": "sites", "latency_s": 8.25, "inside_latency_s": 0.25, "bandwidth_Bps": RATE,
        "inside_Bps": RATE,
    }  # fmt: skip
    network, _ = presets.make(given, 8)
    ends = rounds(clock_of(network), "ring", 20)
    inner, border = 2.25, 10.25
    assert ends[0] == [border, inner, inner, border] * 2
    assert ends[1] == [2 * border, border + inner, border + inner, 2 * border] * 2
    assert np.diff([end[1] for end in ends])[2:].tolist() == [border] * 17


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 8, 13])
def test_a_ring_all_reduce_passes_on_parts_twice_around(nodes: int) -> None:
    network, members = uniform(nodes, LATENCY_S, RATE, RATE, RATE), np.arange(nodes)
    expected = 2 * (nodes - 1) * (LATENCY_S + SIZE / nodes / RATE)
    assert all_reduce_s(network, members, SIZE, "ring") == pytest.approx(
        expected, rel=1e-15
    )


@pytest.mark.parametrize("nodes", [2, 3, 5, 8, 13])
def test_a_tree_all_reduce_goes_up_and_down(nodes: int) -> None:
    network, members = uniform(nodes, LATENCY_S, RATE, RATE, RATE), np.arange(nodes)
    expected = 2 * ceil(log2(nodes)) * (LATENCY_S + 1)
    assert all_reduce_s(network, members, SIZE, "tree") == expected
    both = ring_s(network, members, SIZE), tree_s(network, members, SIZE)
    assert all_reduce_s(network, members, SIZE) == min(both)


def test_small_messages_go_by_a_tree_and_large_ones_by_a_ring() -> None:
    network, members = uniform(16, LATENCY_S, RATE), np.arange(16)
    assert all_reduce_s(network, members, 1.0) == tree_s(network, members, 1.0)
    assert all_reduce_s(network, members, 1e9) == ring_s(network, members, 1e9)


def test_one_slow_link_of_a_ring_is_passed_by_all_parts() -> None:
    """2 (n - 1) parts go over it one after the other, whatever the others do."""
    rate = np.full((6, 6), 1e30)
    rate[2, 3] = RATE
    endless = np.full(6, np.inf)
    network = Network(np.arange(6), np.zeros((6, 6)), rate, endless, endless)
    assert ring_s(network, np.arange(6), SIZE) == pytest.approx(10 * (SIZE / 6) / RATE)


def test_what_travels_while_gradients_are_computed_costs_only_what_is_left() -> None:
    """combine-then-adapt: the longer of computing and communicating, not their sum."""
    for compute_s, expected in (("1s", 1.25), ("4s", 4.0)):
        clock = clock_of(uniform(8, LATENCY_S, RATE), compute_s)
        mixing = planner("ring").mixer.mixing(0)
        clock.depart()
        clock.work(0)
        clock.gossip(mixing, SIZE, range(8))
        assert clock.ready_s.tolist() == [expected] * 8


@given(
    begins=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    size=st.sampled_from([1, 2, 5]),
)
def test_a_receivers_line_takes_messages_in_as_they_come(
    begins: list[int], size: int
) -> None:
    """Against a line that is never idle while there is something to take in."""
    nodes = len(begins) + 1
    network = uniform(nodes, 0.0, 1e30, down_Bps=1.0)
    ready_s = np.array([0.0, *map(float, begins)])
    senders = np.arange(1, nodes)
    done_s = gossip(network, ready_s, senders, np.zeros_like(senders), float(size))
    busy = 0.0
    for begin in sorted(begins):
        busy = max(busy, float(begin)) + size
    assert done_s[0] == busy


# --- monotone -------------------------------------------------------------------------------------

TOPOLOGIES = [
    "ring",
    "star",
    "exponential",
    "random_neighbors(r=2)",
    "one_peer_exponential",
]
cost = st.floats(0.01, 10)


@given(
    topology=st.sampled_from(TOPOLOGIES), seed=st.integers(0, 20), latency=cost, rate=cost,
    line=cost, size=cost, compute=cost, more=st.floats(1, 4), what=st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=60)
def test_dearer_is_never_faster(
    topology: str, seed: int, latency: float, rate: float, line: float, size: float,
    compute: float, more: float, what: int,
) -> None:  # fmt: skip
    """In latency, bandwidth, lines, bytes and computing; for gossip and for averages alike."""

    def finished(
        latency: float, rate: float, line: float, size: float, compute: float
    ) -> Any:
        rule = build("compute", {"name": "pareto", "least": compute})
        clock = Clock(uniform(7, latency, rate, line, line), rule, seed)
        mixer = planner(topology, nodes=7, seed=seed).mixer
        for step in range(6):
            clock.work(step)
            clock.gossip(mixer.mixing(step), size, range(7))
        clock.average(range(7), size)
        return clock.ready_s

    cheap = [latency, rate, line, size, compute]
    dear = list(cheap)
    dear[what] = dear[what] / more if what in (1, 2) else dear[what] * more
    assert (finished(*dear) >= finished(*cheap) * (1 - 1e-12)).all()


@given(seed=st.integers(0, 99), extra=st.lists(st.floats(0, 9), min_size=6, max_size=6))
@settings(max_examples=40)
def test_who_begins_later_ends_no_earlier(seed: int, extra: list[float]) -> None:
    draw = np.random.default_rng(seed)
    network = uniform(6, 0.1, 1.0, 1.5, 0.7)
    mixing = planner("random_neighbors(r=3)", nodes=6, seed=seed).mixer.mixing(0)
    receivers = np.repeat(np.arange(6), np.diff(mixing.indptr))
    links = receivers != mixing.senders
    ready_s = draw.uniform(0, 5, 6)
    ends = [
        gossip(network, begin, mixing.senders[links], receivers[links], 1.0)
        for begin in (ready_s, ready_s + extra)
    ]
    assert (ends[1] >= ends[0] - 1e-12).all()


# --- graphs with costs ----------------------------------------------------------------------------


@given(seed=st.integers(0, 200))
@settings(max_examples=25)
def test_messages_take_the_shortest_way_and_its_narrowest_link(seed: int) -> None:
    draw = np.random.default_rng(seed)
    graph = nx.connected_watts_strogatz_graph(9, 4, 0.4, seed=seed)
    for _, _, data in graph.edges(data=True):
        data |= {
            "latency_s": float(draw.uniform(0.1, 1)),
            "bandwidth_Bps": draw.uniform(1, 9),
        }
    network = network_of(graph, "drawn")
    for one in graph:
        lengths, paths = nx.single_source_dijkstra(graph, one, weight="latency_s")
        for other in set(graph) - {one}:
            latency_s, rate = network.cost(np.array([one]), np.array([other]))
            assert latency_s[0] == pytest.approx(lengths[other])
            narrow = min(
                graph.edges[link]["bandwidth_Bps"]
                for link in nx.utils.pairwise(paths[other])
            )
            assert rate[0] == narrow


def test_a_topologys_own_links_are_its_network() -> None:
    """``network: auto``: what a graph carries on its links counts, and nothing else does."""

    def line(n: int) -> Any:
        graph = nx.path_graph(n)
        nx.set_edge_attributes(graph, 0.25, "latency_s")
        nx.set_edge_attributes(graph, RATE, "bandwidth_Bps")
        return graph

    block = tiny_block(
        topology=line, compute="1s", local_steps=1, communication="constant"
    )
    block.setup.algorithm(block, block.decide())
    size_s = block.setup.row_bytes / RATE
    assert block.clock.ready_s.tolist() == pytest.approx([1 + 0.25 + size_s] * 4)
    assert block.clock.network is not None
    far, _ = block.clock.network.cost(np.array([0]), np.array([3]))
    assert far[0] == 0.75
    assert tiny_block(topology="ring").setup.network is None
    assert tiny_block(topology=line, network="none").setup.network is None


# --- runs -----------------------------------------------------------------------------------------

TIMED: dict[str, Any] = {
    "network": "home", "compute": "lognormal(median=5ms, nodes_spread=0.5)", "local_steps": 2,
    "communication": "late(start=50%)", "mixing": "ordered", "replicas": "vmap",
}  # fmt: skip


def seconds(row: dict[str, Any]) -> tuple[int, float]:
    return row["step"], row["time/simulated_s"]


def finished(block: Block) -> list[float]:
    for _ in range(block.setup.config.steps):
        action = block.decide()
        block.setup.algorithm(block, action)
        block.finish_step()
    return block.clock.ready_s.tolist()


@pytest.mark.parametrize(
    "given",
    [
        {}, {"algorithm": "allreduce", "communication": None},
        {"algorithm": "dsgd(order=combine_then_adapt)"}, {"communication": "adaptive(target=0.1)"},
    ],
    ids=str,
)  # fmt: skip
def test_seconds_are_the_same_however_nodes_are_divided_among_workers(given: Any) -> None:
    settings = TINY | TIMED | {"task": blobs()} | given
    setup = prepare(make_config(settings))
    whole = finished(tiny_block(**settings))
    assert len(set(whole)) > 1 or "algorithm" in given
    parts = [Block(setup, exchange, silent) for exchange in exchanges([1, 3])]
    assert together(finished, parts) == [whole, whole]


def test_a_run_that_goes_on_keeps_its_clock(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    whole = tiny_run(tmp_path / "whole", **TIMED, checkpoint_every=8, keep_checkpoints=9)
    whole.run(rows.append)
    saved = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))
    assert len(saved) > 2
    for folder in saved[2:]:  # as if killed after the one of step 8
        for file in folder.glob("*"):
            file.unlink()
        folder.rmdir()
    again = LocalRun(whole.setup.config)
    later: list[dict[str, Any]] = []
    again.go_on(RunFolder(tmp_path / "whole"), newest_checkpoint(tmp_path / "whole"))
    again.run(later.append)
    assert list(map(seconds, later)) == [seconds(row) for row in rows if row["step"] > 8]
    assert seconds(rows[-1])[1] > 20 * 5e-3


def test_what_a_closed_loop_asks_of_all_nodes_takes_time() -> None:
    """Sketches of 256 bytes go around the ring, N - 1 of them, each time they are renewed."""
    talks = {"name": "adaptive", "target": 1e9, "feedback_every": 2, "max_budget": 9}
    network = {"name": "uniform", "latency_s": LATENCY_S, "bandwidth_Bps": 256.0}
    block = tiny_block(
        topology="ring", network=network, compute="1s", local_steps=1, communication=talks
    )
    spent: list[float] = []
    for _ in range(4):
        before = block.clock.now_s(range(4))
        action = block.decide()
        spent.append(block.clock.now_s(range(4)) - before)
        block.setup.algorithm(block, action)
        block.finish_step()
    around = 3 * (LATENCY_S + 1.0)
    assert spent == pytest.approx([around, 0.0, around, 0.0])


def test_a_batch_twice_as_large_takes_twice_as_long() -> None:
    def growing(progress: Any) -> int:
        return 8 if progress.step < 10 else 16

    block = tiny_block(network="lan", compute="1s", batch=growing, communication="none")
    assert finished(block) == [10 + 2 * 10] * 4


def test_without_a_network_nothing_is_simulated() -> None:
    from decentral.loop import status

    assert "time/simulated_s" not in status(tiny_block())
    assert status(tiny_block(network="lan", compute="1s"))["time/simulated_s"] == 0


def test_a_machine_is_measured_once_and_written_down(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "measured", network="lan")
    found = run.settings["compute"]
    assert found["name"] == "constant"
    assert 0 < found["seconds"] < 1
    assert run.block.setup.compute is run.setup.compute


def test_a_lost_node_slows_nobody() -> None:
    """Who is quarantined sends nothing, and its clock counts no more."""

    def compute(ids: Any, step: int, seed: int) -> Any:
        return np.where(ids == 2, 100.0, 1.0)

    block = tiny_block(
        network="lan", compute=compute, on_nonfinite="quarantine", local_steps=1, steps=4,
        communication="constant", topology="complete",
    )  # fmt: skip
    block.rows[2] = float("nan")
    finished(block)
    assert block.quarantined == {2}
    assert 4 < block.simulated_s < 5


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([(0, 1, {}), (1, 2, {})], "no link carries a latency or a bandwidth"),
        (
            [(0, 1, {"latency_s": 0.1}), (1, 2, {})],
            "link 1-2: it has no latency, but others have",
        ),
        (
            [(0, 1, {"latency_s": -0.1}), (1, 2, {"latency_s": 1})],
            "latency must be at least 0",
        ),
        (
            [(0, 1, {"bandwidth_Bps": 0.0}), (1, 2, {"bandwidth_Bps": 1})],
            "bandwidth above 0",
        ),
    ],
)
def test_costs_that_no_network_has_are_refused(links: Any, message: str) -> None:
    graph = nx.Graph()
    graph.add_nodes_from(range(3))
    graph.add_edges_from(links)
    with pytest.raises(ConfigError, match=message):
        network_of(graph, "file.json")


# --- before anything runs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {}, {"communication": "constant(intensity=0.4)", "topology": "one_peer_exponential"},
        {"communication": "then_merge(schedule=late, at=50%)", "local_steps": 3},
        {"algorithm": "allreduce", "communication": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_forecast_is_what_the_run_will_take(given: dict[str, Any]) -> None:
    """Nothing is trained for it, and not a bit differs."""
    block = tiny_block(**TIMED | given)
    rows = trained(block)
    setup, nodes = block.setup, block.setup.config.nodes
    if setup.planner is None:
        steps, size = setup.config.steps, setup.gradient_bytes
        seen = forecast_all_reduce(setup.clock(), nodes, steps, size)
    else:
        seen = forecast(setup.planner, setup.clock(), setup.row_bytes)
    assert seen.seconds == rows[-1]["time/simulated_s"]
    assert (seen.bytes, seen.rounds) == (rows[-1]["comm/bytes"], rows[-1]["comm/rounds"])


def test_a_network_says_what_a_round_over_it_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = "uniform(latency_s=1s, bandwidth_Bps=1MB/s)"
    assert cli(["show", "network", spec, "--nodes", "4", "--model-size", "1MB"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"ring +8 +2 s\n", said)
    assert re.search(r"all-reduce, a ring +6 +7.5 s\n", said)
    assert re.search(r"all-reduce, a tree +6 +8 s\n", said)
    assert max(map(len, said.splitlines())) <= 80


def test_plans_are_ranked_and_held_against_a_deadline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "plan communication --nodes 4 --steps 40 --network home --compute 50ms --deadline 1min"
    assert cli(words.split()) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    verdicts = re.findall(r"(yes|no) *\n", said)
    assert verdicts == sorted(verdicts, reverse=True)
    assert {"yes", "no"} == set(verdicts)
    assert "Within 1min" in said
    assert cli([*words.split()[:-1], "1ms"]) == 0
    assert "None ends within 1ms" in capsys.readouterr().out


def test_plans_of_asynchronous_runs_hold_what_is_in_flight(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ranked as those of rounds are; what is replayed is what a run of such models would show."""
    words = "plan communication --nodes 4 --steps 40 --network home --compute 50ms --deadline 40s"
    more = ["--algorithm", "swift", "--model-size", "1MB"]
    assert cli([*words.split(), *more]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    verdicts = re.findall(r"(yes|no) *\n", said)
    assert verdicts == sorted(verdicts, reverse=True)
    assert "in flight" in said
    assert "Within 40s" in said
    assert (
        cli([*words.split(), *more, "--topology", "ring", "--json", "--local-steps", "1"])
        == 0
    )
    found = {one["schedule"]: one for one in json.loads(capsys.readouterr().out)}
    constant = next(one for name, one in found.items() if name.startswith("constant"))
    # Of every node one that waits, one on its way, and the newest that each neighbour has.
    assert 4e6 <= constant["in_flight_bytes"] <= 16e6
    assert constant["bytes"] % 1e6 == 0
    assert constant["seconds"] > 40 * 0.05
    assert constant["idle"] < 0.1  # nobody waits


def test_a_network_says_what_an_asynchronous_algorithm_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["show", "network", "lan", "--nodes", "4", "--algorithm", "fedasync"]
    assert cli([*words, "--compute", "1s"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"star +constant +10 ", said)
    assert "ring" not in said  # a server is near to all
    assert cli(["plan", "communication", "--algorithm", "allreduce"]) == 2
    assert "leave --algorithm out" in " ".join(capsys.readouterr().err.split())
