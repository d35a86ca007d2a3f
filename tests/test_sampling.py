"""Which sample a node sees, and how the samples are divided."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import blobs, tiny_setup
from torch import nn

from decentral import ConfigError, Task, rng
from decentral.api import start
from decentral.config import make_config, read_file
from decentral.loop.preparing import prepare
from decentral.loop.setup import resolve_config
from decentral.registry import build, plugin
from decentral.sampling import Sampler, plan_fixed, resample_plan
from decentral.tasks import Samples, holdout
from decentral.tasks.splits import Preferences, class_mixture, class_shares, shards

SIZES = (7, 12, 1, 33)


def numbered(count: int) -> Samples:
    return Samples(
        torch.arange(count, dtype=torch.float32).unsqueeze(1), torch.arange(count)
    )


def shards_of(sizes: tuple[int, ...]) -> list[np.ndarray]:
    return [
        np.array(part) for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    ]


def sampler(replacement: str, batch: int = 8, seed: int = 0) -> Sampler:
    plan = plan_fixed(shards_of(SIZES), replacement, batch)
    return Sampler(numbered(sum(SIZES)), plan, range(len(SIZES)), seed)


# --- epochs ---------------------------------------------------------------------------------------


@given(batch=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_every_epoch_visits_each_sample_once(batch: int, seed: int) -> None:
    """Without replacement, in batches that cross epochs as they like."""
    drawn = sampler("never", seed=seed)
    visits = np.concatenate(
        [drawn.indices(k * batch, batch) for k in range(120 // batch + 1)], 1
    )
    for node, (held, size) in enumerate(zip(shards_of(SIZES), SIZES, strict=True)):
        for epoch in range(visits.shape[1] // size):
            part = visits[node, epoch * size : (epoch + 1) * size]
            assert sorted(part) == held.tolist()


def test_epochs_and_nodes_differ_in_order() -> None:
    visits = sampler("never").indices(0, 99)
    assert not np.array_equal(visits[3, :33], visits[3, 33:66])
    equal = plan_fixed(shards_of((12, 12)), "never", 1)
    orders = Sampler(numbered(24), equal, range(2), 0).indices(0, 12) - np.array(
        [[0], [12]]
    )
    assert not np.array_equal(*orders)


def test_with_replacement_every_sample_is_equally_likely() -> None:
    visits = sampler("always").indices(0, 33_000)
    for held, size, row in zip(shards_of(SIZES), SIZES, visits, strict=True):
        counts = np.bincount(row - held[0], minlength=size)
        assert len(counts) == size
        assert np.abs(counts - 33_000 / size).max() <= 5 * np.sqrt(33_000 / size) * (
            size > 1
        )


def test_auto_replaces_only_where_a_shard_is_smaller_than_a_batch() -> None:
    plan = plan_fixed(shards_of(SIZES), "auto", batch=8)
    assert plan.replacement.tolist() == [True, False, True, False]
    assert plan_fixed(shards_of(SIZES), "always", 8).replacement.all()
    assert not plan_fixed(shards_of(SIZES), "never", 8).replacement.any()


def test_a_batch_holds_the_samples_of_its_indices() -> None:
    drawn = sampler("never")
    batch = drawn.batch(5, 6)
    index = drawn.indices(5, 6)
    assert batch.inputs.shape == (4, 6, 1)
    np.testing.assert_array_equal(batch.inputs[..., 0].numpy(), index)
    np.testing.assert_array_equal(batch.targets.numpy(), index)


def test_every_visit_has_a_key_of_its_own() -> None:
    keys = sampler("never").batch(0, 500).keys
    assert keys.unique().numel() == keys.numel()
    assert (keys >= 0).all()


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_micro_batches_are_the_batch_in_parts(sizes: list[int]) -> None:
    served = sampler("never")
    batch = served.batch(3, sum(sizes))
    begins = [3 + sum(sizes[:place]) for place in range(len(sizes))]
    parts = [served.batch(begin, size) for begin, size in zip(begins, sizes, strict=True)]
    for key in ("inputs", "targets", "keys"):
        assert torch.equal(
            torch.cat([getattr(p, key) for p in parts], 1), getattr(batch, key)
        )


# --- resampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 0.05])
def test_resampling_draws_a_class_by_preference_and_then_of_all_its_samples(
    alpha: float,
) -> None:
    """Preferences are those that the node drew, whatever others prefer."""
    labels = np.repeat(np.arange(4), [40, 10, 25, 25])
    rule = build("split", f"dirichlet(alpha={alpha})")
    mixture = class_mixture(rule, labels, 3, seed=1)
    shares = class_shares(rule, labels, 3, seed=1)
    if alpha >= 0.1:
        draw = rng.generator(1, "split/dirichlet")
        assert mixture == pytest.approx(draw.dirichlet(np.full(4, alpha), size=3).T)
    # The rows by which classes are dealt out are the same preferences.
    ratio = mixture / mixture.sum(1, keepdims=True)
    assert ratio == pytest.approx(shares, abs=1e-9)
    visits = Sampler(numbered(100), resample_plan(labels, mixture), range(3), 0)
    visited = visits.indices(0, 20_000)
    for node in range(3):
        seen = np.bincount(labels[visited[node]], minlength=4) / 20_000
        assert np.abs(seen - mixture[:, node]).max() < 4.5 * 0.5 / np.sqrt(20_000)
        for label in range(4):
            if mixture[label, node] > 0.1:  # every sample of a class is drawn
                drawn = set(visited[node][labels[visited[node]] == label])
                assert len(drawn) == (labels == label).sum()


def test_resampling_by_shares_has_of_a_class_what_a_node_would_hold() -> None:
    labels = np.repeat(np.arange(4), [40, 10, 25, 25])
    mixture = class_mixture(build("split", "iid"), labels, 3, seed=1)
    assert mixture == pytest.approx(np.tile([[0.4], [0.1], [0.25], [0.25]], 3))


def test_a_node_without_any_class_draws_from_all() -> None:
    labels = np.repeat(np.arange(2), [10, 30])
    rule = build("split", first_only)
    mixture = class_mixture(rule, labels, 2, 0)
    assert mixture == pytest.approx(np.array([[0.25, 0.25], [0.75, 0.75]]))
    rule = build("split", missing)
    mixture = class_mixture(rule, np.array([0, 0, 2]), 2, 0)
    assert mixture == pytest.approx(np.array([[1.0, 2 / 3], [0.0, 0.0], [0.0, 1 / 3]]))


def first_only(labels: np.ndarray, nodes: int, seed: int) -> np.ndarray:
    """Give the first node all of every class."""
    return np.array([[1.0, 0.0], [1.0, 0.0]])


def missing(labels: np.ndarray, nodes: int, seed: int) -> Preferences:
    """Prefer what there is, and what there is not."""
    return Preferences(np.array([[0.5, 0.0], [0.5, 1.0], [0.0, 0.0]]))


# --- splits ---------------------------------------------------------------------------------------

LABELS = np.random.default_rng(0).integers(0, 10, 4000)


def distributions(spec: str, nodes: int = 8) -> np.ndarray:
    """Return the class distribution of every node, [nodes, classes]."""
    held = shards(build("split", spec), LABELS, nodes, seed=0)
    counts = np.stack([np.bincount(LABELS[part], minlength=10) for part in held])
    return counts / counts.sum(1, keepdims=True)


@pytest.mark.parametrize("by", ["node", "class"])
def test_dirichlet_tends_to_iid_as_alpha_grows(by: str) -> None:
    overall = np.bincount(LABELS) / len(LABELS)
    skew = [
        np.abs(distributions(f"dirichlet(alpha={alpha}, by={by})") - overall)
        .sum(1)
        .mean()
        for alpha in (0.01, 1, 100, 100_000)
    ]
    assert skew == sorted(skew, reverse=True)
    assert skew[0] > 1.0
    assert skew[-1] < 0.02
    assert np.abs(distributions("iid") - overall).max() < 0.02


@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("nodes", [10, 11, 16])
def test_class_shards_hold_at_most_k_classes_and_all_classes_are_dealt(
    k: int, nodes: int
) -> None:
    held = shards(build("split", f"classes(k={k})"), LABELS, nodes, seed=0)
    assert max(len(set(LABELS[part])) for part in held) <= k
    assert set(LABELS[np.concatenate(held)]) == set(range(10))


def test_class_shards_cannot_hold_more_classes_than_there_are() -> None:
    with pytest.raises(ConfigError, match="k = 11, but the task has 10 classes"):
        shards(build("split", "classes(k=11)"), LABELS, 4, seed=0)


def test_quantity_skew_leaves_the_classes_alone_and_changes_the_amounts() -> None:
    overall = np.bincount(LABELS) / len(LABELS)
    rule = build("split", "quantity(alpha=1)")
    sizes = [len(part) for part in shards(rule, LABELS, 8, seed=0)]
    assert max(sizes) > 4 * min(sizes)
    large = np.array(sizes) > 200
    assert np.abs(distributions("quantity(alpha=1)")[large] - overall).max() < 0.02


def test_an_extreme_split_leaves_nobody_empty() -> None:
    held = shards(build("split", "dirichlet(alpha=0.0001)"), LABELS[:60], 50, seed=0)
    assert min(map(len, held)) >= 1
    assert sum(map(len, held)) == 60


def test_a_split_of_the_wrong_shape_is_named() -> None:
    def broken(labels: np.ndarray, nodes: int, seed: int) -> np.ndarray:
        return np.ones((2, nodes))

    with pytest.raises(
        ConfigError, match=r"split 'broken' returned shares of shape \[2, 4\]"
    ):
        shards(build("split", broken), LABELS, 4, seed=0)


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-300])
def test_ever_smaller_concentrations_tend_towards_one_class_per_node(
    alpha: float,
) -> None:
    labels = np.repeat(np.arange(10), 200)
    held = shards(
        build("split", {"name": "dirichlet", "alpha": alpha}), labels, 100, seed=0
    )
    kinds = [len(np.unique(labels[part])) for part in held]
    assert np.mean(kinds) < 1.1
    assert sum(map(len, held)) == len(labels)


@pytest.mark.parametrize("by", ["node", "class"])
def test_small_concentrations_are_drawn_from_the_same_law(by: str) -> None:
    """Either way of drawing, above and below the border, gives the largest share equally often."""
    labels = np.repeat(np.arange(4), 10)
    large: list[float] = []
    for alpha in (0.0999, 0.1001):
        rule = build("split", {"name": "dirichlet", "alpha": alpha, "by": by})
        drawn = np.stack([rule(labels, 5, seed) for seed in range(300)])
        drawn = drawn / drawn.sum(2, keepdims=True)
        large.append(float((drawn.max(2) > 0.99).mean()))
        assert np.isfinite(drawn).all()
    assert large[0] == pytest.approx(large[1], abs=0.04)


# --- tasks that users make ------------------------------------------------------------------------


def test_targets_that_are_numbers_have_no_classes_and_no_accuracy() -> None:
    task = Task(
        loss=nn.functional.mse_loss, train=(torch.randn(20, 4), torch.randn(20, 2))
    )
    assert (task.outputs, task.classes, task.accuracy) == (2, None, None)
    assert tiny_setup(task=task).counts.shape == (4, 1)


def test_holdout_divides_without_loss() -> None:
    kept, held = holdout(numbered(10), 0.3)
    assert held is not None
    assert torch.cat([kept.targets, held.targets]).tolist() == list(range(10))
    assert len(held) == 3
    assert holdout(numbered(10), 0.0)[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": (torch.zeros(3, 2), torch.zeros(4))},
            "train has 3 inputs and 4 targets",
        ),
        ({"train": (torch.zeros(0, 2), torch.zeros(0))}, "at least 1"),
        ({"test": (torch.zeros(1, 2), torch.zeros(2))}, "test has 1 inputs"),
    ],
)
def test_samples_must_come_in_pairs(change: dict[str, object], message: str) -> None:
    pair = (torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ConfigError, match=message):
        Task(**{"loss": nn.functional.cross_entropy, "train": pair} | change)  # type: ignore[arg-type]


def test_owners_decide_who_holds_what_and_leave_nobody_out() -> None:
    task = blobs(samples=40)
    task.owners = torch.arange(30) % 3
    setup = tiny_setup(task=task, nodes=3)
    assert setup.plan.members[1, :3].tolist() == [1, 4, 7]
    with pytest.raises(ConfigError, match="no training sample is owned by node 3 of 4"):
        tiny_setup(task=task, nodes=4)


# --- tasks without classes ------------------------------------------------------------------------


def regression() -> Task:
    return Task(
        model=lambda: nn.Linear(3, 1),
        loss=nn.functional.mse_loss,
        train=(torch.randn(40, 3), torch.randn(40, 1)),
    )


def own(labels: np.ndarray, nodes: int, seed: int) -> np.ndarray:
    """A split of a user's own that divides by classes."""
    return np.ones((int(labels.max()) + 1, nodes))


