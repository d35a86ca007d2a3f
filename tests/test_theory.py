"""Theorems about gossip and about D-SGD, and numbers that were found by independent code."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import numpy as np
import pytest
import torch
from support import planner, round_actions, tiny_block, trained, vectors

from decentral.exchange.base import LocalExchange
from decentral.mixing.base import Mixer
from decentral.mixing.summary import spectral_gap
from decentral.registry import build
from decentral.theory.reduced import decay_rate, shaken_norm
from decentral.topology.base import Topology, statistics


def mixer(name: str, nodes: int, weights: str = "auto") -> Mixer:
    return Mixer.make(Topology(build("topology", name), nodes), weights)


# --- spectral gaps --------------------------------------------------------------------------------

#: 1 - ||W - J||_2 found by an independent program, four digits; Metropolis weights on undirected
#: graphs, uniform ones on the directed exponential graph.
MEASURED = {
    "ring": {8: 0.1953, 16: 0.0507, 25: 0.0209, 32: 0.0128, 64: 0.0032},
    "exponential": {8: 0.5000, 16: 0.4000, 25: 0.4891, 32: 0.3333, 64: 0.2857},
    "star": {8: 0.1250, 16: 0.0625, 25: 0.0400, 32: 0.0312, 64: 0.0156},
    "complete": {8: 1.0, 16: 1.0, 25: 1.0, 32: 1.0, 64: 1.0},
    "one_peer_exponential": {8: 1.0, 16: 1.0, 25: 0.2810, 32: 1.0, 64: 1.0},
}


@pytest.mark.parametrize(("name", "gaps"), MEASURED.items())
def test_spectral_gaps_agree_with_independent_measurements(
    name: str, gaps: dict[int, float]
) -> None:
    found = {nodes: round(spectral_gap(mixer(name, nodes)), 4) for nodes in gaps}
    assert found == pytest.approx(gaps, abs=1e-4)


@pytest.mark.parametrize("nodes", [4, 5, 8, 13, 32])
def test_spectral_gaps_have_their_closed_forms(nodes: int) -> None:
    """Ring: 2/3 (1 - cos 2 pi / n), from n = 4; star: 1 / n; exponential: 2 / (1 + log2 n)."""
    assert spectral_gap(mixer("ring", nodes)) == pytest.approx(
        2 / 3 * (1 - cos(2 * pi / nodes))
    )
    assert spectral_gap(mixer("star", nodes)) == pytest.approx(1 / nodes)
    if nodes & (nodes - 1) == 0:
        wanted = 2 / (1 + (nodes - 1).bit_length())
        assert spectral_gap(mixer("exponential", nodes)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "degree", "diameter"),
    [
        ("ring", 2, 8),
        ("star", 15, 2),
        ("complete", 15, 1),
        ("nx:hypercube_graph(n=4)", 4, 4),
    ],
)
def test_degrees_and_diameters(name: str, degree: int, diameter: int) -> None:
    found = statistics(Topology(build("topology", name), 16))
    assert (found["degree_max"], found["diameter"]) == (degree, diameter)


# --- consensus ------------------------------------------------------------------------------------


def distances(name: str, nodes: int, rounds: int) -> tuple[np.ndarray, float]:
    """Return ||x_t - mean|| of gossip from a random start, and beta = ||W - J||_2."""
    made = mixer(name, nodes)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(nodes, 7)))
    mean, exchange, found = rows.mean(0), LocalExchange(nodes), []
    for round in range(rounds):
        found.append(float((rows - mean).norm()))
        exchange.mix(rows, made.mixing(round))
    torch.testing.assert_close(rows.mean(0), mean, rtol=0, atol=1e-12)
    return np.array([*found, float((rows - mean).norm())]), 1 - spectral_gap(made)


@pytest.mark.parametrize(
    ("name", "nodes"), [("ring", 9), ("star", 6), ("erdos_renyi", 12)]
)
def test_consensus_contracts_at_the_second_eigenvalue(name: str, nodes: int) -> None:
    """||x_t - mean|| <= beta^t ||x_0 - mean||, and asymptotically the ratio is beta."""
    distance, beta = distances(name, nodes, rounds=120)
    assert (distance <= beta ** np.arange(121) * distance[0] * (1 + 1e-9)).all()
    late = distance[60] / distance[59]
    assert late == pytest.approx(beta, rel=1e-3)


@pytest.mark.parametrize("nodes", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("local_steps", [1, 3, 10])
def test_one_peer_exponential_averages_exactly_after_log2_n_rounds(
    nodes: int, local_steps: int
) -> None:
    """Ying et al. (2021): and not one round sooner; also when only some rounds are on."""
    rounds = nodes.bit_length() - 1
    talk = planner(
        "one_peer_exponential", "constant(0.4)", nodes=nodes, steps=60 * rounds * local_steps,
        local_steps=local_steps,
    )  # fmt: skip
    rows = torch.eye(nodes, dtype=torch.float64)
    exchange = LocalExchange(nodes)
    for count, (_, action) in enumerate(round_actions(talk), start=1):
        exchange.mix(rows, action.mixing)
        exact = torch.allclose(rows, torch.full_like(rows, 1 / nodes), rtol=0, atol=1e-14)
        assert exact == (count >= rounds)
        if count == rounds:
            return
    pytest.fail("too few rounds were on")


def test_one_peer_exponential_on_25_nodes_only_contracts() -> None:
    distance, _ = distances("one_peer_exponential", 25, rounds=50)
    assert distance[50] > 1e-12
    assert distance[50] < distance[0] * 0.75**50 * 10


# --- D-SGD on quadratics --------------------------------------------------------------------------

QUADRATIC: dict[str, Any] = {
    "task": "quadratic(dimension=4, heterogeneity=2)", "nodes": 6, "dtype": "float64", "batch": 1,
    "communication": "constant", "local_steps": 1, "optimizer": "sgd(momentum=0, weight_decay=0)",
    "log_every": 10_000, "eval_every": 10_000,
}  # fmt: skip


def optimum(block: Any) -> torch.Tensor:
    """Return sum(a_i b_i) / sum(a_i)."""
    targets = block.sampler.batch(0, 1).targets[:, 0]
    return targets.prod(1).sum(0) / targets[:, 0].sum(0)


def limit(lr: float, steps: int, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows after many steps, and the optimum."""
    block = tiny_block(**{**QUADRATIC, **settings}, learning_rate=lr, steps=steps)
    trained(block)
    return vectors(block), optimum(block)


