"""Sweeps from Python: over values, objects and seeds; what came out; what is known again."""

from __future__ import annotations

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from support import blobs
from torch import nn

import decentral
from decentral import ConfigError
from decentral.errors import Interrupted
from decentral.sweeps import running
from decentral.sweeps.objects import fingerprint, lasts
from decentral.sweeps.points import make_sweep

SMALL: dict[str, Any] = {"task": "quadratic", "steps": 8, "threads": 1, "quiet": True}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(folder: str = "sweeps/sweep") -> dict[str, float]:
    return {p.parent.name: p.stat().st_mtime for p in Path(folder).glob("*/summary.json")}


# --- what came out --------------------------------------------------------------------------------


def test_values_objects_and_seeds(folder: Path) -> None:
    graphs = {"ring": nx.cycle_graph(4), "star": nx.star_graph(3)}
    found = decentral.sweep(
        {"lr": np.array([0.1, 0.2]), "topology": graphs, "seed": 2}, **SMALL
    )
    frame = found.frame()
    assert frame[["lr", "topology", "seed"]].values.tolist() == [
        [lr, name, seed] for lr in (0.1, 0.2) for name in graphs for seed in (0, 1)
    ]
    run = found.runs[3]
    assert frame["loss/merged"][3] == run.summary["final"]["loss/merged"]
    assert frame["run"][3] == run.path.name
    means = found.means.frame()
    some = frame[(frame.lr == 0.1) & (frame.topology == "star")]["loss/merged"]
    assert means["runs"].tolist() == [2] * 4
    assert means["loss/merged"][1] == pytest.approx(some.mean())
    assert means["loss/merged std"][1] == pytest.approx(some.std())
    best = found.best("loss")
    assert best["loss/merged"] == means["loss/merged"].min()
    assert found.best() == best
    with pytest.raises(ConfigError, match="nothing is called 'los'"):
        found.best("los")
    assert {"sweep.html", "results.csv"} <= {p.name for p in found.folder.iterdir()}
    shown = found._repr_html_()
    assert "<svg" in shown
    assert "star" in shown


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    def line(n: int) -> nx.Graph:
        return nx.path_graph(n)

    axes: dict[str, Any] = {"topology": [line, nx.cycle_graph(4)], "seed": range(2)}
    given: dict[str, Any] = {**SMALL, "nodes": 4, "metrics": ["loss", spread]}
    first = decentral.sweep(axes, **given)
    before = finished()
    assert len(before) == 4
    again = decentral.sweep(axes, **given)
    assert finished() == before
    assert list(again) == list(first)
    assert again.runs[0].model("mean") is not None  # with the parts it was made of
    # Another graph, or a function that computes something else, is another point.
    more = {"topology": [lambda n: nx.star_graph(n - 1), nx.path_graph(4)], "seed": [0]}
    decentral.sweep(more, **given)
    assert len(finished()) == 6


def spread(snapshot: Any) -> dict[str, float]:
    return {"own/spread": snapshot.rows.std().item()}


