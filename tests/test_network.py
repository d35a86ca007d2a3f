"""The planner of a run: previews, budgets and bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import planner, round_actions, tiny_block, tiny_setup, trained

from decentral import ConfigError
from decentral.exchange.base import CommunicationStats
from decentral.network import Size, all_reduce_messages, expected_messages, preview
from decentral.network.clock import budget_bytes, solve_budget


def planned(talk: Any) -> list[Any]:
    return list(preview(talk))


# --- rounds ---------------------------------------------------------------------------------------


@given(
    intensity=st.floats(0.05, 1.0), local_steps=st.integers(1, 12), steps=st.integers(1, 150),
    seed=st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=30)
def test_rounds_count_what_was_sent_and_not_what_might_have_been(
    intensity: float, local_steps: int, steps: int, seed: int
) -> None:
    """Silent steps do not advance a time-varying graph: its hops follow each other in order."""
    talk = planner(
        "one_peer_exponential", {"name": "constant", "intensity": intensity}, nodes=16,
        steps=steps, local_steps=local_steps, seed=seed,
    )  # fmt: skip
    hops = [
        int(action.mixing.senders[action.mixing.senders != 0][0])
        for _, action in round_actions(talk)
    ]
    firsts = [16 - 2 ** (round % 4) for round in range(len(hops))]
    heard = [int(action.mixing.row(0)[0][-1]) for _, action in round_actions(talk)]
    assert heard == firsts


def test_without_a_round_clock_of_its_own_a_finite_time_graph_would_not_average() -> None:
    """Indexed by step, a clock of 10 would use only every other hop of 16 nodes."""
    talk = planner("one_peer_exponential", nodes=16, steps=400, local_steps=10)
    by_round = {int(action.mixing.row(0)[0][-1]) for _, action in round_actions(talk)}
    by_step = {
        int(talk.mixer.mixing(step).row(0)[0][-1]) for step, _ in round_actions(talk)
    }
    assert len(by_round) == 4
    assert len(by_step) == 2


def test_a_whole_round_is_tossed_for_everybody_or_link_by_link() -> None:
    for topology, whole in (("one_peer_exponential", True), ("ring", False)):
        talk = planner(topology, "constant(0.5)", steps=400)
        full = planner(topology).mixer.mixing(0).messages
        sent = {action.mixing.messages for _, action in round_actions(talk)}
        assert (sent == {full}) is whole
        assert (
            len(list(round_actions(talk))) < 80
            if whole
            else len(list(round_actions(talk))) == 80
        )


def test_a_preview_of_a_closed_loop_is_refused() -> None:
    for spec in (
        "adaptive(target=0.1)",
        "switch(before=none, after=adaptive(0.1), at=50%)",
    ):
        with pytest.raises(ConfigError, match="reacts to the run"):
            planned(planner("ring", spec))


# --- bytes ----------------------------------------------------------------------------------------


@given(
    events=st.lists(st.tuples(st.booleans(), st.integers(1, 50)), max_size=20),
    row=st.integers(1, 99),
)
def test_the_ledger_adds_up(events: list[tuple[bool, int]], row: int) -> None:
    stats, messages = CommunicationStats(), 0
    for is_average, count in events:
        if is_average:
            stats.average(count, row)
            messages += 2 * (count - 1)
        else:
            stats.gossip(count, row)
            messages += count
    assert (stats.messages, stats.rounds) == (messages, len(events))
    assert stats.bytes == messages * row
    assert CommunicationStats(**stats.state()) == stats


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({}, 6 * 8 + 8 + 8 * 4 + 4),
        ({"mix_state": True}, 2 * (6 * 8 + 8 + 8 * 4 + 4)),
        ({"mix_state": True, "optimizer": "adamw"}, 3 * (6 * 8 + 8 + 8 * 4 + 4)),
        ({"mix_state": True, "optimizer": "sgd(momentum=0)"}, 6 * 8 + 8 + 8 * 4 + 4),
    ],
)
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float64", 8)])
def test_a_message_is_as_long_as_what_is_exchanged(
    given: dict[str, Any], numbers: int, dtype: str, size: int
) -> None:
    setup = tiny_setup(**given, dtype=dtype)
    assert setup.row_bytes == numbers * size
    assert setup.gradient_bytes == (6 * 8 + 8 + 8 * 4 + 4) * size


def test_statistics_travel_in_gossip_if_asked_and_padding_never_does() -> None:
    for buffers in (True, False):
        setup = tiny_setup(
            task="digits", model="cnn(channels=[3], norm=batch)", gossip_buffers=buffers
        )
        learnable = 9 * 3 + 3 + 2 * 3 + 3 * 16 * 10 + 10
        assert setup.row_bytes == 4 * (learnable + 6 * buffers)
        assert setup.layout.width > learnable + 6


def test_an_all_reduce_of_every_step_is_the_measure_of_bytes() -> None:
    block = tiny_block(algorithm="allreduce")
    trained(block)
    assert block.stats.messages == all_reduce_messages(4, 20) == 2 * 3 * 20
    assert block.stats.bytes == 120 * block.setup.gradient_bytes


# --- budgets --------------------------------------------------------------------------------------

BUDGETED: dict[str, Any] = {"nodes": 6, "steps": 300, "local_steps": 3}


@pytest.mark.parametrize(
    "given",
    [
        {}, {"mix_state": True, "optimizer": "adamw"},
        {"topology": "one_peer_exponential"}, {"topology": "random_neighbors(r=2)"},
        {"task": "digits", "model": "cnn(channels=[3], norm=batch)"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("budget", ["3%", 0.06])
def test_a_budget_is_a_share_of_all_reduces_bytes_whatever_travels(
    given: dict[str, Any], budget: str | float
) -> None:
    """Expected bytes are the budget; those of a seed are near it."""
    talks = {
        "name": "scale_to_budget",
        "schedule": "late(intensity=0.2)",
        "budget": budget,
    }
    setup = tiny_setup(**BUDGETED, **given, communication=talks)
    assert setup.planner is not None
    whole = all_reduce_messages(6, 300) * setup.gradient_bytes
    share = 0.03 if budget == "3%" else 0.06
    assert expected_messages(setup.planner) * setup.row_bytes == pytest.approx(
        share * whole
    )
    sent = planned(setup.planner)[-1].messages * setup.row_bytes
    assert sent == pytest.approx(share * whole, rel=0.3)


def test_a_budget_may_be_bytes_per_node() -> None:
    talks = {"name": "scale_to_budget", "schedule": "constant", "budget": "20kB/node"}
    setup = tiny_setup(**BUDGETED, communication=talks)
    assert setup.planner is not None
    assert expected_messages(setup.planner) * setup.row_bytes == pytest.approx(6 * 20e3)


def test_different_schedules_spend_the_same_under_one_budget() -> None:
    spent = []
    for inner in ("constant", "linear", "late", "early", "cosine", "every(k=2)"):
        talks = {"name": "scale_to_budget", "schedule": inner, "budget": "2%"}
        talk = solve_budget(planner("ring", talks), Size(100, 100), 100)
        spent.append(expected_messages(talk))
    assert spent == pytest.approx([0.02 * all_reduce_messages(8, 200)] * len(spent))


@pytest.mark.parametrize(
    ("talks", "message"),
    [
        (
            "scale_to_budget(schedule=constant, budget=90%)",
            "the most this schedule can spend",
        ),
        (
            "scale_to_budget(schedule=late, budget=0.001%)",
            "the least this schedule can spend",
        ),
        (
            "scale_to_budget(schedule=none, budget=1%)",
            "the most .* is 0.000% of all-reduce",
        ),
        (
            "scale_to_budget(schedule=constant, budget=much)",
            "cannot read 'much'; write 2%, 0.02",
        ),
        ("scale_to_budget(schedule=constant, budget=-1%)", "cannot read '-1%'"),
        ("scale_to_budget(schedule=constant, budget=nan)", "budget = nan|cannot read"),
        (
            "scale_to_budget(schedule=adaptive(0.1), budget=2%)",
            "set its max_budget instead",
        ),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_with_the_reachable_end(
    talks: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        solve_budget(planner("ring", talks), Size(100, 100), 100)


def test_a_budget_inside_another_schedule_is_refused() -> None:
    talks = "every(k=2, schedule=scale_to_budget(schedule=constant, budget=2%))"
    with pytest.raises(ConfigError, match="must be outermost"):
        planned(solve_budget(planner("ring", talks), Size(100, 100), 100))


def test_budgets_are_read_as_shares_and_as_bytes() -> None:
    assert (
        budget_bytes("2%", 8, 1000.0)
        == budget_bytes(0.02, 8, 1000.0)
        == pytest.approx(20.0)
    )
    assert budget_bytes("2kB/node", 8, 1000.0) == 16_000.0


def test_one_node_has_nobody_to_talk_to() -> None:
    for topology in (
        "ring",
        "star",
        "one_peer_exponential",
        "random_neighbors",
        "complete",
    ):
        block = tiny_block(nodes=1, topology=topology, communication="late")
        trained(block)
        assert block.stats.bytes == 0
