"""Predicted against measured seconds: Gloo processes on links slowed down in user space.

Every node is a process. A message is cut into pieces of 256 kB, and each is held back as long as
the stated network would: by the sender's line and the bandwidth of the link before it goes, by
latency and the receiver's line after it has come. Nothing is said of sharing: messages that meet on
a line share it because their pieces take turns. Computing is a sleep.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from common import table

import decentral  # noqa: F401  (before torch: sets how threads wait)

# isort: split
import numpy as np
import torch
import torch.distributed as dist

from decentral.mixing.base import Mixer
from decentral.network import presets
from decentral.network.clock import Clock
from decentral.registry import build
from decentral.topology.base import Topology

PIECE = 256 << 10
SIZE = 4 << 20
SLOW = "uniform(latency_s=50ms, bandwidth_Bps=4MB/s"
COMPUTE = "500ms"


@dataclass(frozen=True)
class Scenario:
    name: str
    topology: str
    network: str
    compute: str = COMPUTE
    nodes: int = 6
    rounds: int = 6


SCENARIOS = (
    Scenario("ring, equal links", "ring", f"{SLOW})"),
    Scenario("ring, one line per node", "ring", f"{SLOW}, up_Bps=4MB/s, down_Bps=4MB/s)"),
    Scenario("star, one line per node", "star", f"{SLOW}, up_Bps=4MB/s, down_Bps=4MB/s)"),
    Scenario("chain", "nx:path_graph", f"{SLOW})"),
    Scenario(
        "two sites, ring", "ring",
        "sites(latency_s=200ms, bandwidth_Bps=2MB/s, inside_latency_s=10ms, inside_Bps=8MB/s)",
    ),
    Scenario("one-peer exponential", "one_peer_exponential", f"{SLOW})"),
    Scenario("ring, some nodes 3 times slower", "ring", f"{SLOW})",
             "stragglers(seconds=400ms, factor=3, share=0.3)"),
    Scenario("ring, heavy tails", "ring", f"{SLOW})", "pareto(least=300ms, alpha=1.5)"),
    Scenario("all-reduce, a ring", "all_reduce", f"{SLOW}, all_reduce=ring)"),
)  # fmt: skip


# --- slowed links ---------------------------------------------------------------------------------


class Line:
    """Lets bytes through at a rate, in the order in which they come.

    What comes at ``at_s`` is through at the moment returned, to which the caller holds it back. A
    process that wakes up late does not shift what comes later: lateness does not add up.
    """

    def __init__(self, rate: float) -> None:
        self.rate, self.free_s, self.lock = rate, 0.0, threading.Lock()

    def take(self, size: int, at_s: float) -> float:
        with self.lock:
            self.free_s = max(self.free_s, at_s) + size / self.rate
            return self.free_s


def pause(until_s: float) -> None:
    time.sleep(max(0.0, until_s - time.monotonic()))


class Node:
    """One process's end of all links."""

    def __init__(
        self, rank: int, scenario: Scenario, received: set[int], sent: set[int]
    ) -> None:
        network, _ = presets.make(scenario.network, scenario.nodes)
        self.up, self.down = Line(network.up_Bps[rank]), Line(network.down_Bps[rank])
        self.links: dict[int, Line] = {}
        self.latency_s: dict[int, float] = {}
        self.rates: dict[int, float] = {}
        for other in sent:
            _, rate = network.cost(np.array([rank]), np.array([other]))
            self.links[other] = Line(float(rate[0]))
        self.inbox: dict[int, queue.SimpleQueue[float]] = {}
        for other in received:
            latency_s, rate = network.cost(np.array([other]), np.array([rank]))
            self.latency_s[other], self.rates[other] = float(latency_s[0]), float(rate[0])
            self.inbox[other] = queue.SimpleQueue()
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()
        self.pool = ThreadPoolExecutor(max(1, len(sent)))

    def send(self, other: int, size: int) -> None:
        now_s = time.monotonic()
        for begin in range(0, size, PIECE):
            piece = torch.zeros(PIECE // 8, dtype=torch.float64)
            part = min(PIECE, size - begin)
            now_s = max(self.up.take(part, now_s), self.links[other].take(part, now_s))
            pause(now_s)
            piece[0], piece[1], piece[2] = now_s, part, begin + PIECE >= size
            dist.send(piece, other)

    def _listen(self, other: int) -> None:
        piece = torch.zeros(PIECE // 8, dtype=torch.float64)
        while True:
            try:
                dist.recv(piece, other)
            except RuntimeError:  # the others have left
                return
            begins_s = (
                float(piece[0])
                + self.latency_s[other]
                - int(piece[1]) / self.rates[other]
            )
            pause(self.down.take(int(piece[1]), begins_s))
            pause(float(piece[0]) + self.latency_s[other])
            if piece[2]:
                self.inbox[other].put(time.monotonic())

    def exchange(self, sent: list[int], received: list[int], size: int) -> None:
        leaving = [self.pool.submit(self.send, other, size) for other in sent]
        for sending in leaving:
            sending.result()
        for other in received:
            self.inbox[other].get()


# --- a run ----------------------------------------------------------------------------------------


def partners(scenario: Scenario, rank: int, round: int) -> tuple[list[int], list[int]]:
    """Return whom a node sends to, and whom it receives from, in a round."""
    if scenario.topology == "all_reduce":
        return [(rank + 1) % scenario.nodes], [(rank - 1) % scenario.nodes]
    links = Topology(build("topology", scenario.topology), scenario.nodes).links(round)
    sent = links.receivers[links.senders == rank].tolist()
    return sent, links.senders[links.receivers == rank].tolist()


def work(rank: int, port: int, scenario: Scenario, found: Any) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=scenario.nodes
    )
    all_partners = [partners(scenario, rank, round) for round in range(scenario.rounds)]
    sent = {other for pair in all_partners for other in pair[0]}
    received = {other for pair in all_partners for other in pair[1]}
    node, compute = (
        Node(rank, scenario, received, sent),
        build("compute", scenario.compute),
    )
    waits = [
        float(compute(np.array([rank]), step, 0)[0]) for step in range(scenario.rounds)
    ]
    dist.barrier()
    begin_s = time.monotonic()
    for step, (to, by) in enumerate(all_partners):
        time.sleep(waits[step])
        reduces = scenario.topology == "all_reduce"
        for _ in range(2 * (scenario.nodes - 1) if reduces else 1):
            node.exchange(to, by, SIZE // scenario.nodes if reduces else SIZE)
    found.put((rank, time.monotonic() - begin_s))
    time.sleep(2)  # what is still under way may arrive
    dist.barrier()
    found.close()
    found.join_thread()
    os._exit(0)  # threads that listen have no other end


def measured(scenario: Scenario, port: int) -> np.ndarray:
    context = multiprocessing.get_context("fork")
    found: Any = context.Queue()
    workers = [
        context.Process(target=work, args=(rank, port, scenario, found))
        for rank in range(scenario.nodes)
    ]
    for worker in workers:
        worker.start()
    times = dict(found.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    return np.array([times[rank] for rank in range(scenario.nodes)])


def predicted(scenario: Scenario) -> np.ndarray:
    network, rule = presets.make(scenario.network, scenario.nodes)
    clock = Clock(
        network, build("compute", scenario.compute), 0, rule.common["all_reduce"]
    )
    for step in range(scenario.rounds):
        clock.work(step)
        if scenario.topology == "all_reduce":
            clock.average(range(scenario.nodes), SIZE)
        else:
            topology = Topology(build("topology", scenario.topology), scenario.nodes)
            mixing = Mixer.make(topology).mixing(step)
            clock.gossip(mixing, SIZE, range(scenario.nodes))
    return clock.ready_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=29611)
    port = parser.parse_args().port
    rows: list[list[object]] = []
    for index, scenario in enumerate(SCENARIOS):
        wanted, got = predicted(scenario), measured(scenario, port + index)
        error = (wanted.max() - got.max()) / got.max()
        worst = np.abs(wanted - got).max() / got.max()
        rows.append(
            [
                scenario.name,
                float(wanted.max()),
                float(got.max()),
                f"{error:+.1%}",
                f"{worst:.1%}",
            ]
        )
    head = ["links and computing", "predicted, s", "measured, s", "error", "worst node"]
    title = (
        f"{SCENARIOS[0].rounds} rounds of {SCENARIOS[0].nodes} nodes, messages of 4 MiB"
    )
    table(title, head, rows)


if __name__ == "__main__":
    main()
