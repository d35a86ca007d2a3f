"""Simulated time event by event: its speed, what it does to steps, and what a straggler costs.

    python benchmarks/asynchronous.py                     # all tables
    python benchmarks/asynchronous.py --tables speed gain --nodes 16 64 1024

``speed``: node-steps per CPU second over those of the synchronous loop with gossip at every step
and of one gradient at a time, in one run. ``planning``: CPU time of an update of next to nothing,
and how much of it is planning. ``gain``: growth of the mean model per update of all nodes, for
updates of 1. ``straggler``: simulated seconds to a loss, one of sixteen nodes five times slower,
over those without. ``data``: the weight of the slow node's data in the stationary point of
quadratics, times N. ``gossipy``: CPU time of an update beside that of gossipy on the same job,
where it is installed (PyPI: gossipy-dfl 0.0.1, which needs torchvision, dill and tqdm, too).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import table

from decentral.config import make_config
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.preparing import prepare
from decentral.simulation import Simulation

UNLIKE = "lognormal(median=20ms, nodes_spread=0.5, steps_spread=0.1)"
ALGORITHMS = ("ad_psgd", "ad_psgd(overlap=true)", "swift", "gossip_learning", "async_push_sum",
              "epidemic", "divshare")  # fmt: skip
PLAIN = "dsgd(wait=neighbours)"
SOON = "uniform(latency_s=1ms, bandwidth_Bps=1GB/s)"
#: A rate at which nothing moves: gains are those of averages alone.
STILL = 1e-300


def begun(most: int | None = None, **given: Any) -> Block:
    """Return the block of a run that is about to begin."""
    settings = {
        "nodes": 16, "local_steps": 1, "topology": "ring", "communication": "constant",
        "batch": 32, "threads": 1, "split": "iid", "network": SOON, "compute": UNLIKE, **given,
    }  # fmt: skip
    setup = prepare(make_config(settings))
    block = Block(setup, LocalExchange(setup.config.nodes), lambda *_: None)
    if setup.in_events:
        block.simulation = Simulation(block, most)
    return block


def advance(block: Block, steps: int) -> None:
    """Let all nodes together make so many steps each."""
    for _ in range(steps):
        if block.simulation is not None:
            block.simulation.advance()
        else:
            block.setup.algorithm(block, block.decide())
            block.finish_step()


# --- speed ----------------------------------------------------------------------------------------


def per_node_step_us(block: Block, seconds: float) -> float:
    """Return the least CPU microseconds of a node-step, over slices of the time given."""
    advance(block, 3)
    slices: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.process_time()
        advance(block, 2)
        slices.append((time.process_time() - begin) / 2)
    return min(slices) / block.setup.config.nodes * 1e6


def speed(nodes: list[int], seconds: float) -> None:
    """Print node-steps per CPU second over those of the synchronous loop."""
    rows: list[list[str]] = []
    digits: dict[str, Any] = {
        "task": "digits",
        "model": "mlp(hidden=[128, 128])",
        "steps": 100_000,
    }
    for count in nodes:
        rounds = per_node_step_us(begun(**digits, nodes=count, algorithm="dsgd"), seconds)
        for name in ("ad_psgd", "swift", "gossip_learning", PLAIN):
            block = begun(**digits, nodes=count, algorithm=name)
            us = per_node_step_us(block, seconds)
            assert block.simulation is not None
            width = block.simulation.figures()["simulation/width"]
            alone = per_node_step_us(
                begun(1, **digits, nodes=count, algorithm=name), seconds
            )
            rows.append([
                f"{count:,}", f"`{name}`", f"{us:.0f}", f"{rounds / us:.2f}", f"{alone / us:.2f}",
                f"{width:.1f}",
            ])  # fmt: skip
    head = ["nodes", "algorithm", "us", "over rounds", "over one at a time", "width"]
    table("Node-steps per CPU second, digits, MLP of 26,122 parameters, ring", head, rows)


def planning(nodes: list[int], seconds: float) -> None:
    """Print the CPU time of an update of next to nothing, what computes gradients and changes rows
    apart from the rest, which is planning."""
    rows: list[list[str]] = []
    for count in nodes:
        for name in ("ad_psgd", "swift", "gossip_learning"):
            block = begun(
                task="quadratic(dimension=4)",
                steps=100_000,
                batch=1,
                nodes=count,
                algorithm=name,
            )
            simulation = block.simulation
            assert simulation is not None
            spent = [0.0]

            def timed(
                do: Callable[[], None], spent: list[float] = spent
            ) -> Callable[[], None]:
                def watched() -> None:
                    before, begin = spent[0], time.process_time()
                    do()
                    # What it has called itself is in this already.
                    spent[0] = before + time.process_time() - begin

                return watched

            simulation.operations.finish = timed(simulation.operations.finish)
            simulation.flight.compute = timed(simulation.flight.compute)
            advance(block, 1)
            slices: list[tuple[float, float, float]] = []
            end = time.perf_counter() + seconds
            while not slices or time.perf_counter() < end:
                begin, spent[0], events = time.process_time(), 0.0, simulation.queue.count
                advance(block, 1)
                whole = time.process_time() - begin
                happened = simulation.queue.count - events
                slices.append(
                    (whole / count, spent[0] / count, (whole - spent[0]) / happened)
                )
            whole, done, event = (least * 1e6 for least in min(slices))
            rows.append(
                [f"{count:,}", f"`{name}`", f"{whole:.0f}", f"{done:.0f}", f"{event:.1f}"]
            )
    head = [
        "nodes",
        "algorithm",
        "us an update",
        "of it gradients and rows",
        "planning an event",
    ]
    table("CPU microseconds of an update, rows of 4 numbers, ring", head, rows)


def gossipy_update_us(nodes: int, seconds: float) -> float:
    """Return the CPU microseconds of an update in gossipy: digits, ring, a mini-batch of 32 merged
    with one message, as many nodes as asked."""
    import networkx as nx
    from gossipy.core import (
        AntiEntropyProtocol,
        ConstantDelay,
        CreateModelMode,
        StaticP2PNetwork,
    )
    from gossipy.data import DataDispatcher
    from gossipy.data.handler import ClassificationDataHandler
    from gossipy.model import TorchModel
    from gossipy.model.handler import TorchModelHandler
    from gossipy.node import GossipNode
    from gossipy.simul import GossipSimulator
    from sklearn.datasets import load_digits
    from torch import nn

    class Mlp(TorchModel):
        """The same 26,122 parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return self.layers(x)

        def init_weights(self) -> None:
            """Keep those of torch."""

    class Counting(TorchModelHandler):
        """Counts the updates that are made."""

        made = 0

        def _update(self, data: Any) -> None:
            Counting.made += 1
            super()._update(data)

    x, y = load_digits(return_X_y=True)
    handler = ClassificationDataHandler(
        torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y), test_size=0.0
    )
    dispatcher = DataDispatcher(handler, n=nodes, eval_on_user=False, auto_assign=True)
    ring = StaticP2PNetwork(nodes, nx.to_numpy_array(nx.cycle_graph(nodes)))
    chosen = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
    members = {
        i: GossipNode(
            i, dispatcher[i], 100,
            Counting(
                Mlp(), torch.optim.SGD, chosen, nn.functional.cross_entropy, local_epochs=0,
                batch_size=32, create_model_mode=CreateModelMode.MERGE_UPDATE,
            ),
            ring, sync=False,
        )
        for i in range(nodes)
    }  # fmt: skip
    simulator = GossipSimulator(
        members, dispatcher, 100, AntiEntropyProtocol.PUSH, delay=ConstantDelay(5)
    )
    simulator.init_nodes()
    slices: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before, begin = Counting.made, time.process_time()
        simulator.start(n_rounds=2)
        slices.append((time.process_time() - begin) / (Counting.made - before))
    return min(slices) * 1e6


