"""Laws of batch schedules."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import advance, example, tiny_block, tiny_setup

from decentral.registry import ConfiguredPlugin, bind, names
from decentral.schedules import Progress
from decentral.schedules.progress import step_timeline

STEPS = 120

batches = pytest.mark.parametrize("name", names("batch"))
steps = st.integers(0, STEPS - 1)
budgets = st.integers(300, 6_000)


def rule(name: str, **common: Any) -> ConfiguredPlugin:
    made = example("batch", name)
    return bind(made.plugin, {**made.settings, **common})


@batches
@given(there=st.lists(steps, min_size=2, max_size=6))
def test_a_batch_has_at_least_one_sample_and_is_pure_in_progress(
    name: str, there: list[int]
) -> None:
    batch = rule(name)
    forward = [batch(Progress(step, STEPS)) for step in there]
    assert all(isinstance(size, int) and size >= 1 for size in forward)
    assert forward == [batch(Progress(step, STEPS)) for step in reversed(there)][::-1]


@batches
@given(budget=budgets)
def test_a_budget_is_met_exactly_and_only_the_last_batch_is_cut(
    name: str, budget: int
) -> None:
    batch = rule(name)
    timeline = step_timeline(batch, 0, budget)
    assert timeline.samples[0] == 0
    assert timeline.samples[-1] == budget
    for step in range(timeline.steps):
        wanted = batch(Progress(step, 0, timeline.samples[step], budget))
        last = step == timeline.steps - 1
        assert timeline.size(step) == wanted or (
            last and 0 < timeline.size(step) < wanted
        )


@batches
@given(budget=budgets)
def test_a_budget_never_asks_how_many_steps_there_are(name: str, budget: int) -> None:
    """They are what it decides, so 0 must do as well as the true number."""
    batch = rule(name)
    timeline = step_timeline(batch, 0, budget)
    known = [batch(timeline.progress(step)) for step in range(timeline.steps - 1)]
    assert known == [timeline.size(step) for step in range(timeline.steps - 1)]


@batches
@given(parts=st.integers(2, 9))
def test_a_schedule_is_the_same_in_finer_progress(name: str, parts: int) -> None:
    """The batch is a function of the share of the data, whatever its amount."""
    batch = rule(name)
    for share in (0.0, 0.2, 0.5, 0.9):
        coarse = Progress(0, 0, round(share * 1000), 1000)
        fine = Progress(0, 0, parts * round(share * 1000), parts * 1000)
        assert batch(coarse) == batch(fine)


@batches
def test_a_schedule_that_begins_small_grows_all_the_way(name: str) -> None:
    timeline = step_timeline(rule(name), 0, 50_000)
    sizes = [timeline.size(step) for step in range(timeline.steps - 1)]
    assert all(a <= b for a, b in pairwise(sizes))


@batches
@pytest.mark.parametrize(
    ("scale", "power"), [("none", 0.0), ("linear", 1.0), ("sqrt", 0.5)]
)
def test_the_learning_rate_follows_the_batch_as_asked(
    name: str, scale: str, power: float
) -> None:
    setup = tiny_setup(batch=rule(name, scale_lr=scale), data="4000 samples/node")
    for size in (setup.first_batch, 7, 64):
        expected = (size / setup.first_batch) ** power
        assert setup.lr_factor(size) == pytest.approx(expected)
    with_base = tiny_setup(
        batch=rule(name, scale_lr=scale, base=16), data="4000 samples/node"
    )
    assert with_base.lr_factor(64) == pytest.approx(4.0**power)


@batches
def test_the_optimizer_steps_at_the_rate_that_is_logged(name: str) -> None:
    block = tiny_block(
        batch=rule(name, scale_lr="linear"), data="2000 samples/node", algorithm="local",
    )  # fmt: skip
    taken: list[tuple[float, float]] = []
    while block.step < block.setup.config.steps:
        logged = block.learning_rate
        advance(block, block.step + 1)
        rates = {
            group["lr"] for one in block.optimizer.instances for group in one.param_groups
        }
        taken += [(logged, rate) for rate in rates]
    assert all(rate == pytest.approx(logged) for logged, rate in taken)
    factors = {block.setup.lr_factor(size) for size in block.setup.timeline.sizes()}
    assert len({rate for _, rate in taken}) == len(factors)
