"""Simulated time against what nobody here wrote: a process-based simulation in simpy, and the
closed form of asynchronous gossip.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from support import tiny_block, vectors

from decentral.algorithms.node import NodeEvent
from decentral.network.links import Network, uniform
from decentral.simulation import Simulation

NODES, STEPS = 6, 30
#: (what, node, sender): the seconds at which it happened.
Log = dict[tuple[str, int, int], list[float]]


def simulated(algorithm: str, **settings: Any) -> Simulation:
    given: dict[str, Any] = {
        "task": "quadratic(dimension=2)", "dtype": "float64", "nodes": NODES, "steps": STEPS,
        "local_steps": 1, "communication": "constant", "learning_rate": 1e-300,
        "optimizer": "sgd(momentum=0, weight_decay=0)", **settings,
    }  # fmt: skip
    block = tiny_block(**given, algorithm=algorithm)
    block.simulation = Simulation(block)
    return block.simulation


def logged(simulation: Simulation) -> Log:
    """Run to the end, and return when what has happened."""
    log: Log = defaultdict(list)
    tell = simulation.tell

    def watched(node: Any, event: NodeEvent) -> None:
        if event.kind in ("gradient", "message"):
            log[event.kind, node.id, event.sender].append(simulation.now_s)
        tell(node, event)

    simulation.tell = watched  # type: ignore[method-assign]
    while not simulation.block.is_over:
        simulation.advance()
    return log


def unlike(nodes: Any, step: int, seed: int) -> Any:
    """Steps of all lengths, so that no two things happen at one instant."""
    return np.random.default_rng([seed, step]).uniform(0.01, 0.05, len(nodes))


def by_processes(network: Network, size: float) -> Log:
    """The same nodes, lines and messages as processes that wait for each other, in simpy."""
    import simpy

    world, log = simpy.Environment(), defaultdict[tuple[str, int, int], list[float]](list)
    begun, waiting, busy = 0, [False] * NODES, [False] * NODES
    doors = [simpy.Resource(world, 1) for _ in range(NODES)]
    near = [sorted(nx.cycle_graph(NODES)[i]) for i in range(NODES)]

    def train(node: int) -> Any:
        nonlocal begun
        step = 0
        while begun < NODES * STEPS:
            begun += 1
            seconds = float(unlike(range(NODES), step, 0)[node])
            step += 1
            yield world.timeout(seconds)
            log["gradient", node, -1].append(world.now)
            waiting[node] = True
            if not busy[node]:
                world.process(transmit(node))

    def transmit(node: int) -> Any:
        busy[node] = True
        while waiting[node]:
            waiting[node] = False  # whatever comes from now on waits anew
            rate = min(
                network.bandwidth_Bps[0, 0], network.up_Bps[node] / len(near[node])
            )
            for other in near[node]:
                world.process(travel(node, other, world.now + size / rate))
            yield world.timeout(size / rate)
        busy[node] = False

    def travel(node: int, other: int, left_s: float) -> Any:
        yield world.timeout(network.latency_s[0, 0])
        with doors[other].request() as door:  # first come, first served
            yield door
            yield world.timeout(size / network.down_Bps[other])
        last_s = left_s + network.latency_s[0, 0]
        if last_s > world.now:
            yield world.timeout(last_s - world.now)
        log["message", other, node].append(world.now)

    for node in range(NODES):
        world.process(train(node))
    world.run()
    return log


@pytest.mark.parametrize(
    "lines",
    [
        {"up_Bps": 1500.0, "down_Bps": 900.0}, {"up_Bps": 4000.0, "down_Bps": 5000.0},
        {"up_Bps": 700.0, "down_Bps": 1e9},
    ],
)  # fmt: skip
def test_the_times_are_those_of_an_independent_simulation(
    lines: dict[str, float],
) -> None:
    settings = ", ".join(f"{key}={value:g}B/s" for key, value in lines.items())
    simulation = simulated(
        "swift", topology="ring", compute=unlike, seed=0,
        network=f"uniform(latency_s=13ms, bandwidth_Bps=2000B/s, {settings})",
    )  # fmt: skip
    mine = logged(simulation)
    theirs = by_processes(uniform(NODES, 0.013, 2000.0, **lines), simulation.size)
    assert mine.keys() == theirs.keys()
    for key, times in theirs.items():
        np.testing.assert_allclose(mine[key], times, rtol=0, atol=1e-9)


def poisson(nodes: Any, step: int, seed: int) -> Any:
    """Seconds between the ticks of a Poisson clock."""
    return np.random.default_rng([seed, step, 7]).exponential(0.02, len(nodes))


@pytest.mark.parametrize("topology", ["ring", "star"])
def test_pairs_average_as_the_closed_form_says(topology: str) -> None:
    """E[x(k)] = E[W]^k x(0), W = I - (e_i - e_j)(e_i - e_j)^T / 2 (Boyd et al., "Randomized gossip
    algorithms", 2006): the second eigenvector shrinks by its eigenvalue at every tick."""
    graph = nx.cycle_graph(NODES) if topology == "ring" else nx.star_graph(NODES - 1)
    expected: Any = np.eye(NODES)
    for i in graph:
        for j in graph[i]:
            ends = np.eye(NODES)[i] - np.eye(NODES)[j]
            expected -= np.outer(ends, ends) / 2 / NODES / len(graph[i])
    values, vectors_ = np.linalg.eigh(expected)
    second, ticks, found = vectors_[:, -2], 3 * NODES, list[float]()
    first = simulated(
        "ad_psgd", topology=topology, compute=poisson, network="none", steps=8
    )
    for seed in range(40):
        config = first.setup.config.model_copy(update={"seed": seed})
        block = first.block  # where all seeds begin anew
        block.setup = replace(first.setup, config=config)
        block.stand_at(0, 0)
        simulation = Simulation(block)
        x = vectors(block)
        x[:, 0] = x.new_tensor(second)
        for _ in range(3):
            simulation.advance()
        found.append(float(x[:, 0].numpy() @ second))
    error = float(np.std(found, ddof=1)) / len(found) ** 0.5
    assert abs(np.mean(found) - values[-2] ** ticks) < 4 * error
    # Fine enough to tell averages that move one of the two only.
    assert abs(np.mean(found) - ((1 + values[-2]) / 2) ** ticks) > 4 * error
