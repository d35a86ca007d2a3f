"""Models as people write them, from training to export: every model on every way at least once.

A case takes one value of each axis: how gradients are computed, on how many workers, how rows
meet, and what is done with the models. Here every model is compared with its reference once, by
vmap where that can be, and resumed; one in two is exported, the others analysed. Over all models
every two values of different axes meet. The whole product is a soak test, and so is Ray.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import exchanges, silent, tiny_setup, together
from torch import Tensor
from zoo import ZOO, Kind

import decentral
from decentral import ConfigError
from decentral.exchange.base import LocalExchange
from decentral.loop import analysis, train
from decentral.loop.adapting import spread_inputs
from decentral.loop.analysis import Analysis, Extent
from decentral.loop.block import Block
from decentral.loop.exporting import export
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import checkpoint_of, restore
from decentral.loop.setup import Setup
from decentral.loop.trained import TrainedModels
from decentral.pytree import leaves
from decentral.run.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from decentral.run.folder import RunFolder

NODES, STEPS, HALF = 3, 3, 1

#: Nodes of every worker.
WORKERS = {"one process": (NODES,), "two workers": (1, 2)}
WAYS: dict[str, dict[str, Any]] = {
    "gossip": {
        "topology": "nx:path_graph",
        "communication": "constant(final_merge=false)",
    },
    "all-reduce": {"algorithm": "allreduce"},
    "final merge": {"communication": "none(final_merge=true)"},
}


@dataclass(frozen=True)
class Case:
    """One value of each axis, for a model."""

    model: str
    rows: str
    workers: str
    way: str
    then: str

    def __str__(self) -> str:
        return ", ".join((self.model, self.rows, self.workers, self.way, self.then))


@dataclass
class Trained:
    """A run that has ended: its blocks, the last metrics, the state of the merge, checkpoints."""

    setup: Setup
    blocks: list[Block]
    last: dict[str, Any]
    state: dict[str, Tensor]
    half: Checkpoint
    end: Checkpoint

    @property
    def rows(self) -> Tensor:
        """All rows, in node order."""
        return torch.cat([block.rows for block in self.blocks])


# --- training -------------------------------------------------------------------------------------


def setup_of(kind: Kind, rows: str, way: str) -> Setup:
    """Prepare a run of a model of the zoo."""
    return tiny_setup(
        task=kind.task(), nodes=NODES, steps=STEPS, local_steps=1, batch=4, eval_every=STEPS,
        dtype="float64", mixing="ordered", replicas=rows, **WAYS[way],
    )  # fmt: skip


def blocks_of(setup: Setup, workers: str) -> list[Block]:
    """Return a block for every worker."""
    sizes = WORKERS[workers]
    if len(sizes) == 1:
        return [Block(setup, LocalExchange(NODES, ordered=True), silent)]
    return [Block(setup, exchange, silent) for exchange in exchanges(sizes)]


def joined(parts: list[Checkpoint]) -> Checkpoint:
    """Return the checkpoint of all workers."""
    nodes = {node: tensors for part in parts for node, tensors in part.nodes.items()}
    return copy.deepcopy(replace(parts[0], nodes=nodes))


def ended(
    block: Block,
) -> tuple[dict[str, Any], dict[str, Tensor], Checkpoint | None, Checkpoint]:
    """Train a block from where it stands; return metrics, merged state, and checkpoints."""
    evaluator, half, last = Evaluator(block), None, {}
    for row in train(block, evaluator):
        last = row
        if row["step"] == HALF and half is None:
            half = copy.deepcopy(checkpoint_of(block))
    return last, evaluator.merged_state(), half, checkpoint_of(block)


def run(setup: Setup, workers: str) -> Trained:
    """Train a model from the beginning to the end."""
    blocks = blocks_of(setup, workers)
    found = together(ended, blocks)
    halves = [half for _, _, half, _ in found if half is not None]
    last, state = found[0][:2]
    return Trained(
        setup, blocks, last, state, joined(halves), joined([one[3] for one in found])
    )


def chosen(kind: Kind, rows: str, way: str) -> Setup:
    """Prepare a run; what vmap cannot run is refused before it begins, with what can."""
    setup = setup_of(kind, rows, way)
    if rows == "loop" or kind.vmap:
        return setup
    with pytest.raises(
        ConfigError, match=r"^replicas: vmap cannot .*; use replicas=loop\.$"
    ):
        blocks_of(setup, "one process")
    return setup_of(kind, "auto", way)


@cache
def reference(model: str, way: str) -> Trained:
    """Return the run of which every other way of computing must give the same."""
    return run(setup_of(ZOO[model], "loop", way), "one process")


# --- and then -------------------------------------------------------------------------------------


def saved(trained: Trained, folder: Path, at: Checkpoint) -> Any:
    """Return a checkpoint as it lies on disk."""
    out = RunFolder.create(folder / f"run-{at.step}")
    save_checkpoint(out, at, 1)
    return newest_checkpoint(out.path)


def resume(trained: Trained, workers: str, folder: Path) -> None:
    """What goes on from the middle of a run ends with the same bits."""
    there = saved(trained, folder, trained.half)
    again = blocks_of(trained.setup, workers)
    for block in again:
        restore(block, there.load(there.live))
    together(ended, again)
    assert torch.equal(torch.cat([block.rows for block in again]), trained.rows)
    for name in trained.setup.layout.integers:
        now = torch.cat([block.integers[name] for block in again])
        assert torch.equal(
            now, torch.cat([block.integers[name] for block in trained.blocks])
        )


def exported(trained: Trained, workers: str, folder: Path) -> None:
    """What is written computes what was merged, in a fresh module and as a program."""
    setup = trained.setup
    lines = export(setup, trained.state, {"run": "zoo", "merge": "uniform", "nodes": NODES,
                   "scores": {"loss": 1.0}}, folder / "out")  # fmt: skip
    args, named = spread_inputs(setup.train.take(torch.arange(2))[0])
    expected = list(leaves(tree_of(setup.module(trained.state)(*args, **named))))
    fresh = setup.module(load_file(folder / "out/model.safetensors"))
    assert all(map(torch.equal, leaves(tree_of(fresh(*args, **named))), expected))
    assert lines["PyTorch"].startswith(
        ("torch.export.load", "no program: torch.export cannot")
    )
    if lines["PyTorch"].startswith("torch"):
        program = torch.export.load(folder / "out/model.pt2").module()
        for one, other in zip(
            leaves(tree_of(program(*args, **named))), expected, strict=True
        ):
            torch.testing.assert_close(one, other)


def tree_of(returned: Any) -> Any:
    """Return the tensors of what a model returns."""
    if isinstance(returned, tuple):
        return tuple(part for part in returned if isinstance(part, Tensor))
    return dict(returned) if hasattr(returned, "keys") else returned


def analyzed(trained: Trained, workers: str, folder: Path) -> None:
    """Every figure of an analysis is a number."""
    models = TrainedModels(trained.setup, saved(trained, folder, trained.half))
    record = Analysis(models, Extent(1, 3, 4), lambda *_: None).record()
    assert len([value for value in numbers(record) if isinstance(value, float)]) > 20
    reason = record["curvature"].get("reason", "")
    assert reason == "" or reason.startswith(
        "curvature needs the second derivative of the loss"
    )


def numbers(value: Any) -> list[Any]:
    """Return everything within lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [x for part in value for x in numbers(part)]
        if isinstance(value, list)
        else [value]
    )


