"""Laws of algorithms: each declares guarantees, and every declared guarantee is put to the test.

A guarantee is a check of this file: ``CHECKS[name](algorithm)`` raises AssertionError where the
algorithm does not keep it. Numbers are float64; "equal" is up to a few units in the last place per
addition, unless bitwise is said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from support import exchanges, in_rounds, logical, silent, tiny_block, together, vectors
from torch import Tensor

from decentral.loop.block import Block
from decentral.loop.rounds import checkpoint_of, restore
from decentral.mixing.summary import spectral_gap
from decentral.registry import ConfiguredPlugin, Plugin, build, find
from decentral.tasks.synthetic import quadratic_loss
from decentral.traits import AlgorithmTraits, traits_of

STEPS = 6
ULP = float(torch.finfo(torch.float64).eps)

Rule = ConfiguredPlugin


def promised(rule: Rule | Plugin) -> AlgorithmTraits:
    return traits_of(rule, AlgorithmTraits)


def quadratics(rule: Rule, **settings: Any) -> Block:
    """Return a block of vectors that minimise heterogeneous quadratics with plain SGD."""
    plain = {
        "task": "quadratic(dimension=6, noise=0.3)", "dtype": "float64", "batch": 3, "seed": 1,
        "communication": "constant", "steps": STEPS, "local_steps": 1, "learning_rate": 0.05,
        "optimizer": "sgd(momentum=0, weight_decay=0)", "mixing": "ordered",
    }  # fmt: skip
    suited = promised(rule).defaults
    asks = {**{k: v for k, v in plain.items() if k not in suited}, **settings}
    if promised(rule).communicates != "rounds":
        asks = {
            k: v
            for k, v in asks.items()
            if k not in ("communication", "topology", "weights")
        }
    return tiny_block(**asks, algorithm=rule)


def one_step(block: Block) -> None:
    action = block.decide()
    block.setup.algorithm(block, action)
    block.finish_step()


def gradients_here(block: Block) -> Tensor:
    """Return every node's gradient at its present row on its next batch, and disturb nothing."""
    out = torch.zeros_like(block.grads)
    batch = block.sampler.batch(block.samples, block.batch_size)
    block.pipeline.compute(block.rows.clone(), {}, batch, out)
    return out


def scatter(block: Block) -> None:
    """Put every node somewhere else."""
    block.rows.copy_(torch.linspace(-1, 2, block.rows.numel()).view_as(block.rows).sin())


def close(found: Tensor, wanted: Tensor, additions: int) -> None:
    scale = float(wanted.abs().max()) + 1
    torch.testing.assert_close(
        found, wanted, rtol=0, atol=4 * ULP * (additions + 1) * scale
    )


# --- the guarantees -------------------------------------------------------------------------------


def single_node_is_plain(rule: Rule) -> None:
    """One node is the plain optimizer of torch, bit by bit, with settings that say nothing else."""
    rule = (
        build("algorithm", {"name": rule.name, **identity})
        if (identity := said(rule))
        else rule
    )
    plain = "momentum" in promised(rule).refuses
    rules = (
        ("sgd(momentum=0)", "sgd(momentum=0)")
        if plain
        else ("sgd(nesterov=true)", "adamw")
    )
    for optimizer, replicas in zip(rules, ("loop", "vmap"), strict=True):
        block = tiny_block(
            nodes=1, steps=STEPS, dtype="float64", replicas=replicas, optimizer=optimizer,
            learning_rate="cosine(lr=0.05)", algorithm=rule, seed=2,
        )  # fmt: skip
        model, layout = block.setup.model.train(), block.setup.layout
        layout.unpack(block.rows[0], model)
        theirs = block.setup.optimizer(list(model.parameters()))
        for _ in range(STEPS):
            batch = block.sampler.batch(block.samples, block.batch_size)
            theirs.param_groups[0]["lr"] = block.learning_rate
            theirs.zero_grad()
            block.setup.task.loss(model(batch.inputs[0]), batch.targets[0]).backward()
            theirs.step()
            one_step(block)
            row = torch.zeros_like(block.rows[0])
            layout.pack(model, row)
            if replicas == "loop":
                assert torch.equal(row, block.rows[0])
            else:
                torch.testing.assert_close(row, block.rows[0], rtol=1e-10, atol=1e-12)


def said(rule: Rule) -> dict[str, Any]:
    """Return the settings under which an algorithm does nothing to a lonely node."""
    return dict(promised(rule).identity)


