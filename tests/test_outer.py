"""What streaming DiLoCo and Teleportation are, beyond what every algorithm must keep."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support import silent, tiny_block, trained, vectors

from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.rounds import checkpoint_of, restore
from decentral.network import expected_bytes, preview
from decentral.tasks import Task

PLAIN: dict[str, Any] = {
    "task": "quadratic(dimension=40)", "nodes": 5, "dtype": "float64", "local_steps": 2,
    "steps": 24, "learning_rate": 0.05, "optimizer": "sgd(momentum=0, weight_decay=0)",
    "mixing": "ordered", "replicas": "vmap",
}  # fmt: skip


def walked(block: Block, steps: int = 24) -> Block:
    while block.step < steps:
        block.setup.algorithm(block, block.decide())
        block.finish_step()
    return block


# --- the last round -------------------------------------------------------------------------------

NODES, EACH, WIDTH, HORIZON = 4, 6, 31, 5


def shards() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [4, 6, 31] and targets [4, 6, 1] that every node sees whole in every step."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(NODES, EACH, WIDTH, generator=draw, dtype=torch.float64)
    return x, x[..., :1] * torch.arange(1.0, NODES + 1)[:, None, None] + 1


def outer_by_hand(steps: int, outer: str, start: torch.Tensor) -> torch.Tensor:
    """Return the weights and biases [4, 32] of a few lines of plain PyTorch, no code of ours."""
    x, y = shards()
    nodes = [linear().double() for _ in range(NODES)]
    for node in nodes:
        torch.nn.utils.vector_to_parameters(start.clone(), node.parameters())
    inner = [torch.optim.SGD(node.parameters(), lr=0.02, momentum=0.9) for node in nodes]
    flat = torch.nn.utils.parameters_to_vector
    z = start.clone().requires_grad_()
    nesterov = torch.optim.SGD([z], lr=0.7, momentum=0.9, nesterov=True)
    slow = torch.zeros_like(z)
    for step in range(1, steps + 1):
        for k, node in enumerate(nodes):
            inner[k].zero_grad()
            torch.nn.functional.mse_loss(node(x[k]), y[k]).backward()
            inner[k].step()
        if step % HORIZON:
            continue
        moved = z.detach() - torch.stack(
            [flat(n.parameters()).detach() for n in nodes]
        ).mean(0)
        if outer == "diloco":
            z.grad = moved
            nesterov.step()
        else:
            slow = 0.7 * slow + moved / 0.02
            z.data -= 0.8 * 0.02 * slow
        for node in nodes:
            torch.nn.utils.vector_to_parameters(z.detach().clone(), node.parameters())
    return torch.stack([flat(node.parameters()).detach() for node in nodes])


def linear() -> torch.nn.Module:
    return torch.nn.Linear(WIDTH, 1)


def outer_run(algorithm: str, communication: str, steps: int) -> Block:
    x, y = (part.flatten(0, 1) for part in shards())
    task = Task(
        loss=torch.nn.functional.mse_loss, train=(x, y), test=(x, y),
        owners=torch.arange(NODES).repeat_interleave(EACH),
    )  # fmt: skip
    return tiny_block(
        task=task, model=linear, nodes=NODES, steps=steps, local_steps=HORIZON, batch=EACH,
        algorithm=algorithm, communication=communication, dtype="float64",
        optimizer="sgd(momentum=0.9, weight_decay=0)", learning_rate="constant(lr=0.02)",
    )  # fmt: skip


@pytest.mark.parametrize("steps", [20, 22])
@pytest.mark.parametrize(
    "asked", ["merges", "merges(final_merge=false)", "merges(final_merge=true)"]
)
@pytest.mark.parametrize(
    ("outer", "algorithm"),
    [
        ("diloco", "diloco(outer_lr=0.7, outer_momentum=0.9)"),
        ("diloco", "streaming_diloco(fragments=1, outer_lr=0.7, outer_momentum=0.9)"),
        ("slowmo", "slowmo(slow_lr=0.8, slow_momentum=0.7)"),
    ],
)
def test_the_last_outer_step_is_taken_and_no_merge_is_added(
    algorithm: str, outer: str, asked: str, steps: int
) -> None:
    """What a run ends with is what plain PyTorch ends with, also in the middle of a round."""
    block = outer_run(algorithm, asked, steps)
    wanted = outer_by_hand(steps, outer, block.rows[0, : WIDTH + 1].clone())
    rows = trained(block)
    found, ends = block.rows[:, : WIDTH + 1], "true" in asked
    torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=0, atol=1e-9)
    if not ends:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert rows[-1]["comm/rounds"] == 4 + ends
    assert block.planner is not None
    planned = list(preview(block.planner))[-1].bytes(block.setup.size)
    assert rows[-1]["comm/bytes"] == planned
    assert expected_bytes(block.planner, block.setup.size) == planned
    before = [row for row in rows if row.get("phase") == "before_merge"]
    assert len(before) == (ends or steps == 20)
    assert all(row["consensus/distance"] > 1e-3 for row in before)
    assert all(row["step"] == steps for row in before)
    if before:
        assert before[0]["comm/rounds"] == (3 if steps == 20 else 4)


@pytest.mark.parametrize(
    "algorithm", ["noloco", "dsgd(order=combine_then_adapt)", "push_sum"]
)
def test_a_merge_in_the_last_slot_is_the_algorithms_own(algorithm: str) -> None:
    """What follows the merge in an algorithm's text follows it in the last round, too."""
    settings: dict[str, Any] = {
        **PLAIN,
        "communication": "merges",
        "topology": "complete",
    }
    block = tiny_block(**settings, algorithm=algorithm)
    other = walked(tiny_block(**settings, algorithm=algorithm))
    trained(block)
    assert torch.equal(block.rows, other.rows)


