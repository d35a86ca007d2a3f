"""Errors say whose they are, and where: a user's plug-in, in file and line, or decentral itself."""

from __future__ import annotations

import errno
import json
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from plugins import HEADS, asked, written
from support import exchanges, planted, silent, together, walk
from torch import nn

import decentral
import decentral.cli
from decentral import blame, plugins, registry
from decentral.blame import attribute, judge
from decentral.claims.trials import trial
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.engines.worker import describe_error
from decentral.errors import (
    Bug,
    ConfigError,
    Place,
    PluginError,
    RunError,
    in_words,
    worker_error,
)
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.preparing import prepare
from decentral.registry import KINDS, build, find
from decentral.run.folder import RunFolder
from decentral.sweeps import read_sweep, run_points
from decentral.userfile import load_file


def fails(kind: str, part: Any, out: Path) -> str:
    """Return what a run says that calls a plug-in which raises."""
    if kind == "claim":
        return trial(part, out, print, seeds=(0,)).outcome()["error"]
    with pytest.raises((ConfigError, RunError)) as caught:
        decentral.launch(**asked(kind, part), out=str(out))
    return str(caught.value)


def its_own(kind: str, said: str, file: Path, line: int = 6) -> bool:
    """Whether a message says that a plug-in has divided by zero on a line of a file."""
    wanted = f"{kind} 'own' raised ZeroDivisionError: division by zero ({file}:{line})."
    assert "bug" not in said
    assert "decentral resume" not in said
    return said == wanted or said.startswith(f"{wanted} Run folder: ")


# --- a user's plug-in -----------------------------------------------------------------------------


def test_there_is_a_case_for_every_kind() -> None:
    assert HEADS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind != "tracker"])
def test_what_a_plug_in_raises_is_said_with_file_and_line(
    kind: str, tmp_path: Path
) -> None:
    file = written(tmp_path, kind)
    assert its_own(kind, fails(kind, f"{file}:own", tmp_path / "run"), file)


PYTHONS = [
    "topology",
    "merge",
    "algorithm",
    "optimizer",
    "compute",
    "attack",
    "fault",
    "metric",
]


@pytest.mark.parametrize("kind", PYTHONS)
def test_a_function_given_in_python_is_said_with_file_and_line(
    kind: str, tmp_path: Path
) -> None:
    file = written(tmp_path, kind)
    assert its_own(kind, fails(kind, load_file(str(file)).own, tmp_path / "run"), file)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("topology", "import networkx; return networkx.path_graph(n + 1)", "has 5 nodes"),
        (
            "topology",
            "import networkx; return networkx.empty_graph(n)",
            "is disconnected",
        ),
        (
            "topology",
            "import networkx as nx; g = nx.cycle_graph(n); "
            "nx.set_edge_attributes(g, 2.0, 'weight'); return g",
            "prescribes mixing weights",
        ),
        (
            "network",
            "from decentral.network.links import uniform; return uniform(n + 1, 0.1, 1e6)",
            "has 5 nodes",
        ),
        ("model", "import torch; return torch.nn.Linear(5, 2)", ", in evaluation mode"),
    ],
)
def test_what_does_not_fit_the_run_is_said_with_name_file_and_line(
    kind: str, body: str, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, kind, body)
    sentence = f"{kind} 'own' ({file}:3){'' if said[0] == ',' else ' '}{said}"
    assert sentence in fails(kind, f"{file}:own", tmp_path / "run")


def test_what_we_refuse_within_a_users_maker_is_said_with_name_file_and_line(
    tmp_path: Path,
) -> None:
    body = """
import torch
from decentral import Task
return Task(loss=torch.nn.functional.mse_loss, train=(torch.full((9, 2), torch.nan),) * 2)
"""
    file = written(tmp_path, "task", body)
    said = fails("task", f"{file}:own", tmp_path / "run")
    assert said.startswith(f"task 'own' ({file}:9): train: sample 0 holds nan; ")