THEN: dict[str, Callable[[Trained, str, Path], None]] = {
    "resume": resume, "export": exported, "analyze": analyzed,
}  # fmt: skip


def check(case: Case, folder: Path, *also: str) -> None:
    """Train a model in one way, compare it with the reference, and use what came out."""
    expected = reference(case.model, case.way)
    trained = expected
    if (case.rows, case.workers) != ("loop", "one process"):
        trained = run(chosen(ZOO[case.model], case.rows, case.way), case.workers)
    assert trained.last["loss/merged"] == pytest.approx(
        expected.last["loss/merged"], rel=1e-9
    )
    torch.testing.assert_close(trained.rows, expected.rows, rtol=1e-7, atol=1e-9)
    for name, value in expected.state.items():
        torch.testing.assert_close(trained.state[name], value, rtol=1e-7, atol=1e-9)
    parameters = trained.setup.layout.trainable_view(trained.rows)
    alike = bool((parameters - parameters[0]).abs().max() < 1e-12)
    assert alike == (case.way != "gossip" and not differs(case))
    for then in {case.then, *also}:
        THEN[then](trained, case.workers, folder / then)


def differs(case: Case) -> bool:
    """Tell whether nodes differ although their gradients were averaged at every step."""
    return ZOO[case.model].rescales and case.way == "all-reduce"