# --- streaming DiLoCo -----------------------------------------------------------------------------


def test_one_fragment_is_diloco_bit_by_bit() -> None:
    one = walked(tiny_block(**PLAIN, algorithm="streaming_diloco(fragments=1)"))
    other = walked(tiny_block(**PLAIN, algorithm="diloco"))
    assert torch.equal(one.rows, other.rows)
    assert one.stats.state() == other.stats.state()


def test_fragments_meet_in_turn_and_only_they() -> None:
    block = tiny_block(
        **PLAIN, algorithm="streaming_diloco(fragments=3)", init="independent"
    )
    block.rows.copy_(torch.arange(block.rows.numel()).view_as(block.rows).sin())
    block.x[:, 40:] = 0
    width = block.x.shape[1]
    for round in range(1, 7):
        walked(block, 2 * round)
        turn = (round - 1) % 3
        equal = (block.x == block.x[0]).all(0)
        part = slice(turn * width // 3, (turn + 1) * width // 3)
        assert equal[part].all()
        behind = slice(
            (turn - 1) % 3 * width // 3, min(40, ((turn - 1) % 3 + 1) * width // 3)
        )
        assert not equal[behind].all(), "local steps came after it"


def test_bytes_of_fragments_are_as_planned_and_a_final_merge_is_whole() -> None:
    for communication in ("merges", "merges(final_merge=true)", "constant"):
        block = tiny_block(
            **PLAIN,
            algorithm="streaming_diloco(fragments=3)",
            communication=communication,
        )
        rows = trained(block)
        assert block.planner is not None
        planned = list(preview(block.planner))[-1].bytes(block.setup.size)
        assert rows[-1]["comm/bytes"] == planned
        assert block.setup.size.merge == -(-40 // 3) * 8
        assert block.setup.size.last == 40 * 8
        assert expected_bytes(block.planner, block.setup.size) == planned
        if "final_merge" in communication:
            torch.testing.assert_close(block.rows, block.rows[:1].expand_as(block.rows))


def test_what_is_kept_of_the_own_part_is_mixed_in() -> None:
    block = tiny_block(**PLAIN, algorithm="streaming_diloco(fragments=1, keep=1)")
    alone = tiny_block(**PLAIN, algorithm="local")
    walked(block, 20)
    walked(alone, 20)
    torch.testing.assert_close(block.rows, alone.rows)


# --- what arrives later ---------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_what_arrives_later_is_mixed_in_by_then(overlap: int) -> None:
    """Without gradients x_i - mean shrinks by ``keep`` when a round arrives, and not before."""
    settings = {**PLAIN, "learning_rate": 1e-300, "local_steps": 4}
    rule = "streaming_diloco(fragments=1, outer_lr=1, outer_momentum=0, keep=0.5, overlap={})"
    block = tiny_block(**settings, algorithm=rule.format(overlap))
    block.x.copy_(torch.arange(block.x.numel()).view_as(block.x).sin())
    start, mean = block.x.clone(), block.x.mean(0)
    for step in range(1, 25):
        walked(block, step)
        arrived = max(0, (step - overlap) // 4) if step < 24 else 6
        expected = mean + 0.5**arrived * (start - mean)
        torch.testing.assert_close(block.x, expected, rtol=0, atol=1e-12)


def test_local_steps_that_are_done_meanwhile_are_kept_in_part() -> None:
    """x <- keep x + (1 - keep) z: x after two more steps, z the outer step on what was sent."""
    rule = "streaming_diloco(fragments=1, outer_lr=0.5, outer_momentum=0.8, keep=0.25, overlap=2)"
    block = tiny_block(**{**PLAIN, "local_steps": 4}, algorithm=rule)
    alone = tiny_block(**PLAIN, algorithm="local")
    z = block.x[0].clone()
    walked(block, 4)
    walked(alone, 4)
    assert torch.equal(block.x, alone.x), "what was sent is not there yet"
    z -= 0.5 * 1.8 * (z - block.x.mean(0))
    walked(alone, 6)
    walked(block, 6)
    torch.testing.assert_close(block.x, 0.25 * alone.x + 0.75 * z, rtol=0, atol=1e-14)


def test_the_next_round_and_the_end_wait_for_what_is_under_way() -> None:
    rule = "streaming_diloco(fragments=3, keep=0.5, overlap={})"
    one, other = (tiny_block(**PLAIN, algorithm=rule.format(n)) for n in (2, 900))
    assert torch.equal(walked(one).rows, walked(other).rows)
    assert not one.state["due"].any()


LATER: dict[str, Any] = {
    **PLAIN, "local_steps": 4, "network": "uniform(latency_s=1s, bandwidth_Bps=1kB/s)",
    "compute": "constant(300ms)",
}  # fmt: skip


def test_a_run_goes_on_bit_by_bit_while_something_is_under_way() -> None:
    block, other = (
        tiny_block(
            **LATER, algorithm="streaming_diloco(fragments=3, keep=0.5, overlap=3)"
        )
        for _ in range(2)
    )
    walked(block, 9)
    assert block.state["due"].tolist() == [[2.0]] * 5
    restore(other, copy.deepcopy(checkpoint_of(block)))
    for each in (block, other):
        walked(each)
    assert torch.equal(block.rows, other.rows)
    assert block.clock.state() == other.clock.state()


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_nobody_waits_for_what_travels_under_later_steps(overlap: int) -> None:
    """24 steps of 0.3 s and six rounds of T: T - 0.3 overlap of each is not hidden, the last is."""
    rule = f"streaming_diloco(fragments=1, overlap={overlap})"
    block = walked(tiny_block(**LATER, algorithm=rule))
    single = walked(tiny_block(**LATER, algorithm="diloco"), 4)
    travel = float(single.clock.ready_s.max()) - 4 * 0.3
    assert travel > 1.0
    waited = 5 * max(0.0, travel - 0.3 * overlap) + travel
    np.testing.assert_allclose(block.clock.ready_s, 24 * 0.3 + waited)


# --- teleportation --------------------------------------------------------------------------------


def test_moving_models_mix_like_as_many_nodes_on_a_small_graph() -> None:
    """Without gradients k models come to their mean, wherever they are."""
    moving = tiny_block(
        **{**PLAIN, "nodes": 12, "local_steps": 1, "learning_rate": 1e-300},
        algorithm="teleportation",
        topology="teleportation(active=4)",
    )
    assert moving.planner is not None
    start = torch.arange(4.0, dtype=torch.float64)
    action = moving.planner.plan(moving.planner.progress(1, 0))
    assert action is not None
    assert action.mixing is not None
    dense = torch.from_numpy(action.mixing.dense())
    new = torch.nonzero(dense.sum(1) - dense.diagonal() > 0).flatten()
    old = torch.nonzero(dense[new].sum(0) > 0).flatten()
    assert len(new) == len(old) == 4
    vectors(moving)[old] = start[:, None].expand(4, 40)
    walked(moving, 8)
    active = moving.state["active"][:, 0] > 0
    assert int(active.sum()) == 4
    found = vectors(moving)[active]
    torch.testing.assert_close(found, torch.full_like(found, 1.5), rtol=0, atol=0.05)
    assert moving.good() == torch.nonzero(active).flatten().tolist()


def test_who_rests_does_not_move_and_does_not_count() -> None:
    block = tiny_block(
        **{**PLAIN, "nodes": 12, "local_steps": 2},
        algorithm="teleportation",
        topology="teleportation(active=3)",
        init="independent",
    )
    walked(block, 4)
    resting = block.state["active"][:, 0] == 0
    before = block.rows.clone()
    walked(block, 5)
    assert torch.equal(block.rows[resting], before[resting])
    assert (block.rows[~resting] != before[~resting]).any(1).all()
    walked(block, 23)
    row = trained(Block(block.setup, LocalExchange(12, ordered=True), silent))[-1]
    assert row["nodes/healthy"] == 12


def test_a_round_costs_what_the_active_nodes_hear() -> None:
    block = tiny_block(**{**PLAIN, "nodes": 12}, algorithm="teleportation")
    walked(block)
    assert block.planner is not None
    planned = list(preview(block.planner))[-1]
    assert block.stats.bytes == planned.bytes(block.setup.size)
    assert block.stats.messages / block.stats.rounds <= 4 * 3


@pytest.mark.parametrize("nodes", [2, 3, 9])
def test_new_nodes_take_a_convex_mix_of_old_models(nodes: int) -> None:
    block = tiny_block(**{**PLAIN, "nodes": nodes}, algorithm="teleportation")
    assert block.planner is not None
    for round in range(20):
        dense = block.planner.mixer.mixing(round).dense()
        np.testing.assert_allclose(dense.sum(1), 1)
        assert dense.min() >= 0


# --- what is sent of an outer step ----------------------------------------------------------------


@pytest.mark.parametrize(("codec", "share"), [("int8", 1 / 7), ("bf16", 1 / 4)])
def test_coded_outer_gradients_come_to_where_plain_ones_do(
    codec: str, share: float
) -> None:
    """Differences to what all know of a model are coded, and averaged at once."""
    settings: dict[str, Any] = {
        **PLAIN, "algorithm": "diloco(outer_lr=0.5, outer_momentum=0.5)", "local_steps": 5,
        "topology": "complete", "communication": "constant", "steps": 60,
        "task": "quadratic(dimension=400)",
    }  # fmt: skip
    plain = tiny_block(**settings)
    start = vectors(plain).clone()
    coded = tiny_block(**settings, codec=f"choco({codec}, step=1)")
    walked(plain, 60)
    walked(coded, 60)
    assert coded.stats.bytes <= share * plain.stats.bytes
    moved = (vectors(plain) - start).norm()
    assert (vectors(coded) - vectors(plain)).norm() < 1e-4 * moved


def test_a_random_subset_is_averaged_exactly_and_the_rest_stays() -> None:
    """As in SPARTA: in every step another share of the parameters, the same on all nodes."""
    settings = {**PLAIN, "local_steps": 1, "learning_rate": 1e-300, "init": "independent"}
    block = tiny_block(
        **settings, topology="complete", communication="constant", codec="random_k(0.25)"
    )
    draw = torch.Generator().manual_seed(0)
    vectors(block).copy_(torch.randn(5, 40, generator=draw, dtype=torch.float64))
    before = vectors(block).clone()
    walked(block, 1)
    found = vectors(block)
    sent = (found != before).any(0)
    assert 0 < int(sent.sum()) <= 12  # of 48 columns, of which 40 are parameters
    means = before.mean(0).expand(5, -1)
    torch.testing.assert_close(found[:, sent], means[:, sent], rtol=0, atol=1e-14)
