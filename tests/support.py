"""What several test files share: examples of plug-ins, tiny runs, and workers that are threads."""

from __future__ import annotations

import atexit
import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import decentral
from decentral.api import run_config
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.engines.workers import reassign, sources
from decentral.exchange.base import LocalExchange, NeighbourIndex, neighbour_index
from decentral.loop import train
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.preparing import prepare
from decentral.loop.rounds import checkpoint_of, restore
from decentral.loop.setup import Setup
from decentral.mixing.base import Mixer, Mixing
from decentral.network import RoundAction, RoundPlanner
from decentral.network.planning import Membership
from decentral.registry import ConfiguredPlugin, build, find, names
from decentral.run.checkpoint import Checkpoint, newest_checkpoint
from decentral.run.folder import RunFolder
from decentral.schedules import communication_steps
from decentral.schedules.action import CommunicationSchedule
from decentral.simulation import Simulation
from decentral.tasks import Task
from decentral.topology.base import Topology
from decentral.traits import AlgorithmTraits, TaskTraits, TopologyTraits, traits_of

#: Where the rows of a tiny block meet: pytest's ``--engine``.
engine = "local"
#: What tests share until all have ended.
standing = ExitStack()

Row = dict[str, Any]
T = TypeVar("T")


def example(kind: str, name: str) -> ConfiguredPlugin:
    """Return a plug-in at work: with its defaults, or as its ``example`` trait spells it.

    A task that reads images reads a few small ones.
    """
    traits = find(kind, name).traits
    if isinstance(traits, TaskTraits) and traits.reads == "images":
        folder = str(small_images())
        return build(kind, {"name": name, "path": folder, "cache": f"{folder}/cache"})
    return build(kind, traits.example or name)


@cache
def small_images() -> Path:
    """Return a folder of parquet files with 80 images of 16x16, of four classes."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    draw = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        pixels = draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        write_images(Path(folder.name) / f"{split}.parquet", list(pixels))
    return Path(folder.name)


def write_images(file: Path, pixels: Sequence[np.ndarray], **columns: Any) -> None:
    """Write images [height, width, 3] as PNG into a parquet file, labels going round in four."""
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    encoded: list[bytes] = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    labels = [place % 4 for place in range(len(encoded))]
    parquet.write_table(
        pyarrow.table({"image": encoded, "label": labels} | columns), file
    )


def in_rounds() -> list[str]:
    """Return the algorithms whose steps all nodes take together; others go event by event."""
    found = {
        name: traits_of(find("algorithm", name), AlgorithmTraits)
        for name in names("algorithm")
    }
    return [name for name, traits in found.items() if traits.time != "events"]


@cache
def fits(name: str, nodes: int) -> bool:
    """Tell whether a topology says that it has a graph on so many nodes."""
    found = example("topology", name)
    sizes = traits_of(found, TopologyTraits).sizes
    return sizes is None or sizes.fits(nodes, found.settings)


def planted(file: str) -> Callable[..., Any]:
    """Return a function that raises a KeyError, as if it stood in a file of the package."""
    there = Path(decentral.__file__).parent / file
    module = ".".join(("decentral", *Path(file).with_suffix("").parts))
    text = "def fault(*given, **settings):\n    return {}['planted']\n"
    found: dict[str, Any] = {"__name__": module}
    exec(compile(text, there, "exec"), found)
    return found["fault"]


# --- processes ------------------------------------------------------------------------------------


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
    found = [pid]
    for each in found:  # it grows meanwhile
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


# --- plans of rounds ------------------------------------------------------------------------------


def planner(
    topology: object,
    communication: object = "constant",
    *,
    nodes: int = 8,
    steps: int = 200,
    local_steps: int = 5,
    seed: int = 0,
    weights: object = "auto",
) -> RoundPlanner:
    """Return a planner without a run around it."""
    mixer = Mixer.make(Topology(build("topology", topology), nodes, seed), weights)
    return RoundPlanner(
        mixer, CommunicationSchedule.make(communication), steps, local_steps
    )


def round_actions(talk: RoundPlanner) -> Iterator[tuple[int, RoundAction]]:
    """Yield (step, action) of everything that is sent, counting rounds as a run does."""
    round = 0
    for step in communication_steps(talk.steps, talk.local_steps):
        action = talk.plan(talk.progress(step, round))
        if action is not None:
            round += 1
            yield step, action


# --- tiny runs ------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "nodes": 4, "steps": 20, "local_steps": 5, "model": "mlp(hidden=[8])", "batch": 8,
    "eval_every": 10, "log_every": 1, "eval_samples": 64, "calibration_samples": 64, "threads": 1,
    "device": "cpu",
}  # fmt: skip


def blobs(samples: int = 200, features: int = 6, classes: int = 4) -> Task:
    """Return Gaussian blobs, one per class: a task that needs no library."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % classes
    centres = torch.randn(classes, features, generator=draw)
    inputs = 2 * centres[labels] + torch.randn(samples, features, generator=draw)
    cut = samples * 3 // 4
    return Task(
        loss=nn.functional.cross_entropy,
        train=(inputs[:cut], labels[:cut]),
        test=(inputs[cut:], labels[cut:]),
        scores={"first": lambda outputs, _: (outputs.argmax(-1) == 0).double()},
    )