def keeps_mean(rule: Rule) -> None:
    """Communication leaves the mean alone: it moves by -lr times the mean of the gradients."""
    for topology in ("ring", "star", "one_peer_exponential"):
        for schedule in (
            "constant(1.0)",
            "constant(0.5)",
            "then_merge(schedule=none, at=50%)",
        ):
            refused = promised(rule).refuses
            changing = schedule == "constant(0.5)" or topology == "one_peer_exponential"
            if changing and "time_varying" in refused:
                continue
            block = quadratics(rule, nodes=5, topology=topology, communication=schedule)
            assert block.setup.planner is None or doubly_stochastic(block, topology)
            scatter(block)
            for _ in range(STEPS):
                mean, gradient = block.rows.mean(0), gradients_here(block).mean(0)
                one_step(block)
                close(block.rows.mean(0), mean - 0.05 * gradient, additions=10)


def doubly_stochastic(block: Block, topology: str) -> bool:
    assert block.setup.planner is not None
    return block.setup.planner.mixer.doubly_stochastic


def large_batch_on_complete(rule: Rule) -> None:
    """Full mixing in every step, and plain SGD, is SGD on the union of the batches."""
    equals_large_batch(quadratics(rule, nodes=5, topology="complete"))


def large_batch(rule: Rule) -> None:
    """Plain SGD on many nodes is SGD on the union of their batches."""
    equals_large_batch(quadratics(rule, nodes=5))


def equals_large_batch(block: Block) -> None:
    nodes, rate = len(block.rows), block.learning_rate
    x = vectors(block)[0].clone()
    for _ in range(STEPS):
        batch = block.sampler.batch(block.samples, block.batch_size)
        union = batch.targets.flatten(0, 1)
        here = x.clone().requires_grad_()
        quadratic_loss(here.expand(len(union), -1), union).backward()
        x = x - rate * here.grad
        one_step(block)
        for row in vectors(block):
            close(row, x, additions=STEPS * nodes)


def stays_equal(rule: Rule) -> None:
    """Nodes that start equal are equal after every step, bit by bit."""
    for optimizer in ("sgd", "adamw"):
        block = quadratics(rule, nodes=5, optimizer=optimizer)
        start = block.rows.clone()
        for _ in range(STEPS):
            one_step(block)
            assert (block.rows == block.rows[0]).all()
        assert not torch.equal(block.rows, start)


def contracts(rule: Rule) -> None:
    """Without gradients the distance from the mean shrinks by the second eigenvalue per round."""
    for topology in ("ring", "star", "exponential"):
        block = quadratics(rule, nodes=8, topology=topology, steps=12)
        scatter(block)
        block.pipeline.compute = no_gradient  # type: ignore[assignment]
        assert block.setup.planner is not None
        second = 1 - spectral_gap(block.setup.planner.mixer)
        start, mean = block.rows.clone(), block.rows.mean(0)
        for step in range(1, 13):
            one_step(block)
            bound = second**step * (start - mean).norm()
            assert (block.rows - mean).norm() <= bound * (1 + 1e-12)
            assert (block.rows - mean).norm() > 0


def lopsided(n: int) -> nx.DiGraph:
    """Return a directed ring with shortcuts: some nodes are heard by many, most by one."""
    graph = nx.DiGraph([(i, (i + 1) % n) for i in range(n)])
    graph.add_edges_from((0, i) for i in range(2, n - 1, 2))
    return graph


def averages_when_directed(rule: Rule) -> None:
    """Without gradients all nodes come to the mean of where they began, on any directed graph."""
    for topology, seed in ((lopsided, 0), ("random_neighbors(r=1.5)", 3)):
        block = quadratics(rule, nodes=7, topology=topology, steps=150, seed=seed)
        scatter(block)
        block.pipeline.compute = no_gradient  # type: ignore[assignment]
        mean = block.rows.mean(0)
        for _ in range(150):
            one_step(block)
        torch.testing.assert_close(
            block.rows, mean.expand_as(block.rows), rtol=0, atol=1e-9
        )


def reaches_the_optimum(rule: Rule) -> None:
    """Unlike data leave no bias: on noiseless quadratics every node comes to the optimum of all."""
    block = quadratics(
        rule, nodes=5, topology=suits(rule),
        task="quadratic(dimension=4, heterogeneity=2)", batch=1,
        steps=700, learning_rate=0.08,
    )  # fmt: skip
    # [nodes, 2, d]: curvatures and centres
    targets = block.sampler.batch(0, 1).targets[:, 0]
    optimum = targets.prod(1).sum(0) / targets[:, 0].sum(0)
    for _ in range(700):
        one_step(block)
    assert float((vectors(block) - optimum).abs().max()) < 1e-9


def suits(rule: Rule) -> str:
    """Return the topology that an algorithm recommends, else the ring."""
    return promised(rule).defaults.get("topology", "ring")