# --- which cases ----------------------------------------------------------------------------------


AXES = {
    "rows": ("vmap", "loop"),
    "workers": tuple(WORKERS),
    "way": tuple(WAYS),
    "then": tuple(THEN),
}


def cover() -> list[Case]:
    """Return a case for every model, and one in which a loop is split among workers for some."""
    cases: list[Case] = []
    for place, (model, kind) in enumerate(ZOO.items()):
        # Relatives stand beside each other: they take turns.
        way, then = tuple(WAYS)[place % 3], ("export", "analyze")[place // 3 % 2]
        workers = "two workers" if place // 2 % 2 or not kind.vmap else "one process"
        cases.append(Case(model, "vmap", workers, way, then))
        if place % 7 == 0 and kind.vmap:
            cases.append(Case(model, "loop", "two workers", way, "resume"))
    return cases


def test_the_cases_cover_every_pair() -> None:
    cases = cover()
    assert [case.model for case in cases if case.rows == "vmap"] == list(ZOO)
    # A loop in one process is the reference, and every case is resumed.
    assert all(case.workers == "two workers" for case in cases if case.rows == "loop")
    for one, other in combinations(("workers", "way", "then"), 2):
        met = {(getattr(case, one), getattr(case, other)) for case in cases}
        assert met >= set(product(AXES[one], AXES[other])) - {("one process", "resume")}
    ways = {(case.rows, case.way) for case in cases}
    assert ways == set(product(AXES["rows"], AXES["way"]))


@pytest.mark.usefixtures("threads_may_evaluate")
@pytest.mark.parametrize("case", cover(), ids=str)
def test_zoo(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # of which noise is estimated: time, nothing else
    monkeypatch.setattr(analysis, "BATCHES", 4)
    check(case, tmp_path, "resume")


@pytest.mark.soak
@pytest.mark.usefixtures("threads_may_evaluate")
@pytest.mark.parametrize("model", ZOO)
def test_every_model_on_every_way(model: str, tmp_path: Path) -> None:
    """Whatever is done with a run begins with the same training: it is done once for all."""
    *training, uses = AXES.values()
    for place, values in enumerate(product(*training)):
        check(Case(model, *values, uses[0]), tmp_path / str(place), *uses[1:])


@pytest.mark.soak
@pytest.mark.needs("ray")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("model", ZOO)
def test_every_model_on_ray(model: str, tmp_path: Path) -> None:
    kind = ZOO[model]
    settings: dict[str, Any] = {
        "task": kind.task(), "nodes": NODES, "steps": STEPS, "local_steps": 1, "batch": 4,
        "eval_every": STEPS, "threads": 1, "topology": "nx:path_graph", "dtype": "float64",
    }  # fmt: skip
    found = decentral.launch(**settings, engine="ray(workers=2)", out=tmp_path / "ray")
    alone = decentral.launch(**settings, engine="local", out=tmp_path / "local")
    one, other = (run.summary["final"]["loss/merged"] for run in (found, alone))
    assert one == pytest.approx(other, rel=1e-6)
    found.export(tmp_path / "out")