def silent(event: str, details: dict[str, Any]) -> None:
    """Announce nothing."""


def _tiny(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a tiny run; one with a budget of data takes the steps that follow."""
    return {
        key: value
        for key, value in TINY.items()
        if key != "steps" or "data" not in settings
    }


def tiny_setup(**settings: Any) -> Setup:
    """Prepare a tiny run on blobs, or on the task that is named."""
    torch.set_num_threads(1)
    return prepare(make_config({"task": blobs()} | _tiny(settings) | settings))


def tiny_block(announce: Callable[..., None] = silent, **settings: Any) -> Block:
    """Return the block of a tiny run that hosts all nodes."""
    setup = tiny_setup(**settings)
    ordered = setup.config.mixing == "ordered"
    exchange = {"local": LocalExchange, "ray": Scattered}[engine]
    block = Block(setup, exchange(setup.config.nodes, ordered), announce)
    block.simulation = Simulation(block) if setup.in_events else None
    return block


def vectors(block: Block) -> Tensor:
    """Return every node's x on quadratics, [n, d], without the padding of its row."""
    return block.setup.layout.views(block.rows)["x"]


def trained(block: Block) -> list[Row]:
    """Train a block to its end and return the logged rows, with no folder."""
    return list(train(block, Evaluator(block)))


def tiny_run(folder: Path, **settings: Any) -> LocalRun:
    """Begin a tiny run in a folder."""
    run = LocalRun(make_config({"task": "digits"} | _tiny(settings) | settings))
    run.begin(RunFolder.create(folder))
    return run


def untimed(row: Row) -> Row:
    """Return a row of metrics without what depends on the clock."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load all nodes of the newest good checkpoint of a run."""
    saved = newest_checkpoint(folder)
    return saved.load(saved.live)


def replayed(out: Path) -> Tensor:
    """Return the last rows of a run by doing again in one process what its log of members says."""
    lines = (out / "events.jsonl").read_text().splitlines()
    changes = [
        event for event in map(json.loads, lines) if event["event"] == "membership"
    ]
    setup = prepare(run_config(out, engine="local"))
    block = Block(setup, LocalExchange(setup.config.nodes, ordered=True), silent)
    for change in changes:
        advance(block, change["step"])
        old, members = block.members, Membership(tuple(change["live"]), change["epoch"])
        joined = sources(setup.planner, setup.config.weights, members, old)
        checkpoint = reassign(checkpoint_of(block), members, joined)
        block = Block(
            setup, LocalExchange(len(members.live), ordered=True), silent, members
        )
        restore(block, checkpoint)
    advance(block, setup.config.steps)
    return block.rows


def advance(block: Block, step: int) -> None:
    """Train a block until a step is done, with nothing around it."""
    while block.step < step:
        if block.simulation is not None:
            block.simulation.advance()
            continue
        block.setup.algorithm(block, block.decide())
        block.finish_step()


def walk(block: Block) -> Tensor:
    """Train a block to its end, with nothing around it; return its rows."""
    advance(block, block.setup.config.steps)
    return block.rows


def logical(block: Block) -> dict[str, int]:
    """Return what communication has cost, wherever the rows were."""
    return {**block.stats.state(), "wire_bytes": 0}


# --- workers in threads ---------------------------------------------------------------------------


class Meeting:
    """Where workers that are threads lay their rows side by side."""

    def __init__(self, workers: int) -> None:
        self.barrier = threading.Barrier(workers, timeout=30)
        self.desk: dict[int, Tensor] = {}

    def all(self, first: int, value: Tensor) -> Tensor:
        """Return everybody's values in node order, as a copy."""
        self.desk[first] = value
        self.barrier.wait()
        found = torch.cat([self.desk[key] for key in sorted(self.desk)])
        self.barrier.wait()
        return found


class ThreadExchange:
    """An exchange between workers in threads: every worker mixes a copy of all rows."""

    def __init__(self, meeting: Meeting, hosted: range, nodes: int) -> None:
        self.meeting, self.hosted, self.nodes = meeting, hosted, nodes
        self.workers = meeting.barrier.parties
        self.whole = LocalExchange(nodes, ordered=True)

    def begin(self, channel: Tensor, mixing: Mixing) -> None:
        """Nothing travels between threads."""

    def mix(self, channel: Tensor, mixing: Mixing) -> int:
        everyone = self.meeting.all(self.hosted.start, channel)
        self.whole.mix(everyone, mixing)
        channel.copy_(everyone[self.hosted.start : self.hosted.stop])
        return 0

    def receive(
        self, channel: Tensor, mixing: Mixing
    ) -> tuple[Tensor, NeighbourIndex, int]:
        everyone = self.meeting.all(self.hosted.start, channel)
        away = np.setdiff1d(np.arange(self.nodes), np.array(self.hosted))
        return everyone[away], neighbour_index(mixing, self.hosted, away), 0

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        rows = self.meeting.all(self.hosted.start, channel)
        return self.whole.mean(rows, self.meeting.all(self.hosted.start, weights))

    def gather(self, values: Tensor) -> Tensor:
        return self.meeting.all(self.hosted.start, values)


def exchanges(sizes: Sequence[int]) -> list[ThreadExchange]:
    """Return one exchange per worker; worker k hosts ``sizes[k]`` nodes."""
    meeting, nodes = Meeting(len(sizes)), sum(sizes)
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [
        ThreadExchange(meeting, range(end - size, end), nodes)
        for end, size in zip(ends, sizes, strict=True)
    ]


def together(work: Callable[[Any], T], workers: Sequence[Any]) -> list[T]:
    """Do ``work`` for every worker at the same time, in threads; one that fails stops all."""
    made = [w.exchange for w in workers if isinstance(w.exchange, ThreadExchange)]
    barriers = {id(exchange.meeting): exchange.meeting.barrier for exchange in made}

    def guarded(worker: Any) -> T:
        try:
            return work(worker)
        except BaseException:
            for barrier in barriers.values():
                barrier.abort()
            raise

    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(guarded, workers))


