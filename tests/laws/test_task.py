"""Laws of tasks, models and splits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import example, tiny_setup

from decentral import ConfigError
from decentral.config import make_config
from decentral.gradients import Batch, LoopGradient, VmapGradient
from decentral.loop.models import _NoDraws, builder_of
from decentral.loop.preparing import _task
from decentral.loop.setup import Setup
from decentral.registry import find, names
from decentral.sampling import Sampler
from decentral.tasks import Task
from decentral.tasks.splits import class_shares, shards
from decentral.traits import ModelTraits, traits_of

TASKS, MODELS, SPLITS = names("task"), names("model"), names("split")
NODES = 4
#: The model that a task brings.
OWN = "its own"

every_task = pytest.mark.parametrize("task", TASKS)
every_split = pytest.mark.parametrize("split", SPLITS)


@cache
def task_of(name: str) -> Task:
    """Return a small task."""
    return _task(make_config({"task": example("task", name), "nodes": NODES}), {})


@cache
def prepared(task: str, model: str = "", **settings: Any) -> Setup:
    """Return a tiny run on a task, with the first model that suits it unless one is named."""
    model = model or suitable(task)[0]
    given = {} if model == OWN else {"model": example("model", model)}
    try:
        return tiny_setup(task=example("task", task), nodes=NODES, **given, **settings)
    except ConfigError as refusal:
        if "pip install" in str(refusal):
            pytest.skip(str(refusal))
        raise


@cache
def suitable(task: str) -> list[str]:
    """Return the models for a task: its own, if it has one, or those that take its inputs."""
    if task_of(task).model is not None:
        return [OWN]
    return [model for model in MODELS if suits(task_of(task), model)]


def suits(task: Task, model: str) -> bool:
    """Tell by what a model says that it takes; whether numbers must be images, only it knows."""
    rule, shape, outputs = example("model", model), task.input_shape, task.outputs
    given = task.takes or task.gives
    if (traits_of(rule, ModelTraits).inputs or given) != given:
        return False
    try:
        with torch.device("meta"), _NoDraws():
            return given != "numbers" or bool(rule(shape, outputs))
    except ConfigError:
        return False


def pairs() -> list[Any]:
    """Return tasks with models: each of both at least once, the rest for the soak."""
    found: list[Any] = []
    tried: set[str] = set()
    for place, task in enumerate(TASKS):
        models = suitable(task)
        now = {*models} - tried or {models[place % len(models)]}
        tried |= now
        for model in models:
            marks = [] if model in now else [pytest.mark.soak]
            found.append(pytest.param(task, model, marks=marks))
    return found


PAIRS = pairs()
#: Of those whose gradient is meant to be that of their loss.
EXACT = [
    pair for pair in PAIRS
    if pair.values[1] == OWN
    or not traits_of(find("model", pair.values[1]), ModelTraits).surrogate
]  # fmt: skip


def test_every_model_is_tried_and_refuses_what_does_not_suit_it() -> None:
    suite = [pair.values for pair in PAIRS if not pair.marks]
    assert {model for _, model in suite} == {*MODELS, OWN}
    assert {task for task, _ in suite} == {*TASKS}
    for task in TASKS:
        made = task_of(task)
        unsuited = [] if made.model is not None else sorted({*MODELS} - {*suitable(task)})
        for model in unsuited:
            with pytest.raises(ConfigError, match="inputs have shape"):
                builder_of(make_config({"model": example("model", model)}), made, {})()


# --- tasks ----------------------------------------------------------------------------------------


@every_task
def test_a_task_is_the_same_each_time(task: str) -> None:
    once, again = (prepared.__wrapped__(task).task for _ in range(2))
    for mine, its in zip(once.splits, again.splits, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None and its is not None:
            assert torch.equal(mine.inputs, its.inputs)
            assert torch.equal(mine.targets, its.targets)


@every_task
def test_train_and_test_have_samples_of_one_shape(task: str) -> None:
    train, val, test = prepared(task).task.splits
    for part in (train, val, test):
        if part is not None:
            assert len(part) > 0
            inputs, targets = part.take(torch.arange(min(64, len(part))))
            assert len(part.inputs) == len(part.targets)
            assert inputs.shape[1:] == train.first.shape[1:]
            assert targets.shape[1:] == train.targets.shape[1:]
            assert torch.isfinite(inputs).all()


@every_task
def test_every_node_holds_samples_and_every_sample_has_one_owner(task: str) -> None:
    setup = prepared(task)
    plan = setup.plan
    held = [plan.members[i, : plan.sizes[i]] for i in range(NODES)]
    assert min(len(part) for part in held) >= 1
    assert sorted(np.concatenate(held)) == list(range(len(setup.task.splits[0])))
    assert setup.counts.sum(1).tolist() == [len(part) for part in held]


@pytest.mark.parametrize(("task", "model"), PAIRS)
def test_loss_and_gradient_are_finite_and_vmap_equals_a_loop(
    task: str, model: str
) -> None:
    setup = prepared(task, model, dtype="float64", init="independent")
    rows = setup.initial_rows(range(NODES))
    batch = Sampler(setup.train, setup.plan, range(NODES), seed=3).batch(0, 5)
    found = {}
    for kind in (VmapGradient, LoopGradient):
        integers = {k: torch.stack([v] * NODES) for k, v in setup.layout.integers.items()}
        grads, own = torch.zeros_like(rows), rows.clone()
        losses = kind(setup.model, setup.layout, setup.task.loss)(
            own, integers, batch, grads
        )
        assert torch.isfinite(losses).all()
        assert torch.isfinite(grads).all()
        assert grads.abs().max() > 0
        found[kind.kind] = losses, grads, own
    for stacked, looped in zip(found["vmap"], found["loop"], strict=True):
        torch.testing.assert_close(stacked, looped, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("task", "model"), EXACT)
def test_the_gradient_is_the_derivative_of_the_loss(task: str, model: str) -> None:
    """Along one direction, against central differences too small to meet a kink of ReLU."""
    setup = prepared(task, model, dtype="float64", init="independent")
    compute = LoopGradient(setup.model, setup.layout, setup.task.loss)
    batch = Sampler(setup.train, setup.plan, range(1), seed=3).batch(0, 5)
    row = setup.initial_rows([0])
    single = model != OWN and traits_of(find("model", model), ModelTraits).single
    size, accuracy = (2e-4, 2e-2) if single else (1e-8, 1e-4)
    way = torch.linspace(0, 40, row.shape[1], dtype=torch.float64).sin() * size
    way[setup.layout.trainable :] = 0
    grads = torch.zeros_like(row)
    compute(row.clone(), integers_of(setup), batch, grads)
    ahead = compute(row + way, integers_of(setup), batch, torch.zeros_like(row))
    behind = compute(row - way, integers_of(setup), batch, torch.zeros_like(row))
    slope = float(ahead - behind) / 2
    assert slope == pytest.approx(float((grads * way).sum()), rel=accuracy, abs=1e-13)


def integers_of(setup: Setup) -> dict[str, torch.Tensor]:
    return {k: v.clone().unsqueeze(0) for k, v in setup.layout.integers.items()}


# --- what a node sees -----------------------------------------------------------------------------


@every_task
@pytest.mark.parametrize("sampling", ["fixed", "resample"])
@given(
    cuts=st.lists(st.integers(1, 23), min_size=1, max_size=6), first=st.integers(0, 90)
)
@settings(max_examples=5)  # and back again
def test_the_kth_sample_of_a_node_is_the_same_whatever_the_batches_and_the_block(
    task: str, sampling: str, cuts: list[int], first: int
) -> None:
    setup = prepared(task, sampling=sampling)
    whole = Sampler(setup.train, setup.plan, range(NODES), seed=7).batch(
        0, first + sum(cuts)
    )
    for hosted in (range(NODES), range(1, 3)):
        sampler = Sampler(setup.train, setup.plan, hosted, seed=7)
        at = first
        for size in cuts:
            same(sampler.batch(at, size), whole, hosted, at, size)
            at += size
        same(sampler.batch(first, cuts[0]), whole, hosted, first, cuts[0])


def same(found: Batch, whole: Batch, hosted: range, at: int, size: int) -> None:
    here, span = slice(hosted.start, hosted.stop), slice(at, at + size)
    assert torch.equal(found.inputs, whole.inputs[here, span])
    assert torch.equal(found.targets, whole.targets[here, span])
    assert torch.equal(found.keys, whole.keys[here, span])


@every_task
def test_another_seed_gives_another_order(task: str) -> None:
    setup = prepared(task)
    orders = [
        Sampler(setup.train, setup.plan, range(NODES), seed).indices(0, 12)
        for seed in (0, 1)
    ]
    assert not np.array_equal(*orders)


# --- splits ---------------------------------------------------------------------------------------


def labels_of(classes: int, samples: int) -> np.ndarray:
    return np.random.default_rng(classes).integers(0, classes, samples)


@every_split
@given(
    classes=st.integers(2, 10), samples=st.integers(17, 300), nodes=st.integers(1, 17),
    seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=25)
def test_shards_are_disjoint_complete_never_empty_and_repeatable(
    split: str, classes: int, samples: int, nodes: int, seed: int
) -> None:
    rule, labels = example("split", split), labels_of(classes, samples)
    held = shards(rule, labels, nodes, seed)
    assert len(held) == nodes
    assert min(map(len, held)) >= 1
    assert sorted(np.concatenate(held)) == list(range(samples))
    again = shards(rule, labels, nodes, seed)
    assert all(np.array_equal(a, b) for a, b in zip(held, again, strict=True))


@every_split
@given(nodes=st.integers(1, 20), seed=st.integers(0, 9))
@settings(max_examples=15)
def test_every_class_is_divided_completely(split: str, nodes: int, seed: int) -> None:
    share = class_shares(example("split", split), labels_of(5, 200), nodes, seed)
    assert share.shape == (5, nodes)
    assert share.min() >= 0
    np.testing.assert_allclose(share.sum(1), 1.0)


@every_split
def test_more_nodes_than_samples_are_refused(split: str) -> None:
    with pytest.raises(
        ConfigError, match="5 training samples cannot give each of 6 nodes one"
    ):
        shards(example("split", split), labels_of(2, 5), 6, 0)


@every_split
def test_as_many_nodes_as_samples_hold_one_each(split: str) -> None:
    held = shards(example("split", split), labels_of(3, 9), 9, 0)
    assert [len(part) for part in held] == [1] * 9