def test_numbers_that_vanish_in_a_run_name_what_is_the_users_own(tmp_path: Path) -> None:
    body = "block.gradient(); block.adapt(); block.rows.mul_(float('nan'))"
    file = written(tmp_path, "algorithm", body)
    said = fails("algorithm", f"{file}:own", tmp_path / "run")
    assert "node 0 became NaN or infinite at step 2; " in said
    assert f" Of your own in this run: algorithm 'own' ({file}:3)." in said
    plain = asked("merge", "uniform") | {"learning_rate": "constant(lr=1e30)"}
    with pytest.raises(RunError, match="became NaN or infinite") as caught:
        decentral.launch(**plain, out=str(tmp_path / "diverged"))
    assert "Of your own" not in str(caught.value)


def test_a_tracker_is_left_out_and_said_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "tracker")
    run = LocalRun(make_config(asked("tracker", f"{file}:own") | {"steps": 1}))
    run.begin(RunFolder.create(tmp_path / "run"))
    run.run(lambda row: None)
    said = f"tracker own failed (ZeroDivisionError: division by zero, {file}:6); the run goes on"
    assert said in capsys.readouterr().err


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str = "own"
) -> Path:
    """Install a package of one file, as pip would, that offers a topology by an entry point."""
    file = folder / "site-packages" / "offered" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    monkeypatch.syspath_prepend(folder / "site-packages")
    monkeypatch.setattr(blame, "_adopted", set())
    monkeypatch.delitem(sys.modules, "offered", raising=False)
    point = EntryPoint(name, f"offered:{name}", "decentral.topologies")

    def points(group: str) -> list[EntryPoint]:
        return [point] if group == point.group else []

    monkeypatch.setattr(plugins, "entry_points", points)
    return file


def test_an_installed_plug_in_is_said_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = installed(tmp_path, monkeypatch, "def own(n):\n    return 1 / 0\n")
    assert its_own("topology", fails("topology", "own", tmp_path / "run"), file, 2)


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.left = 30

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise KeyError("late")
        return self.inner(x)

def own(shape, outputs):
    return Net()

class Lost(nn.Module):
    def __init__(self, *given):
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x):
        return self.inner(x[:, :5])
"""
TASK = """
import torch
from torch import nn
from decentral import Task

left = 30

def loss(outputs, targets):
    global left
    left -= 1
    if left < 0:
        raise KeyError("late")
    return nn.functional.cross_entropy(outputs, targets)

def own(nodes):
    pair = torch.randn(40, 6), torch.arange(40) % 4
    return Task(loss=loss, train=pair, model=lambda: nn.Linear(6, 4))
"""
OPTIMIZER = """
import torch

class Tired(torch.optim.SGD):
    left = 30

    def step(self):
        Tired.left -= 1
        if self.left < 0:
            raise KeyError("late")
        super().step()

def own(params):
    return Tired(params, lr=0.1)
