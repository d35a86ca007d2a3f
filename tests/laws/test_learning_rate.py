"""Laws of learning-rate schedules."""

from __future__ import annotations

from math import cos, isfinite, pi

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
def test_warm_up_is_a_line_from_0_to_the_peak(name: str, step: int, warmup: int) -> None:
    made = rate(name, lr=0.3, warmup=f"{warmup} steps")
    value = made(Progress(step, STEPS))
    rise = 0.3 * (step + 1) / warmup
    assert value <= min(0.3, rise) * (1 + 1e-12)
    # What falls at points of the run may do so before.
    if step < warmup and made.factors is None and "at" not in made.rule.settings:
        assert value == pytest.approx(rise, rel=1e-12)


@pytest.mark.parametrize("name", ["cosine", "wsd(decay=90%)", "wsd(decay=9 steps)"])
def test_a_decay_begins_after_the_warm_up(name: str) -> None:
    """As in the codes of LITE and of the sharpness disparity principle: the peak is
    reached.
    """
    spec = LearningRate.make(name, 0.1).rule.spec()
    made = LearningRate.make({**spec, "warmup": "3 steps"}, 0.1)
    rates = [made(Progress(step, 10)) for step in range(11)]
    assert rates[:4] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])
    later = LearningRate.make("cosine" if name == "cosine" else "wsd(decay=100%)", 0.1)
    assert rates[3:] == pytest.approx([later(Progress(step, 7)) for step in range(8)])


@pytest.mark.parametrize("ends", [[0, 1, 2, 4, 8, 16, 32], [0, 8, 16, 24, 32]])
def test_a_data_budget_counts_what_follows_the_warm_up_in_samples(
    ends: list[int],
) -> None:
    made = LearningRate.make("cosine(warmup=2 steps)", 1.0)
    for step in range(2, len(ends)):
        here = Progress(step, len(ends) - 1, ends[step], 32, timeline=ends)
        wanted = (1 + cos(pi * (ends[step] - ends[2]) / (32 - ends[2]))) / 2
        assert made(here) == pytest.approx(wanted, abs=1e-12)


@rates
@given(step=steps, scale=st.floats(0.1, 10))
def test_a_rate_is_proportional_to_its_peak(name: str, step: int, scale: float) -> None:
    one = rate(name, lr=1.0)(Progress(step, STEPS))
    assert rate(name, lr=scale)(Progress(step, STEPS)) == pytest.approx(scale * one)


@rates
def test_the_peak_is_reached_and_the_optimizer_gives_the_default(name: str) -> None:
    values = [rate(name)(Progress(step, STEPS)) for step in range(STEPS)]
    assert max(values) == pytest.approx(0.5)
