"""Every message to the user, produced by real bad input, and what it must name in ``messages.txt``.

A case is a command that is wrong: it must leave status 2 (1 where a run had begun), one or two
lines on stderr and no traceback. What only Python can do wrong is a function. The last test fails
until every place in the package that raises a user's error has its case.

Kept of a message is what it names, not how it is worded: the kind of error, what is wrong as it
was given, limits, and settings, names and commands of the remedy. Other words for the same, or more
than was named, need no change here; what is no longer named does.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import networkx as nx
import pytest
import torch
from wrong import CASES, SMALL, Case, furnish, inside, small
from wrong_clusters import CLUSTERS
from wrong_data import DATA
from wrong_folders import FOLDERS, PYTHON, wreck
from wrong_gossip import GOSSIP
from wrong_graphs import GRAPH_CALLS
from wrong_models import MODELS
from wrong_own import OWN
from wrong_theory import THEORY

import decentral.cli
from decentral import Task, api, errors, registry
from decentral.blame import reraise
from decentral.claims.asynchrony import _seconds_to
from decentral.claims.base import Curve, Lab
from decentral.claims.trials import trial
from decentral.cli import several
from decentral.cli.explaining import PAGES, page_of
from decentral.config import Config, make_config
from decentral.engines import rank_group, torchrun
from decentral.engines.contact import PROCESS_DIED, WorkersLost
from decentral.engines.ranks import Meeting, Ranks, refuse_changing_ranks, refuse_ranks
from decentral.engines.worker import describe_error
from decentral.errors import ConfigError, Interrupted, RunError, worker_error
from decentral.loop.preparing import prepare
from decentral.loop.trained import differing
from decentral.merging.base import merge_weights
from decentral.mixing.base import Mixer
from decentral.network.planning import Membership, next_planner
from decentral.optim.first_order import grad_power
from decentral.report.compare import compare
from decentral.report.serve import Server
from decentral.run.lock import WriterLock
from decentral.spec import parse_spec
from decentral.sweeps import running
from decentral.topology.base import Topology
from decentral.userfile import load_installed

PACKAGE = Path(decentral.__file__).parent
SNAPSHOT = Path(__file__).with_name("messages.txt")


#: What a message names: quoted names, code, settings, paths, flags, kinds of errors, and numbers.
FACT = re.compile(
    r"`[^`\n]+`"
    r"|(?<!\w)'[^'\n]*'(?!\w)"
    r"|\b[A-Z]\w*(?:Error|Lost)\b|\bInterrupted\b|\bBug\b"
    r"|--[a-z][\w-]*"
    r"|[A-Za-z_]\w*(?:=[^\s,;)]*[^\s.,;:)]|(?:[._/][\w-]+)+(?:=[^\s,;)]*[^\s.,;:)])?)"
    r"|[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?%?"
)
#: More would be lists of what there is, which grow.
MOST = 8
SETTINGS = {*Config.model_fields, *registry.KINDS} - {"out"}  # as in: leave it out


def facts(message: str, given: str = "") -> list[str]:
    """Return what a message names, in order; also settings, and words that were given."""
    words = SETTINGS | set(re.findall(r"\w+", given))
    found = re.compile(rf"{FACT.pattern}|\w+").findall(message.removeprefix("error: "))
    return list(
        dict.fromkeys(one for one in found if one in words or FACT.fullmatch(one))
    )


class Book:
    """What messages name, by case, and where in the package they were raised."""

    def __init__(self, writing: bool) -> None:
        self.writing = writing
        self.kept = {} if not SNAPSHOT.exists() else _read(SNAPSHOT.read_text())
        self.seen: dict[str, list[str]] = {}
        self.said: set[str] = set()
        self.raised: set[tuple[str, int]] = set()

    def check(self, name: str, message: str, folder: Path, given: str = "") -> None:
        message = plain(message, folder)
        named = facts(message, given)
        self.said.add(message)
        self.seen[name] = named[:MOST]
        if not self.writing:
            assert name in self.kept, f"{name}: no case yet; run with --regenerate"
            lacking = [one for one in self.kept[name] if one not in named]
            assert not lacking, f"{name}: {message!r} does not name {lacking}"


def _read(text: str) -> dict[str, list[str]]:
    lines = (line.partition(" :: ") for line in text.splitlines())
    return {name: rest.split(" | ") if rest else [] for name, _, rest in lines}


def plain(message: str, folder: Path) -> str:
    """Leave out what differs between machines and grows with the package."""
    message = (
        message.replace(f"{Path(__file__).parent}/", "")
        .replace(f"{folder}/", "")
        .replace(f"{PACKAGE}/", "decentral/")
    )
    message = re.sub(r"(Available|Settings): [^.]*(\.\w[^.]*)*\.", r"\1: ....", message)
    message = re.sub(r"and [\d.]+ [kMGT]?B are free", "and ... are free", message)
    message = re.sub(r"is not available \(.*\);", "is not available (...);", message)
    message = re.sub(
        r"cannot run this model \(.*\);", "cannot run this model (...);", message
    )
    message = re.sub(r"are \d+ cores(.*), \d+, or", r"are ... cores\1, ..., or", message)
    message = re.sub(
        r"process \d+ on \S+, since \S+,", "process ... on ..., since ...,", message
    )
    message = re.sub(r"\b[0-9a-f]{12}\b", "DIGEST", message)
    return re.sub(r"\.py:\d+", ".py", message).rstrip()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong in it."""
    folder = tmp_path_factory.mktemp("bench")
    furnish(folder)
    with inside(folder):
        wreck()
    return folder


