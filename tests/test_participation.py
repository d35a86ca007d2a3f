"""Runs in which some nodes are drawn for every round, and the others rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support import (
    advance,
    exchanges,
    silent,
    tiny_block,
    tiny_setup,
    together,
    trained,
    walk,
)
from torch import Tensor, nn

from decentral.loop.block import Block, participation_of
from decentral.loop.rounds import checkpoint_of, restore
from decentral.merging.base import merge_weights
from decentral.network.clock import forecast
from decentral.network.planning import Size, expected_bytes, preview
from decentral.registry import find, names
from decentral.schedules.action import Participation
from decentral.traits import AlgorithmTraits, traits_of

EXACT: dict[str, Any] = {"dtype": "float64", "replicas": "vmap", "mixing": "ordered"}
NETWORK = "uniform(latency_s=1ms,bandwidth_Bps=1MB/s)"
#: The algorithms in which nodes may rest, and a schedule that each of them allows.
PARTIAL = {
    name: "merges" if partial == "merges" else "constant"
    for name in names("algorithm")
    if (partial := traits_of(find("algorithm", name), AlgorithmTraits).partial)
    != "nothing"
}


def drawn(block: Block) -> list[int]:
    assert block.planner is not None
    found = block.planner.drawn(block.step + 1)
    assert found is not None
    return found.tolist()


# --- who is drawn -----------------------------------------------------------------


def test_every_node_is_drawn_equally_often_and_as_many_in_each_round() -> None:
    """So the mean over those who are drawn has no bias."""
    rounds, nodes, count = 1500, 10, 3
    draws = np.stack(
        [Participation(count, 1).drawn(np.arange(nodes), k) for k in range(rounds)]
    )
    assert (draws.sum(1) == count).all()
    share = count / nodes
    spread = (share * (1 - share) / rounds) ** 0.5
    assert np.abs(draws.mean(0) - share).max() < 4 * spread
    # pairs, too, which decides how many links both ends of which are there
    both = draws.astype(float).T @ draws / rounds
    pair = count * (count - 1) / (nodes * (nodes - 1))
    assert (
        np.abs(both[~np.eye(nodes, dtype=bool)] - pair).max() < 5 * (pair / rounds) ** 0.5
    )


@pytest.mark.parametrize("amount", [1, 1.0, 8, 0.99])
def test_all_nodes_take_the_usual_way(amount: float) -> None:
    assert participation_of(tiny_setup(nodes=8, participation=amount).config) is None
    assert tiny_block(nodes=8, participation=amount).participants is None


def test_the_mean_of_a_merge_is_that_of_the_drawn_by_their_samples() -> None:
    """And whoever is drawn next begins with it."""
    block = tiny_block(
        nodes=6, participation=0.5, algorithm="local_sgd", merge="weighted", **EXACT
    )
    block.setup.algorithm(block, block.decide())
    block.finish_step()
    advance(block, 4)
    block.gradient()
    block.adapt()
    here = drawn(block)
    held = block.setup.samples_held
    weights = merge_weights(block.setup.merge, held[here]).to(block.rows)
    assert held[here].unique().numel() > 1  # or weights would not matter
    mean = weights @ block.rows[here]
    block.combine(block.decide())
    torch.testing.assert_close(block.rows, mean.expand_as(block.rows))


# --- who rests --------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTIAL)
def test_nodes_that_rest_stay_as_they_are(name: str) -> None:
    """Rows, statistics of BatchNorm, counters, states of algorithm and optimizer."""
    block = tiny_block(
        nodes=6, participation=3, algorithm=name, communication=PARTIAL[name],
        local_steps=2, optimizer="adamw", clip=0.5, model=counting(), steps=8,
    )  # fmt: skip
    seen: set[int] = set()
    while block.step < block.setup.config.steps:
        resting = [n for n in block.hosted if n not in drawn(block)]
        action, before = block.decide(), kept(block)
        block.setup.algorithm(block, action)
        block.finish_step()
        after = kept(block)
        merged = action is not None and action.is_merge
        for node in resting:
            names = [k for k in before[node] if not (merged and takes(k))]
            assert {*after[node]} == {*before[node]}
            for key in names:
                assert torch.equal(before[node][key], after[node][key]), (node, key)
        for node in drawn_before(block):
            assert not torch.equal(before[node]["row"], after[node]["row"])
        seen.update(drawn_before(block))
    assert len(seen) > 3  # the draws change


def takes(key: str) -> bool:
    """Tell whether a node that rests takes something at a merge: the common model."""
    return key == "row" or key.startswith("state/")


def drawn_before(block: Block) -> list[int]:
    assert block.planner is not None
    found = block.planner.drawn(block.step)
    assert found is not None
    return found.tolist()


def kept(block: Block) -> dict[Any, dict[str, Tensor]]:
    nodes = checkpoint_of(block).nodes
    return {n: {k: v.clone() for k, v in own.items()} for n, own in nodes.items()}


def counting() -> nn.Module:
    """Return a model with statistics, and with a counter of its forward passes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def test_drawn_nodes_see_the_samples_that_they_would_see_among_all() -> None:
    """A silent interval gives them the rows that they have where all take part."""
    settings: dict[str, Any] = {"nodes": 6, "communication": "none", "steps": 5, **EXACT}
    whole, part = tiny_block(**settings), tiny_block(participation=3, **settings)
    first, here = part.rows.clone(), drawn(part)
    advance(whole, 5)
    advance(part, 5)
    assert torch.equal(part.rows[here], whole.rows[here])
    rest = [n for n in range(6) if n not in here]
    assert torch.equal(part.rows[rest], first[rest])