"""


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [("model", NET, 13), ("task", TASK, 12), ("optimizer", OPTIMIZER, 10)],
)
def test_what_a_plug_in_has_made_is_said_with_file_and_line(
    kind: str, text: str, line: int, tmp_path: Path
) -> None:
    """It raises in the midst of a run, where no plug-in is called by its name."""
    file = tmp_path / "made.py"
    file.write_text(text)
    settings = asked(kind, f"{file}:own") | {"replicas": "loop"}
    settings |= {"model": None} if kind == "task" else {}
    with pytest.raises(RunError) as caught:
        decentral.launch(**settings, out=str(tmp_path / "run"))
    said = f"{kind} 'own' raised KeyError: 'late' ({file}:{line}). Run folder: {tmp_path / 'run'}."
    assert str(caught.value) == said


def test_what_a_library_refuses_of_a_part_is_that_parts_error(tmp_path: Path) -> None:
    """No line of the user's is within, but what was called for the user's part."""
    settings: dict[str, Any] = {"optimizer": "torch.optim.SparseAdam"}
    with pytest.raises(
        ConfigError, match=r"optimizer 'torch.optim.SparseAdam' cannot train rows"
    ):
        decentral.launch(
            **asked("merge", "uniform") | settings, out=str(tmp_path / "run")
        )
    with pytest.raises(
        ConfigError, match=r"watts_strogatz_graph' raised NetworkXError: k>n"
    ):
        build("topology", "nx:watts_strogatz_graph(k=9, p=0.1)")(4, 0)
    with pytest.raises(
        ConfigError, match=r"'sgd' raised ValueError: Nesterov momentum requires a"
    ):
        build("optimizer", "sgd(momentum=0, nesterov=true)")(
            [nn.Parameter(torch.ones(1))]
        )
    with pytest.raises(ConfigError, match=r"RAdam' raised ValueError: Invalid epsilon"):
        build("optimizer", "torch.optim.RAdam(eps=-1)")([nn.Parameter(torch.ones(1))])


def test_what_a_caller_raises_stays_what_it_is(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        raise Enough

    with pytest.raises(Enough):
        decentral.launch(
            **asked("merge", "uniform"), watch=stop, out=str(tmp_path / "run")
        )


# --- elsewhere ------------------------------------------------------------------------------------


LATE = """
block.gradient()
block.adapt()
block.combine(action)
assert block.progress.step < 3, "too late"
"""


@pytest.mark.parametrize("kind", ["algorithm", "model"])
def test_workers_in_threads_report_kind_name_file_and_line(
    kind: str, tmp_path: Path
) -> None:
    file = (
        written(tmp_path, "algorithm", LATE)
        if kind == "algorithm"
        else tmp_path / "net.py"
    )
    if kind == "model":
        file.write_text(NET)
    config = make_config(asked(kind, f"{file}:own") | {"replicas": "loop"})
    reports: list[dict[str, Any]] = []

    def work(block: Block) -> None:
        try:
            walk(block)
        except Exception as error:
            reports.append(describe_error(error, config))
            raise

    blocks = [Block(prepare(config), exchange, silent) for exchange in exchanges([2, 2])]
    with pytest.raises((PluginError, KeyError, threading.BrokenBarrierError)):
        together(work, blocks)
    errors = [pickle.loads(pickle.dumps(report["error"])) for report in reports]
    first = next(error for error in errors if isinstance(error, PluginError))
    assert (first.kind, first.name) == (kind, "own")
    assert first.place == Place(str(file), {"algorithm": 10, "model": 13}[kind])
    assert (
        first.said
        == {"algorithm": "AssertionError: too late", "model": "KeyError: 'late'"}[kind]
    )


def test_a_point_of_a_sweep_says_whose_error_it_was(tmp_path: Path) -> None:
    file = written(tmp_path, "merge")
    words = [f"merge=uniform,{file}:own", "task=quadratic", "nodes=2", "steps=2"]
    points = read_sweep(None, words, {}).points
    outcomes = dict(run_points(points, tmp_path / "sweep", lambda places: None))
    assert outcomes[0].state == "done"
    assert its_own("merge", outcomes[1].reason, file)


def test_an_error_travels_with_all_it_knows() -> None:
    place = Place("/somewhere/mine.py", 3)
    plugins = PluginError("metric", "own", "KeyError: 'a'", place)
    ours = Bug("KeyError: 'a'", place, None, "the trace", Path("there"))
    for error in (plugins, ours):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert vars(again) == vars(error)
        assert str(again) == str(error)


# --- faults of ours -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["built in", "a user's"])
def test_a_fault_of_ours_is_a_bug_with_its_traceback_in_the_run_folder(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalExchange, "mix", planted("exchange/base.py"))
    file = written(tmp_path, "algorithm", LATE)
    part = "dsgd" if algorithm == "built in" else f"{file}:own"
    with pytest.raises(Bug) as caught:
        decentral.launch(**asked("algorithm", part), out=str(tmp_path / "run"))
    called = "" if algorithm == "built in" else f", called from {file}:9"
    kept = tmp_path / "run" / "traceback.txt"
    assert str(caught.value) == (
        "this is a bug in decentral: KeyError: 'planted' (decentral/exchange/base.py:2"
        f"{called}); the traceback is in {kept}."
    )
    lines = kept.read_text().splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "KeyError: 'planted'"
    assert any("channels.py" in line for line in lines)


def test_a_fault_of_ours_in_a_plug_in_of_ours_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(find("algorithm", "dsgd"), target=planted("algorithms/gossip.py"))
    monkeypatch.setitem(registry._registered, ("algorithm", "dsgd"), broken)
    with pytest.raises(
        Bug, match=r"KeyError: 'planted' \(decentral/algorithms/gossip.py:2\)"
    ):
        decentral.launch(**asked("merge", "uniform"), out=str(tmp_path / "run"))


def test_a_fault_of_ours_before_a_run_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "decentral.loop.preparing.resolve_steps", planted("loop/preparing.py")
    )
    assert decentral.cli.run(["launch", "task=quadratic"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "error: this is a bug in decentral: KeyError: 'planted' (decentral/"
    )
    file = Path(first.rpartition(" ")[2].rstrip("."))
    assert file.read_text().startswith("Traceback")
    file.unlink()
    assert second == "Please report it, with that file."


def test_what_the_machine_refuses_is_nobodys_fault() -> None:
    for error, said in (
        (MemoryError(), "out of memory; use fewer nodes, or a smaller batch."),
        (
            RuntimeError("can't allocate memory: 9 GB."),
            "(can't allocate memory: 9 GB); use fewer",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ):
        found = attribute(error)
        assert type(found) is RunError
        assert said in str(found)


def test_a_fault_in_an_actor_is_a_bug_unless_it_lacks_a_module() -> None:
    assert isinstance(worker_error(KeyError("a"), "the trace"), Bug)
    lacking = worker_error(ModuleNotFoundError("no", name="mine"), "the trace")
    assert "a worker cannot import 'mine'; install it on every host" in str(lacking)


# --- the judgment ---------------------------------------------------------------------------------


def caught(work: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011
        work()
    return found.value


def test_frames_of_libraries_are_nobodys() -> None:
    error = caught(lambda: torch.zeros(2) @ torch.zeros(3))
    verdict = judge(error)
    assert verdict is not None
    assert verdict.owner == "user"
    assert verdict.place.file == __file__
    beside = caught(lambda: json.loads("{"))
    assert "json" in traceback.extract_tb(beside.__traceback__)[-1].filename
    assert judge(beside) is not None
    assert judge(beside).place.file == __file__


def test_the_cause_of_what_a_library_has_wrapped_counts() -> None:
    """As torch does with what its compiler runs into."""
    wrap = """
