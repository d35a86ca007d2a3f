"""Rows between workers: gossip against bare Gloo, overlap, slow links, and a whole run on Ray.

python benchmarks/exchange.py
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from common import table

# isort: split
import torch
from torch import Tensor

from decentral.config import make_config
from decentral.exchange.base import LocalExchange, Rendezvous
from decentral.exchange.process_group import ProcessGroupExchange, open_store
from decentral.loop.block import Block
from decentral.loop.preparing import prepare
from decentral.mixing.base import Mixer
from decentral.registry import build
from decentral.topology.base import Topology

HOST = "127.0.0.1"
MEGABYTES = 1, 4, 16
#: What is added to links: seconds per message, and bytes per second.
LINKS = {"1 ms, 100 MB/s": (1e-3, 100e6), "10 ms, 10 MB/s": (1e-2, 10e6)}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "all-reduce": {"algorithm": "allreduce"},
    "gossip": {"communication": "constant", "local_steps": 1, "topology": "ring"},
    "late": {"communication": "late", "local_steps": 1, "topology": "ring"},
}
MODEL = "mlp(hidden=[512, 512])"


# --- workers --------------------------------------------------------------------------------------


def crew(workers: int, work: Callable[..., Any], *given: Any) -> Any:
    """Do ``work(exchange, *given)`` in processes with a node each; return the first's result."""
    store = open_store(HOST)
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    made = [
        context.Process(
            target=_worker, args=(rank, workers, store.port, work, given, found)
        )
        for rank in range(workers)
    ]
    for process in made:
        process.start()
    result = found.get()
    for process in made:
        process.join()
    return result


def _worker(
    rank: int, workers: int, port: int, work: Any, given: Any, found: Any
) -> None:
    torch.set_num_threads(1)
    rendezvous = Rendezvous(
        rank, workers, (HOST, port), HOST, timeout_s=120, prefix="benchmark"
    )
    blocks = [range(k, k + 1) for k in range(workers)]
    exchange = ProcessGroupExchange(rendezvous, blocks, torch.device("cpu"))
    result = work(exchange, *given)
    if rank == 0:
        found.put(result)
    exchange.close()


def agree(exchange: ProcessGroupExchange) -> None:
    """Let all workers begin together."""
    exchange.gather(torch.zeros(1))


def timed(exchange: ProcessGroupExchange, run: Callable[[], object]) -> float:
    agree(exchange)
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


# --- gossip against bare Gloo ---------------------------------------------------------------------