def test_the_loss_is_that_of_the_nodes_that_were_drawn() -> None:
    block = tiny_block(nodes=6, participation=2, algorithm="local_sgd", steps=5)
    rows = trained(block)
    last = next(row for row in rows if row["step"] == 3)
    assert (last["nodes/training"], last["nodes/healthy"]) == (2, 6)
    assert last["batch/global"] == 2 * last["batch/size"]
    losses = block.losses[drawn_before(block)].double()
    final = rows[-1]["loss/train"]
    assert final == pytest.approx(losses.mean().item())


# --- the laws of a run ------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 2, 3), (1, 7)])
@pytest.mark.parametrize(
    "how",
    [{"communication": "constant", "topology": "complete"}, {"algorithm": "diloco"}],
    ids=["gossip", "merges"],
)
def test_workers_draw_the_same_nodes(how: dict[str, Any], sizes: Sequence[int]) -> None:
    settings: dict[str, Any] = {
        "nodes": 8, "participation": 3, "local_steps": 2, "steps": 8,
        "optimizer": "adamw", "network": NETWORK, "compute": "20ms", **how, **EXACT,
    }  # fmt: skip
    alone = tiny_block(**settings)
    setup = tiny_setup(**settings)
    blocks = [Block(setup, each, silent) for each in exchanges(sizes)]
    walk(alone)
    together(walk, blocks)
    rows = torch.cat([block.rows for block in blocks])
    if how.get("algorithm"):  # an all-reduce adds in an order of its own
        torch.testing.assert_close(rows, alone.rows, rtol=1e-9, atol=1e-12)
    else:
        assert torch.equal(rows, alone.rows)
    for block in blocks:
        assert block.stats.bytes == alone.stats.bytes
        assert np.array_equal(block.clock.ready_s, alone.clock.ready_s)


@pytest.mark.parametrize("name", PARTIAL)
def test_a_run_goes_on_to_the_same_bits(name: str) -> None:
    """From the middle of an interval, nodes having made updates in unlike number."""
    settings: dict[str, Any] = {
        "nodes": 5, "participation": 0.5, "local_steps": 3, "steps": 15, "seed": 2,
        "optimizer": "adamw", "algorithm": name, "communication": PARTIAL[name],
    }  # fmt: skip
    through, first, later = (tiny_block(**settings) for _ in range(3))
    walk(through)
    advance(first, 7)
    restore(later, checkpoint_of(first))
    walk(later)
    assert torch.equal(later.rows, through.rows)


@pytest.mark.parametrize("communication", ["merges", "constant", "late(start=40%)"])
def test_bytes_and_seconds_are_known_before(communication: str) -> None:
    setup: dict[str, Any] = {
        "nodes": 8, "participation": 0.5, "topology": "complete", "local_steps": 2,
        "communication": communication, "network": NETWORK, "compute": "20ms",
    }  # fmt: skip
    block = tiny_block(**setup)
    planned = list(preview(block.setup.planner))[-1]  # pyright: ignore
    seen = forecast(block.setup.planner, block.setup.clock(), block.setup.row_bytes)  # pyright: ignore
    final = trained(block)[-1]
    assert final["comm/bytes"] == planned.bytes(block.setup.size)
    assert final["time/simulated_s"] == pytest.approx(seen.seconds)


def test_expected_bytes_are_those_of_many_draws() -> None:
    for communication, exact in (
        ("merges(final_merge=false)", True),
        ("constant", False),
    ):
        setup = tiny_setup(
            nodes=6, participation=3, topology="complete", steps=400, local_steps=1,
            communication=communication,
        )  # fmt: skip
        planner = setup.planner
        assert planner is not None
        found = list(preview(planner))[-1].bytes(Size(1, 1))
        expected = expected_bytes(planner, Size(1, 1))
        assert found == expected if exact else abs(found / expected - 1) < 0.05


def test_a_node_waits_for_the_model_it_begins_with_and_for_nothing_else() -> None:
    """Between neighbours nobody waits for who rests; after a merge all have waited."""
    settings: dict[str, Any] = {
        "nodes": 4, "participation": 2, "steps": 5, "compute": "1s", "network": NETWORK,
    }  # fmt: skip
    silent_ = tiny_block(communication="none", **settings)
    here = drawn(silent_)
    advance(silent_, 5)
    assert silent_.clock.ready_s[here].tolist() == [5.0, 5.0]
    assert silent_.clock.ready_s.sum() == 10.0
    merged = tiny_block(algorithm="local_sgd", **settings)
    advance(merged, 5)
    assert np.unique(merged.clock.ready_s).size == 1
    assert merged.clock.ready_s[0] > 5


def test_a_budget_of_data_is_what_the_drawn_nodes_see() -> None:
    how: dict[str, Any] = {"nodes": 8, "batch": 4, "algorithm": "local_sgd"}
    whole = tiny_setup(data="960", **how)
    part = tiny_setup(data="960", participation=2, **how)
    assert (whole.config.steps, part.config.steps) == (30, 120)
    each = tiny_setup(data="60/node", participation=2, **how)
    assert each.config.steps == 60
