"""Laws of faults: pure in seed and step, as often as they say, and mixings that stay mixings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support import exchanges, planner, silent, tiny_block, together, trained, walk

from decentral import rng
from decentral.errors import ConfigError
from decentral.faults.base import Faults, network_faults
from decentral.loop.block import Block
from decentral.mixing.base import Mixing
from decentral.network import RoundPlanner, Size, expected_bytes, preview
from decentral.network.clock import Clock
from decentral.network.links import uniform
from decentral.registry import build, find, names
from decentral.schedules import Progress
from decentral.topology.labels import NodeLabels
from decentral.traits import FaultTraits, traits_of

NODES, STEPS = 8, 600
on_every_fault = pytest.mark.parametrize("name", names("fault"))


def faults(*texts: str) -> Faults:
    return network_faults(texts, NodeLabels(NODES), 1000, seed=4)


def talk(*texts: str, topology: str = "ring", schedule: str = "constant") -> RoundPlanner:
    made = planner(topology, schedule, nodes=NODES, steps=400, local_steps=2)
    return replace(made, faults=faults(*texts))


def struck(name: str, steps: int = STEPS, **settings: Any) -> np.ndarray:
    """Return what a fault strikes, [steps, things], for nodes or for links of a ring."""
    rule = build("fault", {"name": name, **settings})
    one, other = np.arange(NODES), (np.arange(NODES) + 1) % NODES
    ends = (one,) if traits_of(rule, FaultTraits).strikes == "nodes" else (one, other)
    return np.stack([rule(*ends, step, 7) for step in range(steps)])


@on_every_fault
def test_a_fault_is_pure_in_seed_and_slot(name: str) -> None:
    rule, ends = build("fault", name), (np.arange(5), np.arange(1, 6))
    ends = ends[:1] if traits_of(rule, FaultTraits).strikes == "nodes" else ends
    forward = [rule(*ends, step, 1) for step in range(20)]
    backward = [rule(*ends, step, 1) for step in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forward, backward)
    part = [rule(*(each[2:3] for each in ends), step, 1) for step in range(20)]
    np.testing.assert_array_equal(np.array(forward)[:, 2:3], part)
    other = [rule(*ends, step, 2) for step in range(20)]
    assert not np.array_equal(forward, other)


@on_every_fault
def test_a_fault_strikes_in_its_share_of_the_slots(name: str) -> None:
    lasts = "length" in find("fault", name).settings
    for share in (0.0, 0.2, 0.5):
        found = struck(name, share=share, **({"length": 5} if lasts else {}))
        error = 5 * np.sqrt(share * (1 - share) * (10 if lasts else 1) / found.size)
        assert abs(found.mean() - share) <= error


@pytest.mark.parametrize(
    "name", [n for n in names("fault") if "length" in find("fault", n).settings]
)
def test_states_are_those_of_the_chain(name: str) -> None:
    """Looking back finds what going forward from the first step would have kept."""
    share, length = 0.3, 6.0
    found = struck(name, steps=60, share=share, length=length)
    ends: tuple[Any, ...] = (np.arange(NODES), (np.arange(NODES) + 1) % NODES)
    if traits_of(find("fault", name), FaultTraits).strikes == "nodes":
        ends = ends[:1]
    state = rng.uniform(7, "chain/start", *ends) < share
    for step, there in enumerate(found):
        if step:
            draw = rng.uniform(7, "chain", step, *ends)
            state = (draw < share / (0.7 * length)) | (state & (draw < 1 - 1 / length))
        np.testing.assert_array_equal(there, state)


@pytest.mark.parametrize(
    "name", [n for n in names("fault") if "length" in find("fault", n).settings]
)
def test_stretches_have_their_length_on_average(name: str) -> None:
    found = struck(name, share=0.3, length=6).astype(int)
    begins = (np.diff(found, axis=0) == 1).sum()
    assert found.sum() / begins == pytest.approx(6, rel=0.15)


@on_every_fault
@pytest.mark.parametrize("topology", ["ring", "complete", "base_k(k=2)", "exponential"])
def test_mixings_stay_valid_and_balanced_where_that_is_said(
    name: str, topology: str
) -> None:
    both = (
        "(share=0.3, both=true)"
        if "both" in find("fault", name).settings
        else "(share=0.3)"
    )
    for text in (f"{name}(share=0.3)", name + both):
        one = talk(text, topology=topology)
        said = one.doubly_stochastic
        mixings = [m for m in gossip(one) if m is not None]
        for mixing in mixings:
            rows = mixing.dense().sum(1)
            np.testing.assert_allclose(rows, 1.0, atol=1e-12)
            assert mixing.weights.min() >= -1e-12
            assert mixing.doubly_stochastic or not said


def gossip(one: RoundPlanner) -> list[Mixing | None]:
    actions = [
        one.plan(Progress(step, 400, round=step, local_steps=1)) for step in range(1, 60)
    ]
    return [action.mixing if action else None for action in actions]


@on_every_fault
def test_a_preview_counts_what_is_sent_and_expectations_are_near(name: str) -> None:
    one = talk(f"{name}(share=0.25)", schedule="then_merge(constant, at=50%)")
    seeds = [replace(one, faults=replace(one.faults, seed=seed)) for seed in range(4)]
    found = [list(preview(each))[-1].bytes(Size(1, 1)) for each in seeds]
    assert np.mean(found) == pytest.approx(expected_bytes(one, Size(1, 1)), rel=0.1)
    sent = found[0]
    whole = list(preview(replace(one, faults=Faults())))[-1].bytes(Size(1, 1))
    strikes = traits_of(find("fault", name), FaultTraits).strikes
    assert (sent == whole) == (strikes == "messages"), "what is lost was sent"


@on_every_fault
def test_nothing_happens_before_its_time_and_after(name: str) -> None:
    lasts = "length=10, " if "length" in find("fault", name).settings else ""
    one, whole = talk(f"{name}(share=0.8, {lasts}start=40%, stop=60%)"), talk()
    for step in (40, 158, 242, 400):
        here = Progress(step, 400, round=step, local_steps=2)
        one_action, other = one.plan(here), whole.plan(here)
        assert one_action is not None
        assert other is not None
        assert one_action.mixing is not None
        assert other.mixing is not None
        np.testing.assert_array_equal(one_action.mixing.dense(), other.mixing.dense())
    during = one.plan(Progress(200, 400, round=7, local_steps=2))
    assert during
    assert during.mixing
    assert len(during.mixing.senders) < NODES * 3


def run(*texts: str, **settings: Any) -> Block:
    plain = {
        "task": "quadratic(dimension=6)", "nodes": NODES, "dtype": "float64", "topology": "ring",
        "communication": "then_merge(constant, at=50%)", "local_steps": 1, "steps": 24,
        "mixing": "ordered", "init": "independent", "replicas": "vmap", "faults": list(texts),
    }  # fmt: skip
    return tiny_block(**{**plain, **settings})


@on_every_fault
def test_two_workers_do_what_one_process_does_and_bytes_are_as_planned(name: str) -> None:
    alone = run(f"{name}(share=0.3)")
    blocks = [Block(alone.setup, exchange, silent) for exchange in exchanges([3, 5])]
    walk(alone)
    found = torch.cat(together(walk, blocks))
    torch.testing.assert_close(found, alone.rows, rtol=1e-9, atol=1e-12)
    assert alone.planner is not None
    planned = list(preview(alone.planner))[-1].bytes(alone.setup.size)
    assert alone.stats.bytes == blocks[0].stats.bytes == planned


# --- what each does -------------------------------------------------------------------------------


def test_a_node_that_is_away_is_left_out_of_everything_and_comes_back() -> None:
    block = run("churn(nodes=[3], share=1, start=25%, stop=75%)", local_steps=2, steps=40)
    alone = None
    for step in range(1, 41):
        action = block.decide()
        merged = action is not None and action.is_merge
        before = block.rows[3].clone()
        block.setup.algorithm(block, action)
        block.finish_step()
        # its own
        if action is not None and 10 < step < 30:
            assert action.unavailable == {3}
            assert action.mixing is None or (action.mixing.senders == 3).sum() == 1
        if merged and 10 < step < 30:
            alone = block.rows[3].clone()
            others = block.rows[[0, 1, 2, 4, 5, 6, 7]]
            torch.testing.assert_close(others, others[:1].expand_as(others))
            assert not torch.equal(alone, others[0])
        assert not torch.equal(before, block.rows[3]), "it trains on"
    assert alone is not None


def test_the_merge_that_ends_a_run_waits_for_all() -> None:
    rows = trained(run("churn(nodes=[3], share=1)", communication="late", steps=20))
    assert rows[-1]["consensus/distance"] == pytest.approx(0, abs=1e-12)


def test_lost_messages_occupy_the_line_of_the_sender_and_nobody_waits_for_them() -> None:
    one = talk("lost(share=1)")
    action = one.plan(Progress(2, 400, round=0, local_steps=2))
    assert action
    assert action.mixing
    assert action.mixing.messages == 2 * NODES
    assert len(action.mixing.senders) == NODES
    network = uniform(NODES, latency_s=5.0, bandwidth_Bps=10.0)
    clock = Clock(network, None)
    clock.gossip(action.mixing, 30.0, range(NODES))
    np.testing.assert_allclose(clock.ready_s, 3.0)


def test_losing_both_directions_keeps_the_mean_and_losing_one_does_not() -> None:
    for text, kept in (("lost(0.4, both=true)", True), ("lost(0.4)", False)):
        block = run(text, communication="constant", learning_rate=1e-15)
        block.rows.copy_(torch.arange(block.rows.numel()).view_as(block.rows).sin())
        mean = block.rows.mean(0)
        walk(block)
        assert torch.allclose(block.rows.mean(0), mean, atol=1e-9) == kept


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"algorithm": "gradient_tracking", "faults": ["lost"]}, "lost\\(both=true\\)"),
        ({"algorithm": "push_sum", "faults": ["bursts"]}, "churn or outages"),
        ({"algorithm": "exact_diffusion", "faults": ["outages"]}, "leave faults out"),
        ({"algorithm": "allreduce", "faults": ["churn"]}, "leave it out"),
    ],
)
def test_what_faults_make_unsound_is_refused_with_a_remedy(
    settings: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy):
        tiny_block(**settings)


def test_algorithms_that_need_balance_bear_faults_that_keep_it() -> None:
    for text in ("lost(both=true)", "churn", "outages", "bursts(both=true)"):
        block = tiny_block(algorithm="gradient_tracking", faults=[text])
        assert block.setup.planner.doubly_stochastic
