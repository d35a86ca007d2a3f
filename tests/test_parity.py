"""One process and several workers: the same bits in float64, whatever the blocks.

Level (b) of the design: ``replicas: vmap`` forced and ``mixing: ordered``. The workers here are
threads that lay their rows side by side, so that everything but the wire is under test.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import ThreadExchange, exchanges, tiny_block, tiny_setup, together, walk

from decentral.exchange.base import CommunicationStats
from decentral.loop.block import Block
from decentral.loop.rounds import checkpoint_of, restore
from decentral.registry import names

SAME_BITS: dict[str, Any] = {
    "nodes": 8, "steps": 20, "local_steps": 2, "dtype": "float64", "replicas": "vmap",
    "mixing": "ordered", "communication": "constant(0.7)", "init": "independent",
}  # fmt: skip
MEMBERS: list[dict[str, Any]] = [
    {"topology": "ring"},
    {"topology": "one_peer_exponential", "optimizer": "adamw", "mix_state": True},
    {"topology": "star", "clip": 0.3, "learning_rate": "wsd(warmup=20%, lr=0.05)"},
    {
        "topology": "random_neighbors(r=1.5)",
        "algorithm": "dsgd(order=combine_then_adapt)",
    },
    {"topology": "exponential", "sampling": "resample", "micro_batch": 3},
    {"topology": "ring", "optimizer": "torch.optim.RAdam", "gossip_buffers": False},
    {"topology": "star", "communication": "adaptive(target=0.01, max_budget=9)"},
    {"topology": "erdos_renyi", "algorithm": "local"},
    {"topology": "exponential", "node_lr": {1: 3.0, 6: 0.5}},
    {
        "topology": "ring",
        "sam": {"rho": 0.2, "start": "20%"},
        "label_noise": 0.2,
        "clip": 0.5,
        "adversarial": {"eps": 0.3, "steps": 2, "stop": "60%"},
        "label_smoothing": 0.1,
    },
]
#: Torch's convolutions are the same bits for 2 rows as for 8, but not for 1, nor, with BatchNorm,
#: for an odd number of rows: there they differ in the last place.
CONVOLUTION: dict[str, Any] = {
    **SAME_BITS, "topology": "ring", "task": "digits", "model": "cnn(channels=[2], norm=batch)",
    "steps": 8,
}  # fmt: skip


def train(block: Block) -> tuple[torch.Tensor, CommunicationStats]:
    return walk(block), block.stats


def workers(sizes: list[int], **settings: Any) -> list[Block]:
    setup = tiny_setup(**settings)
    return [Block(setup, exchange, lambda *_: None) for exchange in exchanges(sizes)]


def asked(member: dict[str, Any]) -> dict[str, Any]:
    settings = {**SAME_BITS, **member}
    if settings.get("algorithm") == "local":
        del settings["topology"], settings["communication"]
    return settings


@pytest.mark.parametrize("member", MEMBERS, ids=str)
@pytest.mark.parametrize("sizes", [[4, 4], [3, 5]], ids=str)
def test_two_workers_give_the_same_bits_as_one(
    member: dict[str, Any], sizes: list[int]
) -> None:
    assert_same_bits(sizes, **asked(member))


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_optimizer_gives_the_same_bits_on_workers(name: str) -> None:
    """With GradPower and rates by block, on matrices of a model."""
    spec = {"name": name, "grad_power": 1.1, "blockwise": {"1.*": 2, "3.*": 1}}
    model = {"name": "mlp", "hidden": [6]}
    settings = {
        **SAME_BITS,
        "task": "digits",
        "model": model,
        "topology": "ring",
        "steps": 6,
    }
    assert_same_bits([3, 5], **settings, optimizer=spec)


@pytest.mark.parametrize("sizes", [[2, 2, 2, 2], [1] * 8, [5, 1, 2]], ids=str)
def test_any_number_of_workers_gives_the_same_bits(sizes: list[int]) -> None:
    assert_same_bits(
        sizes, **{**SAME_BITS, "topology": "exponential", "optimizer": "adamw"}
    )


@pytest.mark.parametrize("sizes", [[4, 4], [2, 2, 2, 2], [6, 2]], ids=str)
def test_convolutions_give_the_same_bits_in_even_blocks(sizes: list[int]) -> None:
    assert_same_bits(sizes, **CONVOLUTION)


def test_convolutions_of_odd_blocks_agree_to_the_tolerance() -> None:
    rows, _ = train(tiny_block(**CONVOLUTION))
    found = torch.cat(
        [part for part, _ in together(train, workers([1, 7], **CONVOLUTION))]
    )
    torch.testing.assert_close(found, rows, rtol=1e-9, atol=1e-12)


def assert_same_bits(sizes: list[int], **settings: Any) -> None:
    rows, stats = train(tiny_block(**settings))
    found = together(train, workers(sizes, **settings))
    parts = torch.cat([part for part, _ in found])
    assert torch.equal(parts, rows)
    assert len(rows.unique(dim=0)) > 1
    for _, its in found:
        assert its.state() == stats.state(), (
            "every worker knows the logical cost of everybody"
        )


@pytest.mark.parametrize(
    "member",
    [
        {"algorithm": "allreduce"},
        {"communication": "then_merge(schedule=constant(0.5), at=50%)"},
    ],
    ids=str,
)
def test_global_averages_agree_to_the_tolerance(member: dict[str, Any]) -> None:
    settings = {**SAME_BITS, **member}
    if "algorithm" in member:
        del settings["communication"]
    rows, _ = train(tiny_block(**settings))
    found = torch.cat([part for part, _ in together(train, workers([3, 5], **settings))])
    torch.testing.assert_close(found, rows, rtol=1e-9, atol=1e-12)


def test_a_checkpoint_of_one_worker_goes_on_under_three() -> None:
    settings = {**SAME_BITS, "topology": "ring", "optimizer": "adamw"}
    rows, _ = train(tiny_block(**settings))
    half = tiny_block(**settings)
    for _ in range(7):
        half.setup.algorithm(half, half.decide())
        half.finish_step()
    saved = checkpoint_of(half)
    others = workers([3, 1, 4], **settings)

    def go_on(block: Block) -> torch.Tensor:
        restore(block, saved)
        for _ in range(13):
            block.setup.algorithm(block, block.decide())
            block.finish_step()
        return block.rows

    assert torch.equal(torch.cat(together(go_on, others)), rows)


def test_a_worker_that_fails_does_not_leave_the_others_waiting() -> None:
    class Torn(ThreadExchange):
        def gather(self, values: torch.Tensor) -> torch.Tensor:
            raise ConnectionError("gone")

    first, second = exchanges([1, 1])
    second.__class__ = Torn
    made = [type("Worker", (), {"exchange": exchange}) for exchange in (first, second)]
    with pytest.raises((ConnectionError, RuntimeError)):
        together(lambda worker: worker.exchange.gather(torch.zeros(1)), made)
