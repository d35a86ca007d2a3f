"""Laws of algorithms that go event by event: each declares guarantees, and every one is put to the
test; and the laws of simulated time itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_block, trained, vectors
from torch import Tensor

from decentral import launch
from decentral.algorithms.node import Part, Version
from decentral.errors import ConfigError, RunError
from decentral.loop.block import Block
from decentral.loop.cost import models_under_way, require_memory
from decentral.loop.rounds import checkpoint_of, restore
from decentral.registry import ConfiguredPlugin, build, find, names
from decentral.report.compare import write_comparison
from decentral.report.reader import read_run
from decentral.run.checkpoint import Checkpoint
from decentral.simulation import Simulation
from decentral.traits import AlgorithmTraits, traits_of

Rule = ConfiguredPlugin
#: A learning rate at which nothing moves but by averages.
STILL = 1e-300


def promised(name: str) -> AlgorithmTraits:
    return traits_of(find("algorithm", name), AlgorithmTraits)


EVENTS = [n for n in names("algorithm") if promised(n).time == "events"]
SERVED = [n for n in EVENTS if promised(n).server]
#: Every algorithm of events, and what its settings make of it.
WAYS = [
    *EVENTS, "ad_psgd(overlap=true)", "ad_psgd(lock=true)", "ad_psgd(exchange=in_flight)",
    "gossip_learning(tokens=simple)", "gossip_learning(tokens=generalized)",
    "gossip_learning(tokens=randomized)", "swift(every=2, send=mixing)", "swift(queue=wait)",
    "divshare(fragments=3, receivers=1)", "async_diloco(buffer=2, early=0.5)",
    "dsgd(wait=neighbours)", "dsgd(order=combine_then_adapt, wait=neighbours)",
]  # fmt: skip
#: Links that take time and are shared, and nodes of unlike speed.
SLOW: dict[str, Any] = {
    "network": "uniform(latency_s=7ms, bandwidth_Bps=9kB/s, up_Bps=14kB/s, down_Bps=11kB/s)",
    "compute": "lognormal(median=20ms, nodes_spread=0.5, steps_spread=0.2)",
}
EQUAL: dict[str, Any] = {"network": "none", "compute": "constant(seconds=20ms)"}


def simulated(rule: str | Rule, most: int = 32, **settings: Any) -> Simulation:
    """Return a simulation of vectors that minimise unlike quadratics with plain SGD."""
    name = rule if isinstance(rule, str) else rule.name
    server = name.split("(")[0] in SERVED
    given: dict[str, Any] = {
        "task": "quadratic(dimension=6, noise=0.3)", "dtype": "float64", "batch": 3, "seed": 1,
        "nodes": 5, "steps": 12, "local_steps": 2 if server else 1, "learning_rate": 0.05,
        "optimizer": "sgd(momentum=0, weight_decay=0)", "mixing": "ordered",
        "communication": "constant", "topology": "star" if server else "ring", **SLOW, **settings,
    }  # fmt: skip
    block = tiny_block(**given, algorithm=rule)
    block.simulation = Simulation(block, most)
    return block.simulation


def ended(simulation: Simulation) -> Block:
    block = simulation.block
    while not block.is_over:
        simulation.advance()
    return block


def scattered(simulation: Simulation) -> Simulation:
    """Put every node somewhere else."""
    rows = vectors(simulation.block)
    rows.copy_(torch.linspace(-1, 2, rows.numel()).view_as(rows).mul(7).sin())
    return simulation


def spread(block: Block) -> float:
    x = vectors(block)
    return float((x - x.mean(0)).norm())


# --- the guarantees -------------------------------------------------------------------------------


def single_node_is_plain(name: str) -> None:
    """One node is the plain optimizer, to rounding; its gradient is computed beside a copy."""
    for optimizer in ("sgd(nesterov=true)", "adamw"):
        settings: dict[str, Any] = {
            "optimizer": optimizer,
            "nodes": 1,
            "learning_rate": "cosine(lr=0.05)",
        }
        block = ended(simulated(name, **settings, topology="complete"))
        plain = tiny_block(
            **settings, task="quadratic(dimension=6, noise=0.3)", dtype="float64", batch=3,
            seed=1, steps=12, algorithm="local",
        )  # fmt: skip
        trained(plain)
        torch.testing.assert_close(block.rows, plain.rows, rtol=1e-12, atol=1e-12)


def keeps_mean(name: str) -> None:
    """Averages leave the mean where it is, however many nodes are at it."""
    for topology in ("ring", "star", "complete"):
        still = scattered(
            simulated(name, topology=topology, learning_rate=STILL, nodes=6)
        )
        before = vectors(still.block).mean(0).clone()
        after = vectors(ended(still)).mean(0)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-14)


def contracts(name: str) -> None:
    """Without gradients the nodes come together."""
    still = scattered(simulated(name, learning_rate=STILL, steps=150))
    before = spread(still.block)
    assert spread(ended(still)) < 0.02 * before


def nobody_waits(name: str) -> None:
    """Nodes compute all the time, whatever the links are like, until the last gradient begins."""
    for network in (
        "none",
        "uniform(latency_s=1s, bandwidth_Bps=1kB/s)",
        SLOW["network"],
    ):
        simulation = simulated(name, network=network, nodes=4)
        for _ in range(6):
            simulation.advance()
        assert simulation.figures()["simulation/idle"] == pytest.approx(0.0, abs=1e-12)


def synchronous_at_equal_speed(name: str) -> None:
    """At equal speeds and without latency it is gossip in rounds, of models before their update."""
    block = ended(simulated(name, **EQUAL, topology="erdos_renyi(p=0.6)", nodes=7))
    rounds = tiny_block(
        task="quadratic(dimension=6, noise=0.3)", dtype="float64", batch=3, seed=1, nodes=7,
        steps=12, local_steps=1, learning_rate=0.05, topology="erdos_renyi(p=0.6)",
        optimizer="sgd(momentum=0, weight_decay=0)", mixing="ordered", communication="constant",
        algorithm="dsgd(order=combine_then_adapt)",
    )  # fmt: skip
    trained(rounds)
    torch.testing.assert_close(block.rows, rounds.rows, rtol=1e-12, atol=1e-12)


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        single_node_is_plain, keeps_mean, contracts, nobody_waits, synchronous_at_equal_speed,
    )
}  # fmt: skip
DECLARED = [(name, said) for name in EVENTS for said in promised(name).guarantees]


@pytest.mark.parametrize(("name", "guarantee"), DECLARED)
def test_a_declared_guarantee_of_events_holds(name: str, guarantee: str) -> None:
    CHECKS[guarantee](name)


@pytest.mark.parametrize("name", EVENTS)
def test_every_algorithm_of_events_declares_guarantees(name: str) -> None:
    assert promised(name).guarantees
    assert set(promised(name).guarantees) <= set(CHECKS)


def test_guarantees_of_events_are_found_to_fail() -> None:
    """Each check is lost by some algorithm that does not declare it."""
    for name, guarantee in [
        ("fedasync", "single_node_is_plain"), ("swift", "keeps_mean"), ("ad_psgd", "nobody_waits"),
        ("ad_psgd", "synchronous_at_equal_speed"),
        ("gossip_learning", "synchronous_at_equal_speed"),
    ]:  # fmt: skip
        with pytest.raises((AssertionError, ConfigError, RunError)):
            CHECKS[guarantee](name)


# --- simulated time -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["adapt_then_combine", "combine_then_adapt"])
@pytest.mark.parametrize(
    ("topology", "communication"),
    [
        ("ring", "constant"), ("erdos_renyi(p=0.5)", "constant(0.5)"), ("star", "late"),
        ("one_peer_exponential", "every(k=2)"),
    ],
)  # fmt: skip
def test_waiting_for_neighbours_gives_the_bits_and_the_seconds_of_rounds(
    order: str, topology: str, communication: str
) -> None:
    settings: dict[str, Any] = {
        **SLOW, "nodes": 8, "steps": 14, "local_steps": 2, "topology": topology, "seed": 4,
        "communication": communication, "mixing": "ordered", "dtype": "float32",
        "optimizer": "adamw", "eval_every": 7,
    }  # fmt: skip
    rounds = tiny_block(**settings, algorithm=f"dsgd(order={order})")
    events = tiny_block(**settings, algorithm=f"dsgd(order={order}, wait=neighbours)")
    last, other = trained(rounds)[-1], trained(events)[-1]
    assert torch.equal(rounds.rows, events.rows)
    assert last["time/simulated_s"] == other["time/simulated_s"]
    assert last["comm/bytes"] == other["comm/bytes"]
    assert other["simulation/gain"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", WAYS)
def test_gradients_together_are_the_bits_of_one_at_a_time(name: str) -> None:
    """What is in flight at once is computed at once, and nobody can tell."""
    task: dict[str, Any] = {
        "task": "digits", "model": "mlp(hidden=[8])", "dtype": "float32", "replicas": "vmap",
        "network": "uniform(latency_s=3ms, bandwidth_Bps=2MB/s)",
    }  # fmt: skip
    together, alone = (
        ended(simulated(name, most, **task, optimizer="adamw")) for most in (32, 1)
    )
    assert together.simulation is not None
    assert together.simulation.figures()["simulation/width"] > 1.5
    assert torch.equal(together.rows, alone.rows)


@pytest.mark.parametrize("name", WAYS)
def test_a_simulation_is_another_with_another_seed(name: str) -> None:
    one, other = (ended(simulated(name, steps=4, seed=seed)) for seed in (1, 2))
    assert not torch.equal(one.rows, other.rows)


def through_json(checkpoint: Checkpoint) -> Checkpoint:
    """Return what a manifest brings back: its keys are texts, and its tensors copies."""
    nodes = {
        n: {k: v.clone() for k, v in held.items()} for n, held in checkpoint.nodes.items()
    }
    counters = json.loads(json.dumps(checkpoint.counters))
    return Checkpoint(checkpoint.step, checkpoint.live, nodes, counters)


@pytest.mark.parametrize("name", WAYS)
def test_a_simulation_goes_on_from_a_checkpoint_bit_by_bit(name: str) -> None:
    """With gradients in flight, messages under way, lines busy and mailboxes full."""
    settings: dict[str, Any] = {"optimizer": "adamw", "local_steps": 2, "steps": 14}
    whole = simulated(name, **settings)
    stopped = simulated(name, **settings)
    for _ in range(5):
        whole.advance()
        stopped.advance()
    assert len(stopped.queue)
    other = simulated(name, **settings)
    restore(other.block, through_json(checkpoint_of(stopped.block)))
    # What was stopped goes on as well: to save is to change nothing, and a simulation repeats.
    assert torch.equal(ended(whole).rows, ended(other).rows)
    assert torch.equal(whole.block.rows, ended(stopped).rows)
    assert whole.now_s == other.now_s == stopped.now_s
    assert whole.block.stats.state() == other.block.stats.state()
    mine, theirs, its = whole.figures(), other.figures(), stopped.figures()
    for figures in (
        mine,
        theirs,
        its,
    ):  # what was computed together is no part of the result
        figures.pop("simulation/width")
    assert mine == theirs == its


@pytest.mark.parametrize("name", WAYS)
def test_a_run_that_has_ended_can_become_longer(name: str) -> None:
    """All nodes take up where they stopped, and make the updates that are new."""
    short, longer = simulated(name, steps=8), simulated(name, steps=14)
    ended(short)
    restore(longer.block, through_json(checkpoint_of(short.block)))
    ended(longer)
    assert longer.updates == 14 * 5
    assert sum(node.updates for node in longer.nodes) == 14 * 5
    assert longer.now_s > short.now_s


@pytest.mark.parametrize("name", WAYS)
def test_all_nodes_together_make_the_updates_of_the_run(name: str) -> None:
    simulation = simulated(name)
    ended(simulation)
    assert sum(node.updates for node in simulation.nodes) == 12 * 5
    assert not len(simulation.queue)
    assert not simulation.waiting
    assert not simulation.meetings


@pytest.mark.parametrize(
    ("name", "transfer"), [("swift", 0), ("gossip_learning", 0), ("ad_psgd", 1)]
)
def test_a_node_makes_its_share_of_the_updates(name: str, transfer: int) -> None:
    """The share of 1 / cycle: the seconds of computing, and of the transfer where one waits."""

    def unlike(nodes: Any, step: int, seed: int) -> Any:
        return 0.02 * (1.0 + np.asarray(nodes, dtype=np.float64))

    simulation = simulated(
        name, compute=unlike, network="uniform(latency_s=30ms, bandwidth_Bps=1GB/s)", steps=120,
        learning_rate=STILL,
    )  # fmt: skip
    ended(simulation)
    cycles = 0.02 * (1 + np.arange(5)) + 0.03 * transfer
    shares = np.array([node.updates for node in simulation.nodes]) / (120 * 5)
    np.testing.assert_allclose(shares, (1 / cycles) / (1 / cycles).sum(), atol=6e-3)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("ad_psgd", 1.0, 1.0), ("dsgd(wait=neighbours)", 1.0, 1.0),
                              ("swift", 0.2, 0.35), ("gossip_learning", 0.25, 0.5)],
)  # fmt: skip
def test_old_models_shorten_the_steps_of_who_never_waits(
    name: str, low: float, high: float
) -> None:
    """With messages that take five times as long as a gradient."""
    simulation = simulated(
        name, nodes=16, steps=100, learning_rate=STILL, compute="constant(seconds=20ms)",
        network="uniform(latency_s=100ms, bandwidth_Bps=1GB/s)",
    )  # fmt: skip
    ended(simulation)
    gain = simulation.figures()["simulation/gain"]
    assert low - 1e-9 <= gain <= high + 1e-9


@pytest.mark.parametrize(
    "name", ["swift", "divshare(fragments=3)", "async_diloco(buffer=2, early=0.3)"]
)
def test_the_gain_is_the_growth_of_the_mean_model(name: str) -> None:
    """On a loss whose gradient is -1 everywhere, rows grow by the learning rate an update."""
    from decentral.tasks import Task

    task = Task(
        loss=lambda outputs, targets: -outputs.mean(), train=(torch.ones(60, 4), torch.ones(60, 1)),
        test=(torch.ones(8, 4), torch.ones(8, 1)),
        model=lambda: torch.nn.Linear(4, 1, bias=False),
    )  # fmt: skip
    simulation = simulated(name, task=task, learning_rate=0.1, split="iid", steps=60)
    held = simulation.block.x[: 1 if "diloco" in name else 5, :4]
    first = held.mean().item()
    ended(simulation)
    # Of a server only clients make updates.
    grown = (held.mean().item() - first) / (0.1 * 60) * (0.8 if len(held) == 1 else 1)
    assert simulation.figures()["simulation/gain"] == pytest.approx(grown, rel=1e-9)


def test_push_sum_loses_no_mass_where_lines_are_busy() -> None:
    """What waits is added up: the weights of nodes, lines and messages stay N in all."""
    simulation = scattered(
        simulated(
            "async_push_sum", topology="exponential", nodes=6, steps=40, learning_rate=STILL,
            network="uniform(latency_s=7ms, bandwidth_Bps=2kB/s, up_Bps=2kB/s)",
        )
    )  # fmt: skip
    first = vectors(simulation.block).sum(0).clone()
    block, busy = simulation.block, 0

    def kept() -> tuple[float, Tensor]:
        held = [(node.numbers["weight"], node.row) for node in simulation.nodes]
        under_way = [e.what for e in simulation.queue.listed() if hasattr(e.what, "row")]
        for receivers_and_version in [
            w for one in simulation.waiting.values() for w in one
        ]:
            under_way += [receivers_and_version[1]] * len(receivers_and_version[0])
        held += [(one.numbers["weight"], one.row) for one in under_way]
        total = sum(w for w, _ in held)
        sums = torch.stack([w * row for w, row in held]).sum(0)
        return total, sums

    while not block.is_over:
        simulation.advance()
        busy += bool(simulation.waiting)
        total, sums = kept()
        assert total == pytest.approx(6.0, abs=1e-12)
        torch.testing.assert_close(sums[: first.numel()], first, rtol=0, atol=1e-11)
    assert busy  # else nothing was tried


def test_fast_nodes_communicate_as_seldom_as_others() -> None:
    """A node that has made more updates than the run has steps goes on by ``local_steps``."""

    def unlike(nodes: Any, step: int, seed: int) -> Any:
        return np.where(np.asarray(nodes) == 0, 0.001, 0.1)

    simulation = simulated(
        "swift",
        compute=unlike,
        network="none",
        local_steps=5,
        steps=40,
        learning_rate=STILL,
    )
    sent = dict.fromkeys(range(5), 0)
    leave = simulation.send

    def counted(node: Any, *given: Any) -> None:
        sent[node.id] += 1
        leave(node, *given)

    simulation.send = counted  # type: ignore[method-assign]
    ended(simulation)
    fast = simulation.nodes[0].updates
    assert fast > 2 * 40
    assert sent[0] == fast // 5


def test_the_newest_waits_and_the_older_is_replaced() -> None:
    """A line that is too slow for what is sent does not fall behind for ever."""
    slow: dict[str, Any] = {"network": "uniform(latency_s=1ms, bandwidth_Bps=400B/s)"}
    simulation = simulated("swift", **slow, compute="constant(seconds=20ms)")
    ended(simulation)
    figures = simulation.figures()
    assert figures["simulation/replaced"] > 0
    left = simulation.block.stats.messages
    assert left + figures["simulation/replaced"] == 12 * 5 * 2


def test_nobody_takes_part_in_two_exchanges_where_that_is_forbidden() -> None:
    simulation = simulated("ad_psgd(lock=true)", topology="star", nodes=6)
    most, begin = 0, simulation.meet

    def watched(*given: Any) -> None:
        nonlocal most
        begin(*given)
        ends = [
            one.what for one in simulation.queue.listed() if hasattr(one.what, "alone")
        ]
        busy = [n for one in ends for n in (one.node, one.other)]
        assert len(busy) == len({*busy})
        most = max(most, len(simulation.meetings))

    simulation.meet = watched  # type: ignore[method-assign]
    ended(simulation)
    assert most > 1  # some had to wait for the hub


def test_buffers_change_at_the_update_by_what_the_snapshot_made_of_them() -> None:
    """Statistics of BatchNorm and counters follow the updates of their own node, on any way."""
    from torch import nn

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)
        )

    settings: dict[str, Any] = {
        "task": "digits", "model": model, "dtype": "float32", "nodes": 4, "mixing": "ordered",
        "steps": 6, "local_steps": 1, "topology": "ring", "communication": "constant", **SLOW,
    }  # fmt: skip
    rounds = tiny_block(**settings, algorithm="dsgd")
    events = tiny_block(**settings, algorithm="dsgd(wait=neighbours)")
    trained(rounds)
    trained(events)
    assert torch.equal(rounds.rows, events.rows)
    (counted,) = events.integers.values()
    assert counted.tolist() == [6, 6, 6, 6]
    # Also where a neighbour changes a row between a snapshot and its update.
    settings["steps"] = 20
    free = tiny_block(**settings, algorithm="ad_psgd")
    trained(free)
    assert sum(next(iter(free.integers.values())).tolist()) == 20 * 4
    variance = free.setup.layout.views(free.rows, free.setup.layout.buffers)[
        "2.running_var"
    ]
    assert bool((variance > 0).all())


def test_a_server_and_its_clients_average_what_they_should() -> None:
    """FedAsync with alpha 1 and no staleness takes the model of the last client as it is."""
    settings: dict[str, Any] = {"nodes": 2, "local_steps": 3, "steps": 6}
    server = ended(simulated("fedasync(alpha=1.0, power=0)", **settings))
    # One client, and a server that takes over all it sends: plain training, with the
    # updates of both nodes.
    plain = tiny_block(
        task="quadratic(dimension=6, noise=0.3)", dtype="float64", batch=3, seed=1, nodes=2,
        steps=12, learning_rate=0.05, optimizer="sgd(momentum=0, weight_decay=0)",
        algorithm="local",
    )  # fmt: skip
    trained(plain)
    torch.testing.assert_close(server.rows[0], plain.rows[1], rtol=1e-12, atol=1e-12)
    buffered = ended(simulated("fedbuff(buffer=1)", **settings))
    torch.testing.assert_close(buffered.rows[0], plain.rows[1], rtol=1e-12, atol=1e-12)


def test_fragments_are_averaged_with_what_arrived_of_each() -> None:
    """Parts cut a row without gap, in their bytes, too; slow lines carry some of them."""
    for width in (1, 6, 7, 10):
        row = torch.arange(float(width))
        for count in (1, 3, 10):
            pieces = [Part(index, count).of(row) for index in range(count)]
            assert torch.equal(torch.cat(pieces), row)
    lines = "uniform(latency_s=1ms, bandwidth_Bps=1kB/s, up_Bps=1kB/s)"
    simulation = scattered(
        simulated(
            "divshare(fragments=3, receivers=1)", nodes=3, topology="complete", network=lines,
            learning_rate=STILL, compute="constant(seconds=10ms)", local_steps=2, steps=4,
        )
    )  # fmt: skip
    before, arrived = vectors(simulation.block).clone(), []
    tell = simulation.tell

    def watched(node: Any, event: Any) -> None:
        if event.kind == "message" and node.updates < 4:
            arrived.append((node.id, event.sender, event.message.part.index))
        tell(node, event)

    simulation.tell = watched  # type: ignore[method-assign]
    ended(simulation)
    # Three fragments of 16 bytes over 1 kB/s take 48 ms, and a turn 20: the third is replaced.
    assert simulation.figures()["simulation/replaced"] == 3
    assert simulation.block.stats.bytes == 16 * simulation.block.stats.messages
    expected = before.clone()
    for node in range(3):
        for part in range(3):
            senders = {j for i, j, p in arrived if (i, p) == (node, part)}
            own = [before[j, 2 * part : 2 * part + 2] for j in (node, *senders)]
            expected[node, 2 * part : 2 * part + 2] = torch.stack(own).mean(0)
    torch.testing.assert_close(vectors(simulation.block), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("buffer", "early"), [(1, 0.0), (3, 0.6)])
def test_delayed_nesterov_is_that_of_its_paper(buffer: int, early: float) -> None:
    """Algorithm 3 of Liu et al. (2024), with the pseudo-gradients of the run itself; with K = 1
    it is the outer step of DiLoCo."""
    simulation = simulated(
        f"async_diloco(buffer={buffer}, early={early}, outer_lr=0.5, outer_momentum=0.8)"
    )
    began: dict[int, Any] = {}
    first = x = vectors(simulation.block)[0].numpy().copy()
    m, gathered, held = 0 * x, 0 * x, 0
    c, tell = early / buffer, simulation.tell

    def watched(node: Any, event: Any) -> None:
        nonlocal x, m, gathered, held
        if node.id == 0 and event.kind == "message":
            g = began.get(event.sender, first) - event.message.row[:6].numpy()
            gathered, held, share = gathered + g, held + 1, c
            if held % buffer == 0:
                m, gathered = 0.8 * m + gathered / buffer, 0 * g
                share = 1 - c * buffer + c
            x = x - 0.5 * (share * 0.8 * m + g / buffer)
            began[event.sender] = x
        tell(node, event)

    simulation.tell = watched  # type: ignore[method-assign]
    ended(simulation)
    assert held > 2 * buffer
    np.testing.assert_allclose(vectors(simulation.block)[0].numpy(), x, atol=1e-12)


def test_slow_clients_take_fewer_steps_and_come_back_as_often() -> None:
    def unlike(nodes: Any, step: int, seed: int) -> Any:
        return np.where(np.asarray(nodes) == 1, 0.05, 0.01)

    came = {}
    for by_speed in ("true", "false"):
        simulation = simulated(
            f"async_diloco(by_speed={by_speed})", compute=unlike, nodes=3, local_steps=10,
            steps=100, network="uniform(latency_s=1us, bandwidth_Bps=1GB/s)",
        )  # fmt: skip
        counts, tell = [0, 0, 0], simulation.tell

        def watched(
            node: Any, event: Any, tell: Any = tell, counts: Any = counts
        ) -> None:
            counts[event.sender] += node.id == 0 and event.kind == "message"
            tell(node, event)

        simulation.tell = watched  # type: ignore[method-assign]
        ended(simulation)
        came[by_speed] = counts[2] / counts[1]
    assert came["false"] == pytest.approx(5.0, rel=0.3)
    assert came["true"] == pytest.approx(1.0, rel=0.25)


def test_a_comparison_warns_of_steps_of_unlike_length(tmp_path: Path) -> None:
    from decentral.api import compare

    shared: dict[str, Any] = {"nodes": 4, "steps": 30, "local_steps": 1, "quiet": True}
    runs = [
        launch(task="quadratic(dimension=4)", algorithm=name, out=tmp_path / name, **shared,
               network="uniform(latency_s=100ms, bandwidth_Bps=1GB/s)", compute="20ms")
        for name in ("swift", "ad_psgd")
    ]  # fmt: skip
    compared = compare(*runs).comparison
    assert compared.warning.startswith("gains from 0.")
    assert "to 1.00" in compared.warning
    page = tmp_path / "compare.html"
    write_comparison(compared, page)
    assert "Gains from 0." in page.read_text(encoding="utf-8")
    assert "Loss against simulated time" in page.read_text(encoding="utf-8")
    assert compare(runs[1], runs[1]).comparison.warning == ""


def test_the_terminal_says_how_far_simulated_time_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from decentral.cli import run

    words = "--nodes 3 --steps 6 --algorithm swift compute=20ms network=lan eval_every=2"
    out = ["--task", "quadratic(dimension=4)", "--out", str(tmp_path / "run")]
    assert run(["launch", *words.split(), *out]) == 0
    found = re.findall(r"sent .*B  simulated ([\d.]+) ms", capsys.readouterr().out)
    assert [round(float(one)) for one in found[:2]] == [40, 80]


@pytest.mark.parametrize("name", WAYS)
def test_the_first_seconds_are_noted_once(name: str) -> None:
    """Who computes is never at two gradients at once; messages take the time of links; a run
    that goes on from a checkpoint notes the same."""

    def noted(stop: int | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        one = simulated(name)
        one.block.announce = lambda event, details: found.append(
            {"event": event, **details}
        )
        while not one.block.is_over:
            one.advance()
            if one.block.step == stop:
                again = simulated(name)
                again.block.announce = one.block.announce
                restore(again.block, through_json(checkpoint_of(one.block)))
                one = again
        return [event for event in found if event["event"] == "timeline"]

    (event,) = noted(None)
    # A manifest makes lists of tuples.
    assert json.dumps(noted(2)) == json.dumps([event])
    assert event["nodes"] == [0, 1, 2, 3, 4]
    for node in event["nodes"]:
        spans = sorted(span[1:] for span in event["computing"] if span[0] == node)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert all(0 <= begin < end for begin, end in spans)
    assert len({node for node, _, _ in event["computing"]}) >= 4  # a server does not
    assert event["messages"]
    assert all(begin <= end for _, _, begin, end in event["messages"])
    assert {i for i, *_ in event["messages"]} <= {*event["nodes"]}


@pytest.mark.usefixtures("rendered")
def test_the_report_draws_the_first_seconds(tmp_path: Path) -> None:
    """Wide, and narrow for a phone; a machine that is away is drawn, not told."""
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "node,time_s,compute_s,online\n0,0,0.02,1\n1,0,0.03,1\n1,0.1,,0\n1,0.2,,1\n"
    )
    run = launch(
        task="quadratic(dimension=4)", algorithm="swift", topology="ring", nodes=14, steps=12,
        compute=f"trace({trace}, more=cycled, repeat=false)", network="lan",
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "The first simulated seconds" in page
    assert "12 of 14 nodes are shown." in page
    for kind in ("wide", "narrow"):
        assert f"strip-{kind}" in page
    for word in (
        "computing",
        "message under way",
        "away",
        "Bytes on their way",
        "lines send",
    ):
        assert word in page
    assert "timeline" not in page
    drawn = [one for one in read_run(run.path).events if one["event"] == "timeline"]
    assert len(drawn) == 1
    shown = drawn[0]["nodes"]
    assert {node for node, _, _ in drawn[0]["away"]} == {
        node for node in shown if node % 2
    }
    for _, begin, end in drawn[0]["away"]:
        assert begin == pytest.approx(0.1, abs=2e-3)
        assert end == pytest.approx(0.2)


@pytest.mark.parametrize(
    "name",
    [  # A server is near to all, an exchange goes both ways, and rounds have laws of their own.
        n for n in WAYS
        if not n.startswith(("ad_psgd", "async_diloco", "dsgd")) and n not in SERVED
    ],
)  # fmt: skip
def test_messages_go_along_links_also_where_these_have_a_direction(name: str) -> None:
    simulation = simulated(name, topology="exponential", nodes=6)
    tell, links = simulation.tell, set[tuple[int, int]]()

    def watched(node: Any, event: Any) -> None:
        if event.kind == "message":
            links.add((event.sender, node.id))
        tell(node, event)

    simulation.tell = watched  # type: ignore[method-assign]
    ended(simulation)
    assert links <= {(i, (i + hop) % 6) for i in range(6) for hop in (1, 2, 4)}
    assert links


@pytest.mark.parametrize("name", ["swift", "gossip_learning", "epidemic"])
def test_all_that_waits_leaves_in_turn_where_it_is_asked_for(name: str) -> None:
    """The newest takes the place of what waits, or what waits grows; nothing is lost then."""
    busy = {"network": "uniform(latency_s=1ms, bandwidth_Bps=2kB/s, up_Bps=2kB/s)"}
    newest, every = (
        simulated(f"{name}(queue={one})", **busy) for one in ("newest", "all")
    )
    waits = 0
    while not every.block.is_over:
        every.advance()
        waits = max(waits, *(len(one) for one in every.waiting.values()), 0)
    ended(newest)
    assert waits > 1
    assert newest.figures()["simulation/replaced"] > 0
    assert every.figures()["simulation/replaced"] == 0
    assert every.block.stats.messages > newest.block.stats.messages
    assert every.now_s > newest.now_s


@pytest.mark.parametrize("name", ["swift", "gossip_learning", "epidemic"])
def test_a_sender_waits_for_its_line_where_it_is_asked_for(name: str) -> None:
    """It computes on when its line is free: a cycle is the longer of computing and sending."""
    simulation = simulated(
        f"{name}(queue=wait)", steps=30, compute="constant(seconds=20ms)",
        network="uniform(latency_s=1ms, bandwidth_Bps=2kB/s, up_Bps=1kB/s)",
    )  # fmt: skip
    sends = 1 if name == "gossip_learning" else 2
    ended(simulation)
    sending_s = sends * simulation.size / 1000
    assert sending_s > 0.02
    # The first is computed before anything is sent; the second line is busy at once.
    assert simulation.last_begun[0] == pytest.approx(0.02 + 28 * sending_s)
    assert simulation.figures()["simulation/replaced"] == 0
    assert simulation.figures()["simulation/idle"] > 0.2
    assert simulation.block.stats.messages == 30 * 5 * sends


# --- ended by the time ----------------------------------------------------------------------------


def unlike(nodes: Any, step: int, seed: int) -> Any:
    """Let node 0 take 50 ms, all others 10."""
    return np.where(np.asarray(nodes) == 0, 0.05, 0.01)


@pytest.mark.parametrize("name", [*EVENTS, "ad_psgd(overlap=true)", "swift(queue=wait)"])
def test_no_gradient_begins_when_the_time_is_over(name: str) -> None:
    """Those in flight are applied, and what is under way arrives; all that a run has to do."""
    simulation = simulated(
        name, steps=200, seconds="200ms", compute=unlike, local_steps=2
    )
    block = ended(simulation)
    assert 200 > block.step == simulation.updates // 5
    assert block.callbacks.stopped is not None
    assert block.callbacks.stopped["reason"] == "200 ms of simulated time are over"
    assert simulation.begun == simulation.updates
    assert simulation.last_begun[0] < 0.2 <= simulation.now_s
    assert not len(simulation.queue)
    assert not simulation.meetings
    assert (
        simulation.figures()["simulation/tail_s"]
        == simulation.now_s - simulation.last_begun[0]
    )


def test_schedules_read_the_time_where_it_ends_a_run() -> None:
    """Fast nodes and slow ones have the rate, the batch and the chance of the same moment."""

    def growing(progress: Any) -> int:
        return 4 if progress.fraction >= 0.5 else 2

    def late(progress: Any, feedback: Any) -> float:
        return float(progress.fraction > 0.5)

    simulation = simulated(
        "swift", steps=400, seconds="205ms", compute=unlike, batch=growing, network="none",
        learning_rate="cosine(lr=0.08)", communication=late,
    )  # fmt: skip
    slow, fast = simulation.nodes[:2]
    while simulation.now_s < 0.1:
        assert simulation.block.stats.messages == 0
        simulation.advance()
    assert slow.updates < 3 < 9 < fast.updates
    assert simulation.reached == int(simulation.now_s / 0.205 * 400)
    rates = [simulation._pace(node)[0] for node in (slow, fast)]
    share = simulation.reached / 400
    assert rates == [pytest.approx(0.04 * (1 + np.cos(np.pi * share)), rel=0.02)] * 2
    ended(simulation)
    assert simulation.block.stats.messages > 5
    # Those that begin in the second half are larger, and take twice as long.
    assert slow.taken == 3 * 2 + 1 * 4
    assert fast.taken == 11 * 2 + 5 * 4


def test_a_run_that_the_time_ends_goes_on_from_a_checkpoint_bit_by_bit() -> None:
    settings: dict[str, Any] = {
        "steps": 300, "seconds": "200ms", "learning_rate": "cosine(lr=0.05)", "optimizer": "adamw",
    }  # fmt: skip
    whole, stopped, other = (simulated("swift", **settings) for _ in range(3))
    for _ in range(4):
        stopped.advance()
    restore(other.block, through_json(checkpoint_of(stopped.block)))
    assert torch.equal(ended(whole).rows, ended(other).rows)
    assert whole.now_s == other.now_s
    again = simulated("swift", **settings)
    restore(again.block, through_json(checkpoint_of(other.block)))
    assert again.block.is_over


def test_the_time_that_ended_a_run_is_said(tmp_path: Path) -> None:
    run = launch(
        task="quadratic(dimension=4)", algorithm="swift", nodes=4, steps=1000, seconds="300ms",
        compute="20ms", network="lan", local_steps=1, quiet=True, out=tmp_path / "run",
    )  # fmt: skip
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 15
    assert summary["stopped"] == "300 ms of simulated time are over"


# --- what a log line shows ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["swift", "swift(queue=all)", "gossip_learning", "ad_psgd", "dsgd(wait=neighbours)"],
)
def test_bytes_under_way_are_those_of_all_messages(name: str) -> None:
    """On average over the time so far, of every message from when it leaves until it is there."""
    network = "uniform(latency_s=40ms, bandwidth_Bps=9kB/s, up_Bps=4kB/s)"
    simulation = simulated(name, network=network, steps=20)
    ways: list[tuple[float, float]] = []

    def noted(sender: int, receiver: int, begin_s: float, end_s: float) -> None:
        ways.extend([(begin_s, end_s)] * (2 if name == "ad_psgd" else 1))

    simulation.strip.message = noted  # type: ignore[method-assign]
    while not simulation.block.is_over:
        simulation.advance()
        simulation.strip.is_over = False
        now_s = simulation.now_s
        travelled = sum(min(end_s, now_s) - begin_s for begin_s, end_s in ways)
        found = simulation.figures()["simulation/in_flight"]
        assert found == pytest.approx(travelled * simulation.size / now_s, rel=1e-9)
    assert len(ways) == simulation.block.stats.messages
    assert found > simulation.size


def test_what_a_receivers_line_holds_up_is_under_way() -> None:
    simulation = simulated(
        "swift", network="uniform(latency_s=1ns, bandwidth_Bps=1TB/s, down_Bps=1kB/s)",
        compute="constant(seconds=100ms)", nodes=2, steps=2,
    )  # fmt: skip
    ended(simulation)
    # Two messages of each node, one at a time over a line.
    assert simulation.carried == pytest.approx(4 * simulation.size**2 / 1000, rel=1e-6)


def test_lines_send_as_long_as_their_bytes_take() -> None:
    simulation = simulated(
        "swift", network="uniform(latency_s=1s, bandwidth_Bps=1MB/s, up_Bps=10kB/s)",
        compute="constant(seconds=20ms)", steps=50,
    )  # fmt: skip
    for _ in range(41):
        simulation.advance()
    # Two neighbours; the last messages have just begun to leave.
    share = 2 * simulation.size / 10_000 / 0.02
    found = simulation.figures()["simulation/lines"]
    assert found == pytest.approx(share * 40 / 41, rel=1e-9)


def test_updates_of_all_meanwhile_are_one_of_each_at_equal_speed() -> None:
    simulation = simulated("swift", **EQUAL)
    for _ in range(4):
        simulation.advance()
    figures = simulation.figures()
    assert figures["simulation/delay"] == figures["simulation/delay_max"] == 4
    assert figures["simulation/staleness"] == 0  # nobody's model but by its own mixing


def test_the_tail_is_what_comes_after_the_last_gradient_began() -> None:
    simulation = simulated(
        "swift", network="uniform(latency_s=7ms, bandwidth_Bps=1GB/s)", steps=10,
        compute="constant(seconds=20ms)",
    )  # fmt: skip
    for _ in range(9):
        simulation.advance()
        assert "simulation/tail_s" not in simulation.figures()
    ended(simulation)
    figures = simulation.figures()
    assert figures["simulation/tail_s"] == pytest.approx(0.027, abs=1e-6)
    assert figures["simulation/tail_bytes"] == 5 * 2 * simulation.size


# --- refused before anything runs -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "ray(workers=2)"}, "leave engine out"),
        ({"faults": ["lost"]}, "leave faults out"),
        ({"codec": "int8"}, "leave codec out"),
        ({"aggregation": "median"}, "leave aggregation out"),
        ({"attack": "sign_flip(nodes=[1])"}, "label_flip"),
        ({"mix_state": True}, "leave mix_state out"),
        ({"on_nonfinite": "quarantine"}, "leave on_nonfinite out"),
        ({"sam": {"rho": 0.05}}, "sam.momentum=keep"),
        ({"communication": "adaptive(target=0.1)"}, "constant or late"),
        ({"communication": "merges"}, "whose merge ends the run"),
        ({"topology": "one_peer_exponential"}, "a topology that stays"),
        ({"communication": "scale_to_budget(schedule=late, budget=2%)"}, "budget of bytes"),
        ({"compute": "0s"}, "computes in no time"),
    ],
)  # fmt: skip
def test_what_events_do_not_have_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulated("swift", **settings)


@pytest.mark.parametrize(("latency", "name"), [("7ms", "swift"), ("200ms", "swift"),
                                               ("200ms", "gossip_learning")])  # fmt: skip
def test_models_under_way_are_about_as_many_as_expected(latency: str, name: str) -> None:
    network = f"uniform(latency_s={latency}, bandwidth_Bps=9kB/s, up_Bps=14kB/s)"
    simulation = simulated(name, network=network, nodes=8, steps=60)
    setup, most = simulation.block.setup, 0
    while not simulation.block.is_over:
        simulation.advance()
        held = [one.what for one in simulation.queue.listed()]
        held += [v for one in simulation.waiting.values() for _, v in one]
        held += [v for node in simulation.nodes for v in node.mailbox.values()]
        most = max(most, len({v.number for v in held if isinstance(v, Version)}))
    assert most / 2 < models_under_way(setup) < 2.5 * most


def test_models_under_way_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Links that take as long as thousands of steps hold thousands of models."""
    setups = [
        simulated("swift", network=f"uniform(latency_s={late}, bandwidth_Bps=1GB/s)", steps=9000)
        .block.setup
        for late in ("1ms", "25h")
    ]  # fmt: skip
    monkeypatch.setattr("decentral.limits.free_bytes", lambda device: 3_000_000)
    require_memory(setups[0], 5)
    with pytest.raises(ConfigError, match=r"45,010 models .* links that take less"):
        require_memory(setups[1], 5)


def test_a_server_must_be_near_to_all() -> None:
    with pytest.raises(ConfigError, match="no link with node 2; use topology star"):
        simulated("fedasync", topology="ring")


def test_an_algorithm_that_leaves_everybody_idle_is_named() -> None:
    from decentral.registry import plugin

    @plugin("algorithm", time="events")
    def stands_still(node: Any, event: Any) -> None:
        """Begin, and never go on."""
        if event.kind == "start":
            node.compute()

    simulation = simulated(build("algorithm", stands_still))
    with pytest.raises(
        RunError, match=r"stands_still.*after 0 of 60 updates nothing is left"
    ):
        ended(simulation)
