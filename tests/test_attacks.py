"""Bad nodes: how many of them rules of aggregation bear, and what they do to a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import connected, silent, tiny_block, together, trained, vectors, walk
from torch import Tensor

from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.registry import build

GOOD = torch.linspace(-1, 1, 9, dtype=torch.float64)


def crowd(bad: int, where: float) -> Tensor:
    """Return the values [1, m, 1] of good rows, the own first, and of some bad ones."""
    return torch.cat([GOOD, torch.full((bad,), where, dtype=torch.float64)])[
        None, :, None
    ]


def moved(rule: str, bad: int, where: float = 1e6) -> float:
    """Return how far beyond the good ones a rule lets bad values pull a number."""
    values = crowd(bad, where)
    weights = torch.full(values.shape[:2], 1 / values.shape[1], dtype=torch.float64)
    return abs(float(build("aggregation", rule)(values, weights)))


@pytest.mark.parametrize("where", [1e6, -1e6])
def test_the_trimmed_mean_bears_as_many_as_it_cuts(where: float) -> None:
    for cut in (1, 2, 4):
        assert moved(f"trimmed_mean(cut={cut})", cut, where) <= 1
        assert moved(f"trimmed_mean(cut={cut})", cut + 1, where) > 1e4


def test_the_median_bears_less_than_half() -> None:
    assert moved("median", 8) <= 1
    assert moved("median", 10) > 1e4


def test_the_weighted_sum_bears_none() -> None:
    assert moved("weighted", 1) > 1e4


def test_clipping_lets_a_bad_row_pull_no_harder_than_a_good_one() -> None:
    """With one bad row it moves by W_ij t at most, t the distance of the farthest good one."""
    distances = torch.tensor([[0.0, 1.0, 2.0, 3.0, 1e9]], dtype=torch.float64)
    weights = torch.full_like(distances, 0.2)
    found = build("aggregation", "clipping(bad=1)")(distances, weights)
    torch.testing.assert_close(found * distances, weights * distances.clamp(max=3.0))
    by_radius = build("aggregation", "clipping(radius=0.5)")(distances, weights)
    assert float((by_radius * distances).max()) == pytest.approx(0.1)
    two = distances.clone()
    two[0, 3] = 1e9
    beaten = build("aggregation", "clipping(bad=1)")(two, weights)
    assert float((beaten * two).max()) > 1e8


# --- in a run -------------------------------------------------------------------------------------


def block(**settings: Any) -> Block:
    plain = {
        "nodes": 8, "topology": "complete", "communication": "constant", "local_steps": 1,
        "steps": 60, "split": "iid", "learning_rate": 0.05, "metrics": ["accuracy", "consensus"],
    }  # fmt: skip
    return tiny_block(**{**plain, **settings})


def accuracy(**settings: Any) -> float:
    return trained(block(**settings))[-1]["accuracy/local_mean"]


@pytest.mark.parametrize(
    "attack", ["sign_flip(nodes=[3], scale=20)", "noise(nodes=[3], scale=30)"]
)
def test_one_bad_node_ruins_averages_and_no_robust_rule(attack: str) -> None:
    clean = accuracy()
    assert accuracy(attack=attack) < clean - 0.2
    for rule in ("trimmed_mean", "median", "clipping"):
        assert accuracy(attack=attack, aggregation=rule) > clean - 0.05


def test_a_dead_node_drags_everybody_to_its_constant() -> None:
    settings = {
        "communication": "constant",
        "task": "quadratic(dimension=6)",
        "steps": 200,
    }
    dead = block(attack="constant(nodes=[0], value=5.0)", learning_rate=1e-9, **settings)
    trained(dead)
    good = vectors(dead)[1:]
    assert float((good - 5.0).abs().max()) < 0.1


def test_metrics_and_the_merged_model_look_at_good_nodes_only() -> None:
    one = block(attack="constant(share=0.25, value=3.0)", communication="none", steps=3)
    bad = one.setup.attackers.nodes
    assert len(bad) == 2
    good = [node for node in range(8) if node not in bad]
    assert one.good() == good
    snapshot = Evaluator(one).snapshot(complete=True)
    assert snapshot.evaluated.tolist() == snapshot.alive.tolist() == good
    torch.testing.assert_close(snapshot.merged_row, one.rows[good].mean(0))


def test_the_merge_that_ends_a_run_hears_bad_nodes_too() -> None:
    settings = {"communication": "merges(final_merge=true)", "steps": 3, "local_steps": 3}
    poisoned = trained(block(attack="constant(nodes=[0], value=9.0)", **settings))
    before, after = (
        poisoned[-2]["accuracy/local_mean"],
        poisoned[-1]["accuracy/local_mean"],
    )
    robust = trained(
        block(attack="constant(nodes=[0], value=9.0)", aggregation="median", **settings)
    )
    assert after < before
    assert robust[-1]["accuracy/local_mean"] > after


def test_flipped_labels_teach_bad_nodes_only_while_they_last() -> None:
    honest = block(communication="none", split="iid")
    liar = block(
        communication="none", split="iid", attack="label_flip(nodes=[2], start=50%)"
    )
    for one in (honest, liar):
        one.gradient()
    assert torch.equal(honest.grads, liar.grads)
    for one in (honest, liar):
        one.stand_at(40, one.round)
        one.gradient()
    same = [bool((a == b).all()) for a, b in zip(honest.grads, liar.grads, strict=True)]
    assert same == [node != 2 for node in range(8)]


def test_workers_that_talk_over_gloo_hear_what_one_process_hears() -> None:
    settings = {
        "dtype": "float64", "mixing": "ordered", "topology": "ring", "steps": 12, "nodes": 6,
        "attack": "noise(nodes=[0, 4])", "aggregation": "clipping", "replicas": "vmap",
        "communication": "then_merge(constant, at=50%)",
    }  # fmt: skip
    alone = block(**settings)
    walk(alone)
    with connected([4, 2], ordered=True) as exchanges:
        blocks = [Block(alone.setup, exchange, silent) for exchange in exchanges]
        found = torch.cat(together(walk, blocks))
        assert sum(one.stats.wire_bytes for one in blocks) > 0
    torch.testing.assert_close(found, alone.rows, rtol=1e-9, atol=1e-12)