def test_an_interrupted_point_with_objects_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its checkpoint, with the objects that no folder holds."""

    def model() -> nn.Module:
        return nn.Linear(6, 4)

    given: dict[str, Any] = {**SMALL, "task": blobs(), "nodes": 3, "model": model}
    begin = running.api.begin_run

    def stop(config: Any, path: Path) -> Any:
        run = begin(config, path)

        def watch(row: Any) -> None:
            if row["step"] >= 5:
                raise Interrupted("by hand")

        run.run(watch)

    with monkeypatch.context() as patch:
        patch.setattr("decentral.sweeps.running.api.begin_run", stop)
        with pytest.raises(Interrupted, match="The same call goes on"):
            decentral.sweep({"seed": 2}, **given, log_every=1, checkpoint_every=1)
    found = decentral.sweep({"seed": 2}, **given, log_every=1, checkpoint_every=1)
    events = (found.runs[0].path / "events.jsonl").read_text()
    assert '"resume"' in events
    assert len(found) == 2


def test_a_failure_is_kept_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(n: int) -> nx.Graph:
        raise ValueError("no road")

    axes = {"topology": {"none": broken, "ring": "ring"}}
    found = decentral.sweep(axes, **{**SMALL, "nodes": 4, "quiet": False})
    assert [one["topology"] for one in found] == ["ring"]
    assert "no road" in found.failures["topology=none"]
    assert "topology=none failed" in capsys.readouterr().err
    assert "no road" in found._repr_html_()


def test_axes_are_labelled() -> None:
    pair = [nx.cycle_graph(3), nx.path_graph(3)]
    optimizers = [partial(torch.optim.SGD, lr=0.1), torch.optim.Adam]
    axes = {"topology": pair, "optimizer": optimizers, "clip": [None, 1.0]}
    found = make_sweep({}, {"task": "quadratic"}, axes).points
    assert [tuple(one.labels.values()) for one in found[::2]] == [
        (graph, name, "none") for graph in ("Graph", "Graph 2") for name in ("SGD", "Adam")
    ]  # fmt: skip
    assert found[1].values["clip"] == 1.0


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({}, "this sweep has one point"),
        ({"lr": 0.1}, "lr needs a list of values"),
        ({"steps": [1, 2]}, "steps is an axis of the sweep and a keyword; keep one."),
        ({"sped": [1]}, "unknown setting 'sped'. Did you mean 'seed'"),
    ],
)
def test_axes_that_are_wrong(axes: Any, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        decentral.sweep(axes, **SMALL)
    assert said in str(found.value)


# --- what is known again --------------------------------------------------------------------------


FILE = '''
import functools, networkx as nx, numpy as np, torch
from torch.nn import functional as F
import decentral
from decentral.sweeps.objects import fingerprint

WIDTH = 3

class Net(torch.nn.Module):
    """A net."""
    def __init__(self, width=WIDTH):
        super().__init__()
        self.body = torch.nn.Linear(width, 2)
    def forward(self, x):
        return self.body(x)

class Rule:
    scale = 2
    def __init__(self, shift):
        self.shift = shift
    def __call__(self, progress, feedback):
        return self.shift * self.scale

def make(times):
    def graph(n):
        return nx.circulant_graph(n, range(1, times + 1)) if n > WIDTH else nx.path_graph(n)
    return graph

torch.manual_seed(0)
x = torch.randn(40, 3)
task = decentral.Task(loss=F.cross_entropy, train=(x, (x[:, 0] > 0).long()), model=lambda: Net(3))
objects = [make(2), make(3), Rule(1), Rule(2), Rule(1).__call__, Net, Net(), task,
           functools.partial(torch.optim.SGD, lr=0.1), nx.cycle_graph(5), np.arange(3), {1, 2, 3},
           torch.optim.Adam, lambda n: {"a": n, "b": ...}, len, nx.path_graph(5)]
print([fingerprint(one) for one in objects])
'''


def test_objects_have_the_same_digest_in_another_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And different objects have different ones."""
    (tmp_path / "mine.py").write_text(FILE)
    command = [sys.executable, str(tmp_path / "mine.py")]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    runpy.run_path(str(tmp_path / "mine.py"), run_name="__main__")
    here = capsys.readouterr().out
    found = eval(here)
    assert here == elsewhere
    assert len(set(found)) == len(found)
    assert not any(one.startswith("here-") for one in found)


def test_what_a_function_names_is_part_of_it() -> None:
    def built(source: str) -> Any:
        names: dict[str, Any] = {}
        exec(compile(source, "mine.py", "exec"), names)
        return fingerprint(names["f"])

    plain = "K = 1\ndef g(x): return x + K\ndef f(x): return g(x)"
    assert built(plain) == built(plain)
    assert built(plain) != built(plain.replace("K = 1", "K = 2"))
    assert built(plain) != built(plain.replace("x + K", "x - K"))
    assert built(plain) != built(plain.replace("f(x):", "f(x=3):"))


def test_an_object_without_a_digest_is_no_other() -> None:
    """Its state is hidden: it is known again within this process only."""
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)
    assert not lasts(one)
    assert not lasts(lambda: one)
    assert not lasts(iter([1, 2]))
    assert lasts(lambda: torch.tensor([1.0]))


def test_a_sweep_of_objects_without_digests_runs_each() -> None:
    def drawing(seed: int) -> Any:
        draw = np.random.default_rng(seed)
        return lambda n: nx.gnp_random_graph(n, 1.0, seed=int(draw.integers(9)))

    axes = {"topology": {"a": drawing(0), "b": drawing(0)}}
    assert len(decentral.sweep(axes, nodes=3, **SMALL)) == 2