def is_local_sgd(rule: Rule) -> None:
    """With an outer step of length 1 and no outer momentum it is local SGD, bit by bit."""
    plain = build("algorithm", {"name": rule.name, **said(rule)}) if said(rule) else rule
    one, other = (
        quadratics(r, nodes=5, local_steps=3, steps=12, optimizer="adamw")
        for r in (plain, build("algorithm", "local_sgd"))
    )
    for _ in range(12):
        one_step(one)
        one_step(other)
        assert torch.equal(one.rows, other.rows)
    assert one.stats.state() == other.stats.state()


def exact_after_the_diameter(rule: Rule) -> None:
    """While nodes say the same all the time, everybody has the mean from then on, not sooner."""
    for topology, diameter in (("binary_tree", 4), ("line", 6), ("star", 2)):
        block = quadratics(rule, nodes=7, topology=topology, steps=20)
        scatter(block)
        block.pipeline.compute = no_gradient  # type: ignore[assignment]
        start, mean = block.rows.clone(), block.rows.mean(0)
        for step in range(1, 20):
            block.rows.copy_(start)
            one_step(block)
            far = float((block.rows - mean).abs().max())
            assert (far < 1e-12) == (step >= diameter), (topology, step)


class NoGradient:
    kind = "none"

    def __call__(self, rows: Tensor, integers: Any, batch: Any, out: Tensor) -> Tensor:
        out.zero_()
        return rows.new_zeros(len(rows))


no_gradient = NoGradient()

CHECKS: dict[str, Callable[[Rule], None]] = {
    check.__name__: check
    for check in (
        single_node_is_plain, keeps_mean, large_batch_on_complete, large_batch, stays_equal,
        contracts, averages_when_directed, reaches_the_optimum, is_local_sgd,
        exact_after_the_diameter,
    )
}  # fmt: skip

DECLARED = [
    (name, guarantee)
    for name in in_rounds()
    for guarantee in promised(find("algorithm", name)).guarantees
]


# --- the laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", in_rounds())
def test_every_algorithm_declares_guarantees_that_the_suite_knows(name: str) -> None:
    guarantees = promised(find("algorithm", name)).guarantees
    assert guarantees
    assert set(guarantees) <= set(CHECKS)


@pytest.mark.parametrize(("name", "guarantee"), DECLARED)
def test_a_declared_guarantee_holds(name: str, guarantee: str) -> None:
    CHECKS[guarantee](build("algorithm", name))


def forgets_to_average(block: Any, action: Any) -> None:
    block.gradient()
    block.adapt()


def leans_to_one_side(block: Any, action: Any) -> None:
    block.gradient()
    block.adapt()
    block.combine(action)
    block.rows[0] += 0.1


def adapts_twice(block: Any, action: Any) -> None:
    block.gradient()
    block.adapt()
    block.adapt()
    block.combine(action)


def plain_gossip(block: Any, action: Any) -> None:
    block.gradient()
    block.adapt()
    block.combine(action)


@pytest.mark.parametrize(
    ("wrong", "guarantee"),
    [
        (adapts_twice, "single_node_is_plain"),
        (leans_to_one_side, "keeps_mean"),
        (adapts_twice, "keeps_mean"),
        (forgets_to_average, "large_batch_on_complete"),
        (forgets_to_average, "large_batch"),
        (forgets_to_average, "stays_equal"),
        (leans_to_one_side, "contracts"),
        (forgets_to_average, "contracts"),
        (plain_gossip, "averages_when_directed"),
        (plain_gossip, "reaches_the_optimum"),
        (adapts_twice, "is_local_sgd"),
        (plain_gossip, "exact_after_the_diameter"),
    ],
)
def test_a_wrong_guarantee_is_found_out(
    wrong: Callable[..., None], guarantee: str
) -> None:
    with pytest.raises(AssertionError):
        CHECKS[guarantee](build("algorithm", wrong))


def test_every_check_is_known_to_fail_for_some_algorithm() -> None:
    mark = next(m for m in test_a_wrong_guarantee_is_found_out.pytestmark)
    assert {guarantee for _, guarantee in mark.args[1]} == set(CHECKS)


