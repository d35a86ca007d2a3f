"""What each schedule says when: shapes, composition, and the closed loop."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import planner, round_actions, tiny_block, trained

from decentral import GLOBAL_MERGE, ConfigError, Point
from decentral.network import all_reduce_messages, expected_messages, preview
from decentral.schedules import Feedback, Progress, communication_steps
from decentral.schedules.action import CommunicationSchedule, ends_in_merge
from decentral.schedules.learning_rate import LearningRate

clocks = st.tuples(st.integers(1, 400), st.integers(1, 40))


def actions(spec: Any, steps: int = 100, local_steps: int = 10) -> list[Any]:
    """Return what a schedule says at every communication step, its final merge apart."""
    schedule = CommunicationSchedule.make(spec)
    return [
        schedule.action(Progress(step, steps, local_steps=local_steps))
        for step in communication_steps(steps, local_steps)
    ]


# --- progress -------------------------------------------------------------------------------------


def test_the_former_name_of_a_communication_step_warns() -> None:
    here = Progress(20, 100, local_steps=10)
    with pytest.warns(DeprecationWarning, match="progress.communication_step"):
        assert here.slot == here.communication_step == 1


@given(clock=clocks)
def test_communication_steps_are_every_local_steps_and_the_last_step(
    clock: tuple[int, int],
) -> None:
    steps, local_steps = clock
    found = communication_steps(steps, local_steps)
    talk = planner("ring", steps=steps, local_steps=local_steps)
    assert found == [
        step for step in range(1, steps + 1) if talk.is_communication_step(step)
    ]
    assert found[-1] == steps
    assert len(found) == ceil(steps / local_steps)
    for index, step in enumerate(found):
        progress = Progress(step, steps, local_steps=local_steps)
        assert progress.communication_step == index
        assert progress.previous.step == (found[index - 1] if index else 0)


@given(steps=st.integers(1, 1000), point=st.floats(0, 1))
def test_a_fraction_and_its_step_are_reached_together(steps: int, point: float) -> None:
    for step in {0, steps, int(point * steps), ceil(point * steps)}:
        reached = Progress(step, steps).reached(Point(point, "fraction"))
        assert reached == (step >= point * steps - 1e-9)


@given(steps=st.integers(2, 10_000), percent=st.integers(0, 100))
def test_whole_percents_are_reached_at_the_step_a_person_would_say(
    steps: int, percent: int
) -> None:
    first = next(
        s
        for s in range(steps + 1)
        if Progress(s, steps).reached(Point(percent / 100, "fraction"))
    )
    assert first == -(-percent * steps // 100)


def test_a_data_budget_decides_the_fraction() -> None:
    progress = Progress(step=10, steps=100, samples=500, samples_total=1000)
    assert progress.fraction == 0.5
    assert Progress(10, 100, samples=2000, samples_total=1000).fraction == 1.0
    assert progress.reached(Point(0.5, "fraction"))
    assert not progress.reached(Point(50, "steps"))
    assert progress.part(Point(0.0, "fraction"), Point(1.0, "fraction")) == 0.5


def test_part_runs_from_0_to_1_between_two_points() -> None:
    begin, end = Point(0.2, "fraction"), Point(60, "steps")
    parts = [Progress(step, 100).part(begin, end) for step in (0, 20, 40, 60, 99)]
    assert parts == pytest.approx([0, 0, 0.5, 1, 1])
    assert [Progress(step, 100).part(end, end) for step in (59, 60, 61)] == [0, 1, 1]


# --- shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("none", [0.0] * 10),
        ("constant(0.3)", [0.3] * 10),
        ("late(start=70%, intensity=0.1, then=0.9)", [0.1] * 6 + [0.9] * 4),
        ("early(stop=30%, first=0.8, intensity=0.1)", [0.8] * 2 + [0.1] * 8),
        ("window(start=40%, width=20%)", [0.0] * 3 + [1.0] * 2 + [0.0] * 5),
        (
            "window(start=45 steps, width=20 steps, outside=0.2)",
            [0.2] * 4 + [1.0] * 2 + [0.2] * 4,
        ),
        ("linear", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("linear(1, 0)", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        ("every(k=3)", [0, 0, 1, 0, 0, 1, 0, 0, 1, 0]),
        ("switch(before=none, after=constant(0.4), at=50%)", [0] * 4 + [0.4] * 6),
    ],
)
def test_a_schedule_says_at_each_of_ten_slots(spec: str, said: list[float]) -> None:
    assert actions(spec) == pytest.approx(said)


def test_cosine_and_exponential_meet_their_ends_and_their_middles() -> None:
    for spec, middle in (("cosine(0.2, 0.8)", 0.5), ("exponential(0.04, 0.64)", 0.16)):
        said = actions(spec, steps=1000, local_steps=1)
        first, last = (0.2, 0.8) if spec.startswith("cosine") else (0.04, 0.64)
        assert said[0] == pytest.approx(first, rel=0.02)
        assert said[499] == pytest.approx(middle)
        assert said[-1] == pytest.approx(last)
        assert said == sorted(said)


@given(first=st.floats(0, 1), last=st.floats(0, 1), step=st.integers(0, 77))
def test_lines_and_waves_stay_between_their_ends(
    first: float, last: float, step: int
) -> None:
    low, high = min(first, last), max(first, last)
    for name in ("linear", "cosine"):
        spec = {"name": name, "first": first, "last": last}
        said = CommunicationSchedule.make(spec).action(Progress(step, 77))
        assert low - 1e-15 <= said <= high + 1e-15


def test_an_intensity_outside_0_and_1_is_refused_with_the_step() -> None:
    for said in (1.5, -0.1, float("nan"), "often", None):
        schedule = CommunicationSchedule.make(lambda progress, feedback, said=said: said)
        with pytest.raises(ConfigError, match="at step 10"):
            schedule.action(Progress(10, 100))


# --- composition ----------------------------------------------------------------------------------


@given(clock=clocks, percent=st.integers(0, 100))
@settings(max_examples=40)
def test_then_merge_merges_once_at_the_first_slot_that_has_come_so_far(
    clock: tuple[int, int], percent: int
) -> None:
    steps, local_steps = clock
    spec = f"then_merge(schedule=constant(0.3), at={percent}%)"
    said = actions(spec, steps, local_steps)
    reached = [
        100 * step >= percent * steps for step in communication_steps(steps, local_steps)
    ]
    first = reached.index(True)
    assert said[:first] == [0.3] * first
    assert said[first] is GLOBAL_MERGE
    assert said[first + 1 :] == [0.0] * (len(said) - first - 1)


@given(clock=clocks, percent=st.integers(0, 100), k=st.integers(1, 5))
@settings(max_examples=30)
def test_combinators_agree_with_what_they_combine(
    clock: tuple[int, int], percent: int, k: int
) -> None:
    steps, local_steps = clock
    one, other = actions("linear", *clock), actions("late(50%, 0.2)", *clock)
    both = actions(f"switch(before=linear, after=late(50%, 0.2), at={percent}%)", *clock)
    some = actions(f"every(k={k}, schedule=linear)", *clock)
    for index, step in enumerate(communication_steps(steps, local_steps)):
        assert both[index] == (other if 100 * step >= percent * steps else one)[index]
        assert some[index] == (one[index] if (index + 1) % k == 0 else 0.0)


def test_combinators_nest() -> None:
    inner = "switch(before=every(k=2), after=then_merge(schedule=constant(0.5), at=80%), at=50%)"
    assert actions(inner) == [0, 1, 0, 1, 0.5, 0.5, 0.5, GLOBAL_MERGE, 0, 0]
    factor = {"name": "scale_to_budget", "schedule": inner, "budget": "5%", "factor": 0.5}
    assert actions(factor) == [0, 0.5, 0, 0.5, 0.25, 0.25, 0.25, GLOBAL_MERGE, 0, 0]
    large = {**factor, "factor": 9.0}
    assert actions(large) == [0, 1, 0, 1, 1, 1, 1, GLOBAL_MERGE, 0, 0], "clipped to 1"


@pytest.mark.parametrize(
    ("spec", "ends"),
    [
        ("late", True),
        ("late(final_merge=false)", False),
        ("constant", False),
        ("constant(final_merge=true)", True),
        ("every(k=2, schedule=late)", True),
        ("every(k=2, schedule=late, final_merge=false)", False),
        ("switch(before=late, after=none, at=50%)", False),
        ("switch(before=none, after=late, at=50%)", True),
        ("scale_to_budget(schedule=late, budget=2%)", True),
        ("then_merge(schedule=late)", False),
    ],
)
def test_a_combinator_ends_as_its_last_part_does_unless_told(
    spec: str, ends: bool
) -> None:
    schedule = CommunicationSchedule.make(spec)
    assert schedule.final_merge is ends
    assert ends_in_merge(schedule.rule) is ends


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("steps", "own"), [(20, 4), (22, 4), (4, 0)])
def test_merges_happen_in_whole_rounds_and_at_the_end_only_where_asked(
    steps: int, own: int, asked: bool
) -> None:
    talk = planner("ring", {"name": "merges", "final_merge": asked}, steps=steps)
    found = [step for step, action in round_actions(talk) if action.is_merge]
    assert found == [5 * (k + 1) for k in range(own)]
    assert (talk.final_merge() is not None) == asked
    last, each = list(preview(talk))[-1], 2 * (talk.nodes - 1)
    assert (last.messages, last.final) == ((own + asked) * each, asked * each)
    assert expected_messages(talk) == last.messages


def test_a_merge_that_a_schedule_asks_for_happens_in_a_round_that_is_cut_short() -> None:
    talk = planner("ring", "then_merge(schedule=none)", steps=22)
    assert [(step, action.is_merge) for step, action in round_actions(talk)] == [
        (22, True)
    ]


# --- closed loop ----------------------------------------------------------------------------------


def said_by_adaptive(consensus: float, spent: float = 0.0) -> float:
    schedule = CommunicationSchedule.make(
        "adaptive(target=0.1, floor=0.05, max_budget=0.5)"
    )
    feedback = Feedback(0, consensus, spent)
    return float(schedule.action(Progress(10, 100), feedback))  # type: ignore[arg-type]


def test_adaptive_talks_more_the_further_the_models_are_apart() -> None:
    assert said_by_adaptive(0.0) == said_by_adaptive(0.1) == 0.05
    assert said_by_adaptive(0.15) == pytest.approx(0.525)
    assert said_by_adaptive(0.2) == said_by_adaptive(9.0) == 1.0
    assert said_by_adaptive(9.0, spent=0.5) == 0.0


CLOSED = {
    "topology": "ring", "nodes": 5, "steps": 60, "local_steps": 2, "init": "independent",
    "optimizer": "sgd(momentum=0)",
}  # fmt: skip


def test_a_run_whose_models_drift_apart_talks_more() -> None:
    messages = []
    for target in (1e-3, 1e3):
        talks = {
            "name": "adaptive",
            "target": target,
            "feedback_every": 3,
            "max_budget": 9,
        }
        block = tiny_block(**CLOSED, communication=talks)
        rows = trained(block)
        messages.append(block.stats.messages)
        logged = [row for row in rows if "feedback/consensus" in row]
        assert logged, "feedback is logged"
        assert {row["feedback/consensus"] > target for row in logged} == {target < 1}
    assert messages[0] > 5 * messages[1] > 0


def test_feedback_is_renewed_every_few_slots_and_its_bytes_are_counted() -> None:
    talks = {"name": "adaptive", "target": 0.1, "feedback_every": 4, "max_budget": 9}
    block = tiny_block(**CLOSED, communication=talks)
    rows = [row for row in trained(block) if row["step"] and row["step"] % 2 == 0]
    known = [row["feedback/consensus"] for row in rows]
    renewals = [i for i, (a, b) in enumerate(pairwise(known), start=1) if a != b]
    assert renewals
    assert all(step % 4 == 0 for step in renewals)
    sketches = 5 * 4 * 64 * 4 * len(range(0, 30, 4))
    assert block.stats.bytes == block.stats.messages * block.setup.row_bytes + sketches


@pytest.mark.parametrize("budget", [0.02, 0.06])
def test_a_closed_loop_stops_within_one_round_of_its_budget(budget: float) -> None:
    talks = {
        "name": "adaptive",
        "target": 1e-6,
        "max_budget": budget,
        "feedback_every": 50,
    }
    block = tiny_block(**CLOSED, communication=talks, model="mlp(hidden=[64])")
    trained(block)
    row = block.setup.row_bytes
    allowed = budget * all_reduce_messages(5, 60) * block.setup.gradient_bytes
    dense_round = 10 * row
    assert allowed - dense_round < block.stats.bytes <= allowed + dense_round


# --- learning rates -------------------------------------------------------------------------------


def rates(spec: Any, steps: int = 100) -> list[float]:
    rate = LearningRate.make(spec, default_lr=1.0)
    return [rate(Progress(step, steps)) for step in range(steps)]


def test_cosine_falls_along_half_a_wave() -> None:
    said = rates("cosine(floor=0.1)")
    assert said[0] == 1.0
    assert said[50] == pytest.approx(0.55)
    assert said[-1] == pytest.approx(0.1, abs=1e-3)
    assert said == sorted(said, reverse=True)


@pytest.mark.parametrize("decay", ["20%", "20 steps"])
def test_wsd_is_flat_and_then_a_line(decay: str) -> None:
    said = rates(f"wsd(decay={decay}, floor=0.2)")
    assert said[:80] == pytest.approx([1.0] * 80)
    assert said[90] == pytest.approx(0.6)
    assert said[99] == pytest.approx(0.2 + 0.8 / 20)


def test_step_multiplies_at_each_point() -> None:
    said = rates("step(at=[50%, 75 steps], factor=0.1)")
    assert said == pytest.approx([1.0] * 50 + [0.1] * 25 + [0.01] * 25)


def test_a_bare_number_is_a_constant_rate_and_unset_is_the_optimizers() -> None:
    assert set(rates(0.3)) == {0.3}
    assert set(rates("constant")) == {1.0}
    assert rates({"name": "constant", "lr": 0.5, "warmup": "4 steps"})[
        :5
    ] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