@pytest.fixture(scope="module")
def book(regenerate: bool) -> Iterator[Book]:
    """The snapshot, with a record of every place that makes a user's error."""
    found = Book(regenerate)
    with pytest.MonkeyPatch.context() as patch:
        for kind in (ConfigError, RunError):
            patch.setattr(kind, "__init__", _recording(found, kind.__init__))
        yield found
    if regenerate:
        lines = [f"{name} :: {' | '.join(named)}" for name, named in found.seen.items()]
        SNAPSHOT.write_text("\n".join(lines) + "\n")


def _recording(book: Book, original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Exception, *args: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_code.co_filename == errors.__file__ and frame.f_back is not None:
            frame = frame.f_back  # ``unknown``, or a kind of error that is made of others
        book.raised.add((frame.f_code.co_filename, frame.f_lineno))
        original(self, *args)

    return init


# --- tests ----------------------------------------------------------------------------------------


def fails(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command that must fail as it should; return its status and what it said."""
    status = decentral.cli.run(words.split())
    said = capsys.readouterr().err
    assert 1 <= len(said.splitlines()) <= 2
    assert "Traceback" not in said
    assert "bug" not in said
    return status, said


@pytest.mark.parametrize("case", [*CASES, *FOLDERS], ids=lambda case: case.name)
def test_command(
    case: Case, bench: Path, book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(bench):
        status, said = fails(case.words, capsys)
    assert status == case.status
    book.check(case.name, said, bench, case.words)


@pytest.mark.needs("root")
def test_folder_without_permission(
    bench: Path, book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root may do anything, so somebody else tries."""
    with inside(bench):
        os.seteuid(65534)
        try:
            status, said = fails(f"{SMALL} --out plugins/run", capsys)
        finally:
            os.seteuid(0)
    assert status == 2
    book.check("folder without permission", said, bench)


def test_full_disk(
    tiny_disk: Path, book: Book, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints of 64 nodes do not fit; what is already there stays readable."""
    out = tiny_disk / "run"
    status, said = fails(
        f"launch --task quadratic(dimension=64) nodes=64 steps=40 keep_checkpoints=40 --out {out}",
        capsys,
    )
    assert status == 1
    book.check("full disk", said, tiny_disk)
    assert api.restart(out).block.step > 0


def test_interrupted(bench: Path, book: Book, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C saves, and says how to go on."""
    metrics = bench / "stopped" / "metrics.jsonl"

    def stop() -> None:
        while not metrics.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    with inside(bench):
        status, said = fails(small("steps=100000 --out stopped"), capsys)
    assert status == 1
    book.check("interrupted", re.sub(r"step [0-9]+", "step ...", said), bench)


def test_interrupted_claim(
    bench: Path, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that its user stops ends the claim, too; other failures become its record."""

    def stop(lab: Lab, label: str, **settings: Any) -> None:
        raise Interrupted("by hand")

    monkeypatch.setattr(Lab, "run", stop)
    with inside(bench), pytest.raises(Interrupted) as found:
        trial("single_merge", Path("claims"), print, seeds=(0,)).outcome()
    book.check("interrupted claim", f"error: {found.value}", bench)


def _without_a_node() -> None:
    setup = prepare(
        make_config({"task": "quadratic", "nodes": 10, "topology": "nx:petersen_graph"})
    )
    assert setup.planner is not None
    next_planner(setup.planner, "auto", Membership.all_nodes(10).without([1]))


def _generous_in_the_end() -> None:
    def own(n: int, round: int) -> nx.Graph[int]:
        graph = nx.cycle_graph(n)
        nx.set_edge_attributes(graph, 0.9 if round >= 20 else 0.3, "weight")
        return graph

    Mixer.make(Topology(registry.build("topology", own), 4)).mixing(20)


def _optimizer(**settings: Any) -> Any:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    return registry.bind(registry.find("optimizer", "muon_lite"), settings)([weight])


def _interrupted_sweep() -> None:
    def stopped(*given: Any) -> None:
        raise Interrupted("stop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decentral.sweeps.running.run_point", stopped)
        several.sweep(["seed=0,1"], {"out": "swept"}, quiet=True)


def _stopped_side_by_side() -> None:
    stopping = threading.Event()
    stopping.set()
    nothing: Any = None
    list(running._SideBySide(Path(), nothing, nothing, nothing, stopping).train({}))


def _without_compiler() -> None:
    def compiled(*_: Any, **__: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("no compiler\nand how to get one")

        return fail

    with patch.object(torch, "compile", compiled):
        decentral.launch(task="quadratic", nodes=2, steps=2, compile="default")


class Installed:
    """An entry point whose module ends the program."""

    name, value = "wheel", "wheels:wheel"

    @staticmethod
    def load() -> None:
        raise SystemExit(0)


def _raise(error: BaseException) -> None:
    raise error


def _tired() -> Callable[..., torch.Tensor]:
    calls = count()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if next(calls) == 9:
            raise ValueError("tired")
        return (outputs - targets).square().mean()

    return loss


def _port_in_use() -> None:
    with patch(
        "socketserver.TCPServer.server_bind", lambda _: _raise(OSError(98, "In use"))
    ):
        Server(Path(), 8000)


def _full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def _second_writer() -> None:
    with WriterLock(Path("written")):
        WriterLock(Path("written"))


def _replaced() -> None:
    """Another host has taken over meanwhile."""
    with WriterLock(Path("written")) as lock:
        there = {"host": "elsewhere", "pid": 7, "since": "2026-01-01"}
        Path("written/.lock").write_text(json.dumps(there))
        lock.alive_s = 0.0
        lock.check()


THREE = Ranks("srun", 0, 3, True, ("10.0.0.1", 0), True, "7.0", 0, 0)


def _meet(come: Sequence[int], ranks: Ranks = THREE) -> None:
    """Meet, with those that come and do not connect."""
    store, refused = (
        "decentral.exchange.process_group.join_store",
        RuntimeError("refused"),
    )
    with (
        patch("decentral.engines.ranks.CHECK_IN_S", 0.1),
        patch(store, side_effect=refused),
    ):
        meeting = Meeting(ranks)
        for rank in come:
            meeting.store.set(f"{meeting.prefix}/in/{rank}", "here")
        meeting.gather()


def _ranks_run(**known: Any) -> Any:
    """Return a run of ranks of which only this is known."""
    run = torchrun.TorchrunRun.__new__(torchrun.TorchrunRun)
    vars(run).update(workers=3, announce=lambda *_: None, **known)
    return run


def _in_events() -> Any:
    return SimpleNamespace(in_events=True, algorithm=SimpleNamespace(name="ad_psgd"))


def _lost_rank() -> None:
    place, group = SimpleNamespace(path=Path("runs/mine")), SimpleNamespace(step=4)
    run = _ranks_run(
        meeting=SimpleNamespace(ranks=THREE), folder=place, group=group, starter="srun decentral",
        members=Membership.all_nodes(3),
    )  # fmt: skip
    _raise(run._explain_loss(WorkersLost([1], PROCESS_DIED)))


def _other_checkpoint() -> None:
    plain = {
        "settings": {}, "past": None, "blocks": [[0, 1]], "live": [0], "epoch": 0, "step": 8,
        "rendezvous": {"rank": 1, "world": 3, "store": ["", 1], "address": "", "timeout_s": 1,
                       "prefix": ""},
        "folder": "runs/mine",
    }  # fmt: skip
    with patch.object(rank_group, "newest_checkpoint", lambda _: SimpleNamespace(step=4)):
        rank_group.read_job(plain, make_config({}))


RANKS: dict[str, Callable[[], Any]] = {
    "a rank that reaches nobody": lambda: _meet([], replace(THREE, serves=False, rank=1)),
    "ranks that do not come": lambda: _meet([1]),
    "ranks that do not connect": lambda: _meet([1, 2]),
    "ranks that change a run": lambda: refuse_changing_ranks(THREE),
    "ranks without a launcher": lambda: torchrun.TorchrunRun(
        make_config({"engine": "torchrun"})
    ),
    "more workers than ranks": lambda: torchrun.check_count(
        make_config({"engine": {"workers": 4}}), THREE
    ),
    "more ranks than nodes": lambda: torchrun.check_count(
        make_config({"nodes": 2}), THREE
    ),
    "more ranks than nodes that are left": lambda: _ranks_run().restore(
        SimpleNamespace(live=(0, 1), counters={"epoch": 1})
    ),
    "a rank of another disk": lambda: torchrun.RankGroup.__new__(
        torchrun.RankGroup
    )._call(1, "read", ()),
    "ranks and events": lambda: torchrun.refuse_events(_in_events()),
    "a rank with another checkpoint": _other_checkpoint,
    "a rank that is lost": _lost_rank,
}

FROM_PYTHON: dict[str, Callable[[], Any]] = {
    "no compiler": _without_compiler,
    "claim: a loss that is never reached": lambda: _seconds_to(
        0.1, Curve("swift", [0.0, 1.0], [2.0, 1.0])
    ),
    "sweep: interrupted": _interrupted_sweep,
    "sweep: stopped side by side": _stopped_side_by_side,
    "plugin: unknown kind": lambda: registry.plugin("topologies"),
    "names: unknown kind": lambda: registry.names("topologies"),
    "find: unknown kind": lambda: registry.find("topologies", "ring"),
    "plug-in is None": lambda: parse_spec(None, "topology"),
    "compare: nothing": lambda: compare([]),
    "merge: nobody left": lambda: merge_weights(
        registry.build("merge", "uniform"), torch.ones(2), frozenset({0, 1})
    ),
    "merge: equal models only": lambda: differing(
        prepare(make_config({"task": "quadratic", "nodes": 4})), []
    ),
    "analyze: one model": lambda: decentral.launch(
        task="quadratic", nodes=1, steps=2, out="single"
    ).analyze(),
    "merged model of an unfinished run": lambda: api.Run(Path("empty")).merged_model(),
    "a folder in use": _second_writer,
    "a folder that was taken over": _replaced,
    "an installed plug-in that exits": lambda: load_installed("topology", Installed),
    "a loss that raises in the run": lambda: decentral.launch(
        task=Task(loss=_tired(), train=(torch.ones(9, 2), torch.ones(9, 1))),
        model=lambda: torch.nn.Linear(2, 1),
        nodes=2,
        steps=9,
        replicas="loop",
        out="weary",
    ),
    "an optimizer of torch that refuses its gradients": lambda: decentral.launch(
        task="quadratic", nodes=2, steps=2, optimizer="torch.optim.SparseAdam"
    ),
    "out of memory": lambda: reraise(MemoryError("9 GB")),
    "serve: a port that is in use": _port_in_use,
    "an actor on a full disk": lambda: _raise(worker_error(_full(), "")),
    "an actor without a module": lambda: _raise(
        worker_error(ImportError("no", name="mine"), "")
    ),
    "an exit in a worker": lambda: _raise(
        describe_error(SystemExit(0), make_config({}))["error"]
    ),
    "one process of several": lambda: refuse_ranks(
        None, {"RANK": "0", "WORLD_SIZE": "2"}
    ),
    "a run that is to change": lambda: api.restart(Path("empty"), nodes=3),
    "a topology that cannot form again": _without_a_node,
    "weights above 1 in a late round": _generous_in_the_end,
    **CLUSTERS,
    **DATA,
    **MODELS,
    **GOSSIP,
    **GRAPH_CALLS,
    **OWN,
    **PYTHON,
    **RANKS,
    "grad_power: not positive": lambda: grad_power(
        torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), p=0
    ),
    "LITE: unknown block": lambda: _optimizer(chi={"kq": 2}),
    "LITE: chi below 1": lambda: _optimizer(chi={"qk": 0.5}),
    "LITE: a share above 1": lambda: _optimizer(sharp={"qk": 2}),
    **THEORY,
    "a built model for independent nodes": lambda: decentral.launch(
        model=torch.nn.Linear(64, 10), init="independent"
    ),
    "not a model": lambda: decentral.launch(model=lambda: 3),
}


@pytest.mark.parametrize("name", FROM_PYTHON)
def test_from_python(name: str, bench: Path, book: Book) -> None:
    with inside(bench), pytest.raises((ConfigError, RunError)) as caught:
        FROM_PYTHON[name]()
    assert "\n" not in str(caught.value)
    book.check(name, f"{type(caught.value).__name__} {caught.value}", bench)


def test_snapshot_holds_nothing_else(book: Book, request: pytest.FixtureRequest) -> None:
    whole = {item.name for item in request.session.items if item.path == Path(__file__)}
    if book.writing or len(whole) <= len(CASES) + len(FROM_PYTHON):
        pytest.skip(
            "needs all tests of this file, and a snapshot that is not being written"
        )
    assert set(book.kept) - set(book.seen) <= {"folder without permission", "full disk"}


def test_every_error_of_the_package_is_here(
    book: Book, request: pytest.FixtureRequest
) -> None:
    """Whoever adds a message adds the input that produces it."""
    here = [item for item in request.session.items if item.path == Path(__file__)]
    if len(here) <= len(CASES) + len(FROM_PYTHON):
        pytest.skip("needs all tests of this file to run before it")
    missing = [
        f"{place.relative_to(PACKAGE)}:{first}"
        for place, first, last in _makers()
        if not any((str(place), line) in book.raised for line in range(first, last + 1))
    ]
    assert not missing


def test_errors_lead_to_every_page_that_helps(
    book: Book, request: pytest.FixtureRequest
) -> None:
    here = [item for item in request.session.items if item.path == Path(__file__)]
    if len(here) <= len(CASES) + len(FROM_PYTHON):
        pytest.skip("needs all tests of this file to run before it")
    led_to = {page_of(said.removeprefix("error: ")) for said in book.said}
    assert set(PAGES.values()) <= led_to


def test_other_words_for_the_same_are_as_good_and_what_is_not_named_is_missed() -> None:
    named = facts(
        "error: nodes = 0: it must be above 0; write --nodes 4.", "launch --nodes 0"
    )
    assert named == ["nodes", "0", "--nodes", "4"]
    assert named == facts("error: nodes is 0; let it be more, by --nodes, such as 4.")
    assert "4" not in facts("error: nodes = 0: give more by --nodes.")


def _makers() -> Iterator[tuple[Path, int, int]]:
    """Find where the package makes errors for users: file, first and last line."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if (
                node.func.id
                in ("ConfigError", "Interrupted", "PluginError", "RunError", "unknown")
                and path.name != "errors.py"
            ):
                yield path, node.lineno, node.end_lineno or node.lineno
