"""Laws of learning-rate schedules."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import example

from decentral.registry import names
from decentral.schedules import Progress
from decentral.schedules.learning_rate import LearningRate

STEPS = 120

rates = pytest.mark.parametrize("name", names("learning_rate"))
steps = st.integers(0, STEPS - 1)


def rate(name: str, **common: object) -> LearningRate:
    spec = example("learning_rate", name).spec() | common
    return LearningRate.make(spec, default_lr=0.5)


@rates
@given(step=steps)
def test_a_rate_lies_between_0_and_its_peak(name: str, step: int) -> None:
    value = rate(name, lr=0.3)(Progress(step, STEPS))
    assert isfinite(value)
    assert 0.0 <= value <= 0.3 * (1 + 1e-12)


@rates
@given(there=st.lists(steps, min_size=2, max_size=6))
def test_a_rate_is_pure_in_progress(name: str, there: list[int]) -> None:
    made = rate(name, lr=0.3, warmup="10%")
    forward = [made(Progress(step, STEPS)) for step in there]
    assert forward == [made(Progress(step, STEPS)) for step in reversed(there)][::-1]


@rates
@given(step=steps, warmup=st.integers(2, STEPS))
def test_warm_up_multiplies_by_a_line_from_0_to_1(
    name: str, step: int, warmup: int
) -> None:
    cold = rate(name, lr=0.3)(Progress(step, STEPS))
    warm = rate(name, lr=0.3, warmup=f"{warmup} steps")(Progress(step, STEPS))
    assert warm == pytest.approx(cold * min(1.0, (step + 1) / warmup), rel=1e-12)


@rates
@given(step=steps, scale=st.floats(0.1, 10))
def test_a_rate_is_proportional_to_its_peak(name: str, step: int, scale: float) -> None:
    one = rate(name, lr=1.0)(Progress(step, STEPS))
    assert rate(name, lr=scale)(Progress(step, STEPS)) == pytest.approx(scale * one)


@rates
def test_the_peak_is_reached_and_the_optimizer_gives_the_default(name: str) -> None:
    values = [rate(name)(Progress(step, STEPS)) for step in range(STEPS)]
    assert max(values) == pytest.approx(0.5)