@pytest.mark.parametrize(
    "topology", ["ring", pytest.param("exponential", marks=pytest.mark.soak)]
)
def test_the_bias_of_dsgd_on_heterogeneous_data_shrinks_with_the_step_size(
    topology: str,
) -> None:
    """Without noise D-SGD converges to a point that is O(lr) from the optimum (Yuan, Ling & Yin,
    2016): halving the step size halves the distance of every node, to first order."""
    found = [limit(lr, int(8 / lr), topology=topology) for lr in (0.08, 0.04, 0.02)]
    bias = np.array([float((rows - best).norm()) for rows, best in found])
    ratio = bias[:-1] / bias[1:]
    assert bias[-1] > 1e-3
    assert abs(ratio[1] - 2) < abs(ratio[0] - 2) < 0.4, "the ratio tends to 2"
    assert abs(ratio[1] - 2) < 0.2


def test_dsgd_has_no_bias_when_everybody_has_the_same_data() -> None:
    rows, best = limit(0.08, 400, task="quadratic(dimension=4, heterogeneity=0)", seed=3)
    assert float((rows - best).norm()) < 1e-10


def test_the_limit_of_dsgd_solves_its_fixed_point_equation() -> None:
    """Adapt-then-combine rests where x = W (x - lr a (x - b)), coordinate by coordinate."""
    lr = 0.08
    rows, _ = limit(lr, 800)
    block = tiny_block(**QUADRATIC, learning_rate=lr, steps=1)
    assert block.setup.planner is not None
    w = block.setup.planner.mixer.mixing(0).dense()
    targets = block.sampler.batch(0, 1).targets[:, 0].numpy()
    for axis in range(4):
        a, b = targets[:, 0, axis], targets[:, 1, axis]
        solved = np.linalg.solve(np.eye(6) - w @ np.diag(1 - lr * a), lr * w @ (a * b))
        np.testing.assert_allclose(rows[:, axis].numpy(), solved, atol=1e-9)


def test_all_reduce_converges_to_the_closed_form_optimum() -> None:
    block = tiny_block(**{
        **{k: v for k, v in QUADRATIC.items() if k != "communication"},
        "algorithm": "allreduce", "learning_rate": 0.1, "steps": 500,
    })  # fmt: skip
    rows = trained(block)
    assert (vectors(block) - optimum(block)).abs().max() < 1e-12
    assert rows[0]["loss/excess_merged"] > 0.1
    assert abs(rows[-1]["loss/excess_merged"]) < 1e-12


def test_nodes_that_never_talk_converge_to_their_own_optima_and_merging_helps() -> None:
    """On quadratics of equal curvature the plain average of the local optima is the optimum."""
    block = tiny_block(**{
        **QUADRATIC, "task": "quadratic(dimension=4, heterogeneity=2, condition=1)",
        "communication": "none(final_merge=true)", "learning_rate": 0.1, "steps": 500,
    })  # fmt: skip
    rows = trained(block)
    before, after = rows[-2], rows[-1]
    assert before["phase"] == "before_merge"
    assert before["loss/local_mean"] - before["loss/merged"] > 0.5
    assert before["mergeability/gap"] > 0.5
    assert abs(after["loss/excess_merged"]) < 1e-10
    assert after["consensus/distance"] < 1e-12


def test_more_communication_means_less_disagreement() -> None:
    found = []
    for talks in ("none", "constant(0.2)", "constant(1.0)"):
        block = tiny_block(
            **{**QUADRATIC, "communication": talks}, learning_rate=0.05, steps=200
        )
        found.append(trained(block)[-1]["consensus/distance"])
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[1] > 2 * found[2] > 0


# --- two-layer linear networks --------------------------------------------------------------------


def test_a_second_layer_shaken_by_hand_shrinks_the_first() -> None:
    left = [after / before for before, after in map(shaken_norm, (0.0, 0.1, 0.3, 1.0))]
    assert left[0] == pytest.approx(1.0, abs=1e-3)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.87


def test_norms_fall_under_label_noise_as_the_formula_says() -> None:
    """The expectation of one step, over many inputs and the stationary square of the error."""
    lr, noise, dimension, width = 1e-3, 4.0, 20, 1000
    random = np.random.default_rng(0)
    first = random.standard_normal((width, dimension)) / dimension**0.5
    second = random.standard_normal(width) / width**0.5
    inputs = random.standard_normal((100_000, dimension))
    hidden_squared = ((inputs @ (first.T @ first)) * inputs).sum(1)
    curvature = (first**2).sum() + dimension * (second**2).sum()
    error = noise**2 / (1 - lr * curvature / 2)
    moved = (
        lr**2 * error * ((second**2).sum() * (inputs**2).sum(1) - hidden_squared).mean()
    )
    rate = decay_rate(lr, noise, (first**2).sum(), (second**2).sum(), dimension)
    assert -moved / (2 * (first**2).sum()) == pytest.approx(rate, rel=0.01)