def bandwidth(
    exchange: ProcessGroupExchange, megabytes: int
) -> tuple[float, float, float]:
    """Return the seconds of the same message sent both ways by Gloo alone, gossiped, and travelled.

    The last is a round whose sums are left out: what the exchange adds to the wire's own time.
    """
    rows = torch.randn(1, megabytes << 18)
    mine, theirs = torch.randn(megabytes << 18), torch.empty(megabytes << 18)
    mixing = Mixer.make(Topology(build("topology", "complete"), 2, 0)).mixing(0)
    group, peer = exchange._group, 1 - exchange.hosted.start

    def bare() -> None:
        works = [group.send([mine], peer, 1), group.recv([theirs], peer, 1)]
        for work in works:
            work.wait()

    def travel() -> None:
        posted = exchange._post(rows, mixing)
        for _, works in posted.chunks:
            exchange._wait(works)
        exchange._spare.append(posted.inbox)

    ways = bare, lambda: exchange.mix(rows, mixing), travel
    times = [[timed(exchange, way) for way in ways] for _ in range(5 + 160 // megabytes)]
    first, second, third = (min(t) for t in zip(*times[3:], strict=True))
    return first, second, third


# --- slow links -----------------------------------------------------------------------------------


@dataclass
class SlowWork:
    """What was posted over a slow link: done when it has arrived, and not before ``due``."""

    work: Any
    due: float

    def wait(self) -> None:
        self.work.wait()
        time.sleep(max(0.0, self.due - time.perf_counter()))


class SlowGroup:
    """A process group whose worker has one link: its messages follow each other on it."""

    supports_coalescing = False

    def __init__(self, group: Any, workers: int, latency_s: float, rate: float) -> None:
        self.group, self.workers = group, workers
        self.latency_s, self.rate = latency_s, rate
        self.free = {"in": 0.0, "out": 0.0}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group, name)

    def _slow(self, work: Any, way: str, size: float, hops: int = 1) -> SlowWork:
        begin = max(time.perf_counter(), self.free[way])
        self.free[way] = begin + size / self.rate
        return SlowWork(work, self.free[way] + hops * self.latency_s)

    def send(self, tensors: list[Tensor], peer: int, tag: int) -> SlowWork:
        return self._slow(self.group.send(tensors, peer, tag), "out", tensors[0].nbytes)

    def recv(self, tensors: list[Tensor], peer: int, tag: int) -> SlowWork:
        return self._slow(self.group.recv(tensors, peer, tag), "in", tensors[0].nbytes)

    def allreduce(self, tensors: list[Tensor]) -> SlowWork:
        """A ring: 2 (W - 1) messages one after the other, each a W-th of the tensor."""
        hops = 2 * (self.workers - 1)
        size = hops * tensors[0].nbytes / self.workers
        return self._slow(self.group.allreduce(tensors), "in", size, hops)


def overlap(
    exchange: ProcessGroupExchange, megabytes: int, rate: float
) -> tuple[float, ...]:
    """Return the seconds of computing, of computing then gossip, and of both at once."""
    rows = torch.randn(1, megabytes << 18)
    mixing = Mixer.make(Topology(build("topology", "complete"), 2, 0)).mixing(0)
    exchange._group = SlowGroup(exchange._group, 2, 0.0, rate)
    factor = torch.randn(256, 256)
    products = int(1.5 * rows.nbytes / rate / 4e-4)

    def compute() -> None:
        for _ in range(products):
            torch.mm(factor, factor)

    def after() -> None:
        compute()
        exchange.mix(rows, mixing)

    def at_once() -> None:
        exchange.begin(rows, mixing)
        compute()
        exchange.mix(rows, mixing)

    ways = compute, after, at_once
    times = [[timed(exchange, way) for way in ways] for _ in range(9)]
    return tuple(min(t) for t in zip(*times[1:], strict=True))


def train(exchange: ProcessGroupExchange, name: str, link: str, steps: int) -> float:
    """Return the seconds of training ``steps`` steps, one node a worker."""
    if link in LINKS:
        exchange._group = SlowGroup(exchange._group, exchange.nodes, *LINKS[link])
    block = made(exchange, exchange.nodes, steps, **ALGORITHMS[name])
    return timed(exchange, lambda: stepped(block))


def made(exchange: Any, nodes: int, steps: int, **settings: Any) -> Block:
    plain = {"task": "digits", "model": MODEL, "threads": 1, "device": "cpu"}
    config = make_config({**plain, "nodes": nodes, "steps": steps, **settings})
    return Block(prepare(config), exchange, lambda *_: None)


def stepped(block: Block) -> None:
    """Train to the end, with the merge that ends a schedule."""
    while block.step < block.setup.config.steps:
        block.setup.algorithm(block, block.decide())
        block.finish_step()
    planner = block.setup.planner
    if planner is not None:
        block.combine(planner.final_merge())


# --- a whole run ----------------------------------------------------------------------------------

RUN = """
import json, sys, time
from decentral.api import start
from decentral.config import make_config
begun = float(sys.argv[1])
rows = []
def watch(row):
    rows.append((row["step"], time.time() - begun, time.process_time()))
run = start(make_config(json.loads(sys.argv[2])))
run.run(watch)
print(json.dumps(rows))
"""


def whole(**settings: Any) -> tuple[float, float, float]:
    """Return seconds to the first step, seconds per step, and the driver's share of a core."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "out": str(Path(folder) / "run"),
            "log_every": 10,
            "model": MODEL,
            **settings,
        }
        command = [sys.executable, "-c", RUN, str(time.time()), json.dumps(config)]
        env = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=env
        )
    rows = json.loads(done.stdout.splitlines()[-1])
    first = next(row for row in rows if row[0] > 0)
    # Evaluations and the last checkpoint stand outside: the middle of the run counts.
    some = [row for row in rows if row[0] > 0 and row[0] < rows[-1][0]]
    paces = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(some)]
    share = (some[-1][2] - some[0][2]) / (some[-1][1] - some[0][1])
    return first[1], median(paces), share


def main() -> None:
    """Print every table."""
    rows: list[list[object]] = []
    for megabytes in MEGABYTES:
        bare, gossip, travel = crew(2, bandwidth, megabytes)
        speed = 2 * megabytes * 2**20 / bare / 1e9
        rows.append([megabytes, bare * 1e3, speed, bare / travel, bare / gossip])
    head = "MB", "Gloo, ms", "GB/s both ways", "Gloo / travel", "Gloo / gossip round"
    table("Two workers, the same message each way", head, rows)

    rows = []
    for megabytes, rate in ((1, 100e6), (4, 100e6), (16, 400e6)):
        compute, after, at_once = crew(2, overlap, megabytes, rate)
        hidden = 100 * (after - at_once) / (after - compute)
        rows.append(
            [megabytes, rate / 1e6, compute * 1e3, after * 1e3, at_once * 1e3, hidden]
        )
    head = "MB", "MB/s", "compute, ms", "then gossip", "at once", "hidden, %"
    table("Gossip under computation, two workers on a slow link", head, rows)

    rows = []
    for link in ("as it is", *LINKS):
        spent = [crew(4, train, name, link, 100) for name in ALGORITHMS]
        rows.append([link, *(10 * s for s in spent), spent[0] / spent[2]])
    head = "link", *(f"{name}, ms a step" for name in ALGORITHMS), "all-reduce / late"
    table(f"Four workers of one node, {MODEL}", head, rows)

    rows = []
    single = made(LocalExchange(16), 16, 100, topology="ring")
    begin = time.perf_counter()
    stepped(single)
    rows.append(
        ["this process, no engine", None, (time.perf_counter() - begin) * 10, None]
    )
    for name, engine in {
        "in-process": "local",
        "Ray, 1 worker": "ray(workers=1)",
        "Ray, 2 workers": "ray(workers=2)",
    }.items():
        first, step, share = whole(nodes=16, steps=600, threads=1, engine=engine)
        rows.append([name, first, step * 1e3, 100 * share])
    head = "engine", "to the first step, s", "ms a step", "driver, % of a core"
    table(f"16 nodes, {MODEL}, late on a ring, a thread a worker", head, rows)


if __name__ == "__main__":
    main()
