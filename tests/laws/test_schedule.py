"""Laws of communication schedules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import example, in_turns, planner, tiny_block, trained

from decentral import ConfigError
from decentral.network import (
    RoundAction,
    RoundPlanner,
    Size,
    all_reduce_messages,
    expected_messages,
    preview,
)
from decentral.network.clock import solve_budget
from decentral.registry import find, names
from decentral.schedules import Feedback, Progress, communication_steps
from decentral.schedules.action import CommunicationSchedule, Merge
from decentral.topology.base import Topology
from decentral.traits import CommunicationTraits, traits_of

NAMES = names("communication")
STEPS, LOCAL = 200, 5
ROW = 1000  # bytes of one message

every = pytest.mark.parametrize("name", NAMES)
feedbacks = st.none() | st.builds(
    Feedback, st.integers(0, 99), st.floats(0, 1e9), st.floats(0, 1e3)
)


@cache
def one_topology_per_activation() -> dict[str, str]:
    """Return the first topology of every kind of activation: {activation: name}."""
    found: dict[str, str] = {}
    for name in names("topology"):
        found.setdefault(Topology(example("topology", name), 8).activation, name)
    return found


@cache
def talk(
    name: str, topology: str = "ring", final_merge: bool | None = None
) -> RoundPlanner:
    """Return the schedule of that name in a planner of 8 nodes, its budget solved."""
    rule = example("communication", name)
    if final_merge is not None:
        rule = replace(rule, common={"final_merge": final_merge})
    made = planner(topology, rule, steps=STEPS, local_steps=LOCAL)
    return solve_budget(made, Size(ROW, ROW), ROW)


OPEN_LOOP = [name for name in NAMES if not talk(name).schedule.closed_loop]
CLOSED_LOOP = [name for name in NAMES if talk(name).schedule.closed_loop]
BUDGETED = [
    name
    for name in NAMES
    if traits_of(find("communication", name), CommunicationTraits).budgeted
]


def progress(step: int) -> Progress:
    return talk("none").progress(step, round=0)


def test_plug_ins_of_every_kind_that_need_settings_show_an_example() -> None:
    from decentral.registry import KINDS

    for kind in KINDS:
        for name in names(kind):
            needy = any(
                setting.required for setting in find(kind, name).settings.values()
            )
            assert not needy or find(kind, name).traits.example, (kind, name)
            assert example(kind, name).name == name


@every
@given(step=st.sampled_from(communication_steps(STEPS, LOCAL)), feedback=feedbacks)
def test_intensities_lie_within_0_and_1(
    name: str, step: int, feedback: Feedback | None
) -> None:
    action = talk(name).schedule.action(progress(step), feedback)
    assert isinstance(action, Merge) or 0.0 <= action <= 1.0


@every
@given(
    steps=st.lists(
        st.sampled_from(communication_steps(STEPS, LOCAL)), min_size=2, max_size=6
    ),
    feedback=feedbacks,
)
def test_a_schedule_is_pure_in_progress_and_feedback(
    name: str, steps: list[int], feedback: Feedback | None
) -> None:
    schedule = talk(name).schedule
    there = [schedule.action(progress(step), feedback) for step in steps]
    back = [schedule.action(progress(step), feedback) for step in reversed(steps)]
    assert there == back[::-1]


@pytest.mark.parametrize("name", OPEN_LOOP)
@given(step=st.sampled_from(communication_steps(STEPS, LOCAL)), feedback=feedbacks)
def test_only_closed_loops_read_feedback(
    name: str, step: int, feedback: Feedback | None
) -> None:
    schedule = talk(name).schedule
    assert schedule.action(progress(step), feedback) == schedule.action(
        progress(step), None
    )


@pytest.mark.parametrize("name", CLOSED_LOOP)
def test_a_closed_loop_reacts_to_feedback(name: str) -> None:
    schedule = talk(name).schedule
    known = [Feedback(0, consensus, 0.0) for consensus in (0.0, 1e6)]
    assert len({schedule.action(progress(50), feedback) for feedback in known}) == 2
    assert schedule.action(progress(50), Feedback(0, 1e6, 1e6)) == 0.0


@every
def test_a_final_merge_follows_the_last_slot_and_changes_none(name: str) -> None:
    on, off = talk(name, final_merge=True), talk(name, final_merge=False)
    assert off.final_merge() is None
    assert on.final_merge() == RoundAction(1.0, full_model=True)
    # which pays the merge, too
    for step in [] if name in BUDGETED else communication_steps(STEPS, LOCAL):
        assert on.schedule.action(progress(step)) == off.schedule.action(progress(step))


@pytest.mark.parametrize("name", [name for name in OPEN_LOOP if name not in BUDGETED])
@pytest.mark.parametrize("activation", ["link", "round", "degree"])
@pytest.mark.parametrize("share", [0.015, 0.04])
# intensities are real: no rounding to rounds
def test_a_budget_is_met_in_expectation_or_refused_with_the_reachable_end(
    name: str, activation: str, share: float
) -> None:
    """Within max(1 %, one round) of the budget, for every open-loop schedule."""
    topology = one_topology_per_activation()[activation]
    inner = talk(name, topology).schedule
    scaled = {"name": "scale_to_budget", "schedule": inner.rule, "budget": share}
    raw = planner(topology, scaled, steps=STEPS, local_steps=LOCAL)
    wanted = share * all_reduce_messages(8, STEPS)
    least, most = spent_with(raw, 1e-9), spent_with(raw, 1e9)
    if not least <= wanted <= most:
        end, reachable = ("least", least) if wanted < least else ("most", most)
        share_of_all = f"{reachable / all_reduce_messages(8, STEPS):.3%} of all-reduce"
        with pytest.raises(ConfigError, match=rf"the {end} this .* {share_of_all}"):
            solve_budget(raw, Size(ROW, ROW), ROW)
        return
    spent = expected_messages(solve_budget(raw, Size(ROW, ROW), ROW))
    one_round = raw.mixer.expected_messages(1.0)
    assert abs(spent - wanted) <= max(
        0.01 * wanted, one_round if wanted > one_round else 0
    )
    assert abs(spent - wanted) <= 1e-6 * wanted


def spent_with(raw: RoundPlanner, factor: float) -> float:
    rule = raw.schedule.rule
    scaled = replace(rule, settings={**rule.settings, "factor": factor})
    return expected_messages(replace(raw, schedule=CommunicationSchedule(scaled)))


def test_most_schedules_can_meet_a_budget() -> None:
    """The law above would hold of schedules that refuse everything; most must not."""
    wanted = 0.015 * all_reduce_messages(8, STEPS)
    budgets = [
        {"name": "scale_to_budget", "schedule": talk(n).schedule.rule} for n in OPEN_LOOP
    ]
    raw = [
        planner("ring", {**b, "budget": 1}, steps=STEPS, local_steps=LOCAL)
        for b in budgets
    ]
    met = [spent_with(r, 1e-9) <= wanted <= spent_with(r, 1e9) for r in raw]
    assert sum(met) > len(NAMES) // 2


@pytest.mark.parametrize(
    ("name", "topology"),
    in_turns([[name] for name in NAMES], list(one_topology_per_activation().values()))
    + [("late", topology) for topology in names("topology")],
)
def test_the_preview_equals_the_ledger_of_a_real_run(name: str, topology: str) -> None:
    settings = {"task": "quadratic", "nodes": 8, "steps": 31, "local_steps": 3, "seed": 3}
    rule = example("communication", name)
    if name in BUDGETED:
        rule = replace(rule, settings={**rule.settings, "factor": 0.7})
    block = tiny_block(**settings, topology=topology, communication=rule, eval_every=31)
    talk = block.setup.planner
    assert talk is not None
    if talk.schedule.closed_loop:
        with pytest.raises(ConfigError, match="no preview"):
            list(preview(talk))
        return
    planned = list(preview(talk))
    row_bytes = block.setup.row_bytes
    logged = {row["step"]: row for row in trained(block) if "comm/bytes" in row}
    assert [plan.step for plan in planned] == communication_steps(31, 3)
    for plan in planned:
        row = logged[plan.step]
        assert plan.messages == row["comm/messages"]
        assert plan.messages * row_bytes == row["comm/bytes"]
        assert plan.round == row["comm/rounds"]
        assert plan.intensity == row["comm/intensity"]
    assert block.stats.rounds == block.round