class Once:
    """A cached property without the lock that Python 3.11 holds for all instances: threads meet."""

    def __init__(self, made: cached_property[Any]) -> None:
        self.made = made

    def __get__(self, instance: Any, owner: Any) -> Any:
        return instance.__dict__.setdefault(self.made.attrname, self.made.func(instance))


def in_turns(
    cases: Iterable[Sequence[Any]], values: Sequence[Any], each: int = 1
) -> list[Any]:
    """Give every case ``each`` of the values, which take turns; the other values are for the soak.

    All values meet relatives of a case, which stand beside it.
    """
    import pytest

    found: list[Any] = []
    for place, case in enumerate(cases):
        now = {(place + more) % len(values) for more in range(each)}
        for turn, value in enumerate(values):
            marks = [] if turn in now else [pytest.mark.soak]
            names = [str(part) for part in (*case, value)]
            found.append(pytest.param(*case, value, marks=marks, id="-".join(names)))
    return found


def pairwise_cover(factors: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return cases in which every two members of different factors meet, of three factors.

    The two longest are crossed; each case takes the member of the third that meets most anew.
    """
    third, second, first = sorted(factors, key=lambda name: len(factors[name]))
    met: set[tuple[str, str, str]] = set()
    cases: list[dict[str, str]] = []
    for shift in range(len(factors[second])):
        for place, a in enumerate(factors[first]):
            b = factors[second][(place + shift) % len(factors[second])]
            c = min(
                factors[third],
                key=lambda c: ((first, a, c) in met) + ((second, b, c) in met),
            )
            met |= {(first, a, c), (second, b, c)}
            cases.append({first: a, second: b, third: c})
    return cases


@contextmanager
def connected(
    sizes: Sequence[int], *, timeout_s: float = 30.0, **options: Any
) -> Iterator[list[Any]]:
    """Yield the exchange of every worker, in threads that talk through real Gloo connections."""
    from decentral.exchange.base import Rendezvous
    from decentral.exchange.process_group import ProcessGroupExchange, open_store

    ends = list(accumulate(sizes, initial=0))
    blocks = [range(a, b) for a, b in pairwise(ends)]
    store = open_store("127.0.0.1")

    def meet(rank: int) -> Any:
        where = ("127.0.0.1", store.port)
        meeting = Rendezvous(
            rank, len(sizes), where, "127.0.0.1", timeout_s, prefix="test"
        )
        return ProcessGroupExchange(meeting, blocks, torch.device("cpu"), **options)

    with ThreadPoolExecutor(len(sizes)) as pool:
        made = list(pool.map(meet, range(len(sizes))))
        try:
            yield made
        finally:
            list(pool.map(lambda exchange: exchange.close(), made))


@cache
def crew(sizes: tuple[int, ...], ordered: bool) -> list[Any]:
    """Return connected workers that stay until the tests end."""
    made = standing.enter_context(connected(sizes, ordered=ordered))
    return [SimpleNamespace(exchange=exchange) for exchange in made]


class Scattered:
    """The exchange of the Ray engine for rows in one process, which meet as blocks on workers.

    The laws of one block, run with it, are laws of rows that travel.
    """

    def __init__(self, nodes: int, ordered: bool = False) -> None:
        sizes = [len(part) for part in np.array_split(range(nodes), min(3, nodes))]
        self.nodes, self.hosted, self.workers = nodes, range(nodes), len(sizes)
        self.crew = crew(tuple(sizes), ordered)
        self.whole = LocalExchange(nodes, ordered)

    def all(self, work: Callable[..., T], values: Tensor, *more: Tensor) -> list[T]:
        """Do ``work(exchange, its values, ...)`` on every worker."""
        cuts = list(accumulate(len(worker.exchange.hosted) for worker in self.crew))[:-1]
        parts = zip(*(v.tensor_split(cuts) for v in (values, *more)), strict=True)
        its = {id(worker): part for worker, part in zip(self.crew, parts, strict=True)}
        return together(lambda worker: work(worker.exchange, *its[id(worker)]), self.crew)

    def begin(self, channel: Tensor, mixing: Mixing) -> None:
        self.all(lambda exchange, rows: exchange.begin(rows, mixing), channel)

    def mix(self, channel: Tensor, mixing: Mixing) -> int:
        return sum(self.all(lambda exchange, rows: exchange.mix(rows, mixing), channel))

    def receive(
        self, channel: Tensor, mixing: Mixing
    ) -> tuple[Tensor, NeighbourIndex, int]:
        heard = self.all(lambda exchange, rows: exchange.receive(rows, mixing), channel)
        return *self.whole.receive(channel, mixing)[:2], sum(sent for _, _, sent in heard)

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        found = self.all(lambda exchange, *parts: exchange.mean(*parts), channel, weights)
        assert all(torch.equal(mean, found[0][0]) for mean, _ in found)
        return found[0][0], sum(sent for _, sent in found)

    def gather(self, values: Tensor) -> Tensor:
        return self.all(lambda exchange, part: exchange.gather(part), values)[0]
