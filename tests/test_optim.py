"""The block optimizer inside a run: one update for all rows, whatever the model looks like."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import tiny_block, tiny_setup, trained
from torch import Tensor

from decentral import ConfigError
from decentral.loop.block import Block
from decentral.optim.base import default_lr
from decentral.registry import build


def steps(block: Block, count: int) -> Block:
    for _ in range(count):
        block.setup.algorithm(block, block.decide())
        block.finish_step()
    return block


def rows_after(count: int = 12, **settings: Any) -> Tensor:
    return steps(tiny_block(dtype="float64", replicas="vmap", **settings), count).rows


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            "sgd(momentum=0.9, weight_decay=0.01)",
            "torch.optim.SGD(momentum=0.9,weight_decay=0.01)",
        ),
        (
            "sgd(nesterov=true)",
            "torch.optim.SGD(momentum=0.9,nesterov=true,weight_decay=5e-4)",
        ),
        ("adamw", "torch.optim.AdamW"),
        (
            "adamw(betas=[0.8, 0.99], amsgrad=true)",
            "torch.optim.AdamW(betas=[0.8,0.99],amsgrad=true)",
        ),
    ],
)
def test_a_plug_in_and_torchs_own_by_name_give_the_same_rows(
    ours: str, theirs: str
) -> None:
    """Whole block against one tensor at a time, in different kernels: up to rounding."""
    settings = {"learning_rate": 0.01, "topology": "ring", "communication": "constant"}
    one, other = (rows_after(optimizer=name, **settings) for name in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_the_learning_rate_reaches_the_optimizer_of_every_step() -> None:
    """With plain SGD and no data dependence the movement is the sum of the rates times g."""
    block = tiny_block(
        task="quadratic", dtype="float64", steps=10, optimizer="sgd(momentum=0, weight_decay=0)",
        learning_rate="step(at=[50%], lr=0.2, factor=0.5)", algorithm="local",
    )  # fmt: skip
    rates = []
    for _ in range(10):
        before = block.rows.clone()
        steps(block, 1)
        moved = (before - block.rows).norm() / block.grads.norm()
        rates.append(round(float(moved), 12))
    assert rates == [0.2] * 5 + [0.1] * 5


def test_clipping_bounds_the_norm_of_each_node_alone() -> None:
    settings = {
        "task": "quadratic(heterogeneity=5)", "dtype": "float64", "algorithm": "local",
        "optimizer": "sgd(momentum=0, weight_decay=0)", "learning_rate": 1.0, "nodes": 5,
    }  # fmt: skip
    free, clipped = tiny_block(**settings), tiny_block(**settings, clip=1.0)
    start = free.rows.clone()
    steps(free, 1)
    steps(clipped, 1)
    norms = (free.rows - start).norm(dim=1)
    assert norms.min() > 1.0
    moved = clipped.rows - start
    torch.testing.assert_close(
        moved.norm(dim=1), torch.ones(5).double(), rtol=1e-5, atol=0
    )
    cosine = (moved * (free.rows - start)).sum(1) / moved.norm(dim=1) / norms
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_state_is_exchanged_only_if_asked() -> None:
    """After a global merge the momenta are equal with mix_state and each node's own without."""
    for mix_state in (True, False):
        block = tiny_block(
            communication="then_merge(schedule=none, at=1 steps)", local_steps=1, steps=2,
            mix_state=mix_state, dtype="float64",
        )  # fmt: skip
        steps(block, 1)
        (momentum,) = block.optimizer.channels()
        assert (block.rows == block.rows[0]).all()
        assert bool((momentum == momentum[0]).all()) is mix_state


def test_mixed_state_keeps_its_mean_and_enters_the_next_step() -> None:
    blocks = [
        tiny_block(
            topology="ring", communication="constant", local_steps=1, mix_state=mix, steps=4,
            dtype="float64", optimizer=optimizer,
        )
        for mix, optimizer in ((True, "sgd"), (False, "sgd"), (True, "torch.optim.NAdam"))
    ]  # fmt: skip
    for block in blocks:
        steps(block, 1)
    means = [block.optimizer.channels()[0].mean(0) for block in blocks[:2]]
    torch.testing.assert_close(*means)
    spreads = [block.optimizer.channels()[0].std(0).norm() for block in blocks[:2]]
    assert spreads[0] < 0.8 * spreads[1]
    for block in blocks:
        steps(block, 3)
    assert not torch.allclose(blocks[0].rows, blocks[1].rows)


def test_default_rates_are_the_optimizers_own() -> None:
    assert default_lr(build("optimizer", "torch.optim.Adagrad")) == 0.01
    assert default_lr(build("optimizer", "torch.optim.Adam")) == 0.001
    assert tiny_setup(optimizer="adamw").learning_rate.rule.common["lr"] == 0.001


def test_a_users_function_is_an_optimizer() -> None:
    class Sign(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.0})

        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.add_(p.grad.sign(), alpha=-group["lr"])

    def sign(params: Any) -> torch.optim.Optimizer:
        """Step by the sign of the gradient."""
        return Sign(params)

    block = tiny_block(
        optimizer=sign, algorithm="local", learning_rate=0.5, dtype="float64"
    )
    before = block.rows.clone()
    steps(block, 1)
    moved = (block.rows - before).abs()
    assert set(moved[block.grads != 0].unique().tolist()) <= {0.5} | set(
        moved[(moved - 0.5).abs() < 1e-12].unique().tolist()
    )
    assert math.isclose(moved.max().item(), 0.5)
    assert all("loss/train" in row for row in trained(block)[1:2])


def test_what_an_optimizer_refuses_is_the_users_mistake() -> None:
    for optimizer in (
        "sgd(momentum=0, nesterov=true)",
        "torch.optim.Adagrad(lr_decay=-1)",
    ):
        with pytest.raises(ConfigError, match="optimizer"):
            tiny_block(optimizer=optimizer)