def gossipy(nodes: list[int], seconds: float) -> None:
    """Print the CPU time of an update beside that of gossipy."""
    digits: dict[str, Any] = {
        "task": "digits", "model": "mlp(hidden=[128, 128])", "steps": 100_000,
        "algorithm": "gossip_learning",
    }  # fmt: skip
    rows: list[list[str]] = []
    for count in nodes:
        theirs = gossipy_update_us(count, seconds)
        ours = per_node_step_us(begun(**digits, nodes=count), seconds)
        rows.append(
            [f"{count:,}", f"{theirs:.0f}", f"{ours:.0f}", f"{theirs / ours:.1f}"]
        )
    head = ["nodes", "gossipy, us", "decentral, us", "ratio"]
    table("CPU time of an update, gossip learning on digits, ring", head, rows)


# --- what asynchrony does -------------------------------------------------------------------------

WORLDS: dict[str, dict[str, str]] = {
    "jitter 0": {"compute": "constant(seconds=20ms)", "network": "none"},
    "jitter 5 %": {
        "compute": "lognormal(median=20ms, nodes_spread=0, steps_spread=0.05)"
    },
    "sigma 0.5": {"compute": UNLIKE},
    "one 5x straggler": {},
    "latency 5 c": {
        "compute": "constant(seconds=20ms)",
        "network": "uniform(latency_s=100ms, bandwidth_Bps=1GB/s)",
    },
}


def one_slow(nodes: Any, step: int, seed: int) -> Any:
    """Let node 0 take five times as long as the others, which differ a little."""
    draw = np.random.default_rng([seed, step])
    jitter = 1.0 + 0.02 * draw.standard_normal(len(nodes)).clip(-3, 3)
    return 0.02 * jitter * np.where(np.asarray(nodes) == 0, 5.0, 1.0)