def call(work):
    try:
        work()
    except Exception as error:
        raise RuntimeError("while tracing") from error
"""
    library: dict[str, Any] = {}
    exec(compile(wrap, Path(torch.__file__).parent / "wrapping.py", "exec"), library)
    within: dict[str, Any] = {"call": library["call"]}
    place = Path(decentral.__file__).parent / "gradients" / "autograd.py"
    exec(compile("def run(work):\n    call(work)\n", place, "exec"), within)

    def divides() -> float:
        return 1 / 0

    verdict = judge(caught(lambda: within["run"](divides)))
    assert verdict is not None
    assert verdict.owner == "user"
    assert verdict.place.line == divides.__code__.co_firstlineno + 1


def test_long_and_empty_texts_stay_one_line() -> None:
    assert in_words(ValueError("a\nb  c.")) == "ValueError: a b c"
    assert in_words(ValueError()) == "ValueError"
    assert len(in_words(ValueError("x" * 9999))) < 330


def test_a_place_is_written_in_the_shorter_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Place(str(tmp_path / "mine.py"), 3)) == "mine.py:3"
    assert str(Place("/a.py", 3)) == "/a.py:3"
    assert str(Place(blame.__file__, 3)) == "decentral/blame.py:3"
    assert str(Place("<stdin>", 1)) == "<stdin>:1"


# --- what nobody uses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "raise OSError('no licence')",
        "import nothing_of_that_name",
        "def own(:",
        "exit(0)",
    ],
)
def test_a_broken_entry_point_is_listed_and_stops_nobody_else(
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed(tmp_path, monkeypatch, text)
    for words in ("list", "list topologies", "list topologies --nodes 4"):
        assert decentral.cli.run(words.split()) == 0
        out, err = capsys.readouterr()
        assert "own" in out
        assert not err
        if words != "list":
            assert "topology 'own' cannot be imported from offered:own: " in " ".join(
                out.split()
            )
    assert decentral.cli.run(["show", "topology", "ring", "--nodes", "4"]) == 0
    assert decentral.cli.run(["show", "topology", "own", "--nodes", "4"]) == 2
    assert "cannot be imported from offered:own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "group"), [("weights", "weights"), ("batch", "batches")]
)
def test_packages_offer_plug_ins_under_the_plural_of_the_kind(
    kind: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("own", "offered:own", f"decentral.{group}")
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: [point] if group == point.group else []
    )
    assert "own" in registry.names(kind)


def test_a_package_that_takes_a_name_of_ours_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, "raise OSError", name="ring")
    assert find("topology", "ring").target.__module__ == "decentral.topology.classic"