@pytest.mark.parametrize("sampling", ["fixed", "resample"])
@pytest.mark.parametrize(
    "split", ["dirichlet(alpha=0.01)", {"name": "classes", "k": 2}, own]
)
def test_a_split_by_classes_needs_classes(split: Any, sampling: str) -> None:
    plugin("split", needs_classes=True)(own)
    with pytest.raises(ConfigError, match=r"divides by classes.*split=iid"):
        tiny_setup(task=regression(), split=split, sampling=sampling)


@pytest.mark.parametrize("sampling", ["fixed", "resample"])
def test_the_default_split_gives_way_without_classes(
    sampling: str, tmp_path: Path
) -> None:
    """The resolved configuration says iid, and so do a line before the run and an event."""
    task = regression()
    config = make_config({"task": task, "nodes": 4, "steps": 2, "sampling": sampling})
    setup = prepare(config)
    assert resolve_config(setup)["split"] == {"name": "iid"}
    again = prepare(make_config({"task": task, "nodes": 4, "steps": 2, "split": "iid"}))
    (held,) = again.notes
    assert (
        held
        == "no test is given: 8 of 40 training samples are held out, drawn by seed 0."
    )
    assert setup.counts.tolist() == [[8]] * 4
    _, note = setup.notes
    assert "split iid, not dirichlet" in note
    run = start(config.model_copy(update={"out": str(tmp_path / "run")}))
    events = [
        json.loads(e)
        for e in (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    ]
    assert [event["text"] for event in events if event["event"] == "note"] == [held, note]
    assert read_file(run.folder.path / "config.yaml")["split"] == {"name": "iid"}


def test_a_split_that_a_task_recommends_is_a_default_too() -> None:
    """So is it for workers, which prepare a copy of the configuration."""

    @plugin("task", defaults={"split": "classes(k=2)"})
    def recommending() -> Task:
        """A regression whose author did not think of splits."""
        return regression()

    config = make_config({"task": build("task", recommending), "nodes": 4, "steps": 2})
    copy = pickle.loads(pickle.dumps(config.model_copy(update={"task": "quadratic"})))
    assert "split" not in copy.model_fields_set
    assert prepare(config).parts["split"].name == "iid"


def test_classes_that_a_task_names_may_divide_a_regression() -> None:
    task = replace(regression(), labels=torch.arange(32) % 4, test=regression().train)
    assert tiny_setup(task=task, split="dirichlet").parts["split"].name == "dirichlet"


def test_more_nodes_than_samples_redraw_from_all_of_them() -> None:
    """Nothing is dealt out, so nothing need be there for every node."""
    setup = tiny_setup(nodes=500, sampling="resample", split="dirichlet(alpha=0.3)")
    assert len(setup.task.splits[0]) < 500
    drawn = Sampler(setup.train, setup.plan, range(500), 0).indices(0, 40)
    assert np.unique(drawn).size > 100
    with pytest.raises(ConfigError, match="cannot give each of 500 nodes one"):
        tiny_setup(nodes=500, sampling="fixed")