def gain(steps: int) -> None:
    """Print the growth of the mean model per update."""
    rows: list[list[str]] = []
    for name in ALGORITHMS:
        row = [f"`{name}`"]
        for world in WORLDS.values():
            given: dict[str, Any] = {"compute": one_slow, **world}
            block = begun(
                task="quadratic(dimension=4)", steps=steps, learning_rate=STILL, algorithm=name,
                **given,
            )  # fmt: skip
            advance(block, steps)
            assert block.simulation is not None
            row.append(f"{block.simulation.figures()['simulation/gain']:.2f}")
        rows.append(row)
    table("Gain, 16 nodes, ring", ["algorithm", *WORLDS], rows)


def seconds_to(loss: float, seed: int, **given: Any) -> float:
    """Return the simulated seconds until the mean model's loss is below ``loss``; nan: never."""
    block = begun(
        task="digits", model="mlp(hidden=[128, 128])", steps=2000, seed=seed, metrics=("loss",),
        **given,
    )  # fmt: skip
    evaluator = Evaluator(block)
    while not block.is_over:
        advance(block, 5)
        if evaluator(complete=False)["loss/merged"] < loss:
            return block.simulated_s
    return float("nan")


def straggler(seeds: int) -> None:
    """Print what one slow node costs, at the rate of rounds and at the rate over the gain."""
    even = "lognormal(median=20ms, nodes_spread=0, steps_spread=0.02)"
    rows: list[list[str]] = []
    for name in (PLAIN, *ALGORITHMS):
        times: dict[str, list[float]] = {"even": [], "slow": []}
        for seed in range(seeds):
            for world, compute in (("even", even), ("slow", one_slow)):
                found = seconds_to(
                    0.5, seed, algorithm=name, compute=compute, learning_rate=0.05,
                    optimizer="sgd(momentum=0)",
                )  # fmt: skip
                times[world].append(found)
        without, with_one = (statistics.mean(times[w]) for w in ("even", "slow"))
        rows.append(
            [
                f"`{name}`",
                f"{without:.2f}",
                f"{with_one:.2f}",
                f"{with_one / without:.2f}",
            ]
        )
    head = ["algorithm", "seconds", "with a straggler", "ratio"]
    table(f"Simulated seconds to loss 0.5, digits, 16 nodes, {seeds} seeds", head, rows)


def weight_of_the_slow(name: str, seed: int) -> float:
    """Return N times the weight of node 0's data where training comes to rest."""
    block = begun(
        task="quadratic(dimension=64, noise=0)", steps=3000, learning_rate=0.002, seed=seed,
        optimizer="sgd(momentum=0, weight_decay=0)", algorithm=name, compute=one_slow, batch=1,
        dtype="float64",
    )  # fmt: skip
    advance(block, 3000)
    x = block.setup.layout.views(block.rows)["x"].mean(0)
    targets = block.sampler.batch(0, 1).targets[:, 0]
    curvature, centre = targets[:, 0], targets[:, 1]
    # sum_i p_i a_i (x - b_i) = 0 with p_0 = w and all others (1 - w) / (N - 1): least squares.
    pull = curvature * (x - centre)
    others = pull[1:].mean(0)
    difference = pull[0] - others
    share = -float(others @ difference) / float(difference @ difference)
    return share * len(block.hosted)


def data(seeds: int) -> None:
    """Print whose data counts."""
    rows = [
        [
            f"`{name}`",
            f"{statistics.mean(weight_of_the_slow(name, s) for s in range(seeds)):.2f}",
        ]
        for name in (PLAIN, *ALGORITHMS)
    ]
    table(
        "Weight of the 5 times slower node's data, times N", ["algorithm", "weight"], rows
    )


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    tables = ("speed", "planning", "gain", "straggler", "data")
    parser.add_argument(
        "--tables", nargs="*", default=tables, choices=(*tables, "gossipy")
    )
    parser.add_argument("--nodes", nargs="*", type=int, default=[16, 64, 1024])
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="for each figure of speed"
    )
    parser.add_argument("--steps", type=int, default=500, help="of the table of gains")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if "speed" in asked.tables:
        speed(asked.nodes, asked.seconds)
    if "planning" in asked.tables:
        planning(asked.nodes, asked.seconds)
    if "gossipy" in asked.tables:
        gossipy(asked.nodes, asked.seconds)
    if "gain" in asked.tables:
        gain(asked.steps)
    if "straggler" in asked.tables:
        straggler(asked.seeds)
    if "data" in asked.tables:
        data(asked.seeds)


if __name__ == "__main__":
    main()