@pytest.mark.parametrize(
    "name",
    [n for n in in_rounds() if promised(find("algorithm", n)).communicates != "steps"],
)
def test_nodes_that_share_nothing_else_differ_only_by_their_data(name: str) -> None:
    """Nothing but the exchange lets row i depend on row j: without it, each node trains alone."""
    rule = build("algorithm", name)
    settings = {"clip": 0.5, "communication": "none", "topology": suits(rule)}
    if "momentum" not in promised(rule).refuses:
        settings["optimizer"] = "adamw"
    one, other = (quadratics(rule, nodes=4, **settings) for _ in range(2))
    for block in (one, other):
        scatter(block)
    other.rows[0] += 1.0
    for _ in range(STEPS):
        one_step(one)
        one_step(other)
    assert torch.equal(one.rows[1:], other.rows[1:])
    assert not torch.equal(one.rows[0], other.rows[0])


def halfway(rule: Rule, **settings: Any) -> Block:
    """Return a block in the middle of a run, some nodes of which have talked."""
    block = quadratics(
        rule, **{"nodes": 5, "steps": 14, "init": "independent", **settings}
    )
    for _ in range(7):
        one_step(block)
    return block


def ended(block: Block) -> Block:
    while block.step < block.setup.config.steps:
        one_step(block)
    return block


@pytest.mark.parametrize("name", in_rounds())
def test_a_run_goes_on_from_a_checkpoint_bit_by_bit(name: str) -> None:
    rule = build("algorithm", name)
    block, other = halfway(rule), halfway(rule, init="shared")
    restore(other, copy.deepcopy(checkpoint_of(block)))
    ended(block)
    ended(other)
    assert torch.equal(block.rows, other.rows)
    for key, value in block.state.items():
        assert torch.equal(value, other.state[key])
    assert block.stats.state() == other.stats.state()


@pytest.mark.parametrize("name", in_rounds())
def test_two_workers_do_what_one_process_does(name: str) -> None:
    """The same bits where nothing but neighbours meet; global averages to the tolerance."""
    rule = build("algorithm", name)
    alone = ended(halfway(rule, replicas="vmap"))
    blocks = [Block(alone.setup, exchange, silent) for exchange in exchanges([2, 3])]
    together(ended, blocks)
    found = torch.cat([block.rows for block in blocks])
    torch.testing.assert_close(found, alone.rows, rtol=1e-9, atol=1e-12)
    assert logical(blocks[0]) == logical(alone)
    merges = promised(rule).defaults.get("communication")
    if promised(rule).communicates != "steps" and merges in (None, "constant"):
        assert torch.equal(found, alone.rows)


@pytest.mark.parametrize("name", in_rounds())
def test_every_channel_is_counted(name: str) -> None:
    """Bytes are messages times the numbers of all channels that are sent."""
    block = halfway(build("algorithm", name))
    sent = [k for k in block.setup.kept.values() if k.sent]
    part = -(-6 // block.setup.fragments)
    numbers = part + sum(1 if k.scalar else part for k in sent)
    assert block.stats.bytes == block.stats.messages * numbers * 8
    assert (block.stats.messages > 0) == (block.setup.traits.communicates != "never")


@pytest.mark.parametrize("name", in_rounds())
def test_what_is_kept_of_a_sick_node_poisons_nobody(name: str) -> None:
    block = halfway(build("algorithm", name), on_nonfinite="quarantine")
    block.rows[1] = torch.nan
    for value in block.state.values():
        value[1] = torch.inf
    ended(block)
    assert block.quarantined == {1}
    for value in (block.rows, *block.state.values()):
        assert torch.isfinite(value).all()


def test_combine_then_adapt_is_w_x_minus_lr_g_at_the_unmixed_point() -> None:
    """On quadratics g_i(x) = a_i (x - b_i): x+ = W x - lr a (x - b), the form that overlaps."""
    rule = build("algorithm", "dsgd(order=combine_then_adapt)")
    block = quadratics(rule, nodes=5, topology="ring", task="quadratic(dimension=6)")
    scatter(block)
    assert block.setup.planner is not None
    mixing = torch.from_numpy(block.setup.planner.mixer.mixing(0).dense())
    targets = block.sampler.batch(0, 1).targets[:, 0]  # [nodes, 2, d] = (a, b)
    curvature, centre = targets[:, 0], targets[:, 1]
    x = vectors(block).clone()
    for _ in range(STEPS):
        x = mixing @ x - 0.05 * curvature * (x - centre)
        one_step(block)
        close(vectors(block), x, additions=4 * STEPS)
    assert np.isfinite(block.rows.numpy()).all()


def test_the_two_orders_are_different_algorithms() -> None:
    rows = []
    for order in ("adapt_then_combine", "combine_then_adapt"):
        block = quadratics(
            build("algorithm", f"dsgd(order={order})"), nodes=5, topology="complete"
        )
        one_step(block)
        rows.append(block.rows)
    together, apart = rows
    torch.testing.assert_close(together, together[0].expand_as(together))
    assert (apart - apart[0]).abs().max() > 1e-3
