"""Runs in threads of one process share torch's generator, and take nothing out of each other's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
from support import advance, silent, tiny_setup
from torch import Tensor, nn

from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.rng import _seeder, fork_rng

TIMES = 9


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Noisy(nn.Module):
    """Draws noise of its own in every forward."""

    def __init__(self, *sizes: object) -> None:
        super().__init__()
        self.flat, self.last = nn.Flatten(), nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.flat(inputs)
        return self.last(hidden + 0.1 * torch.randn_like(hidden))


def first_rows(_: int) -> Tensor:
    settings = {"task": "digits", "model": "mlp", "init": "independent", "nodes": 6}
    setup = tiny_setup(**settings)
    return Block(setup, LocalExchange(6), silent).rows


def last_rows(_: int) -> Tensor:
    setup = tiny_setup(task="digits", model=Noisy, replicas="loop", steps=4, nodes=3)
    block = Block(setup, LocalExchange(3), silent)
    advance(block, 4)
    return block.rows


@pytest.mark.parametrize("run", [first_rows, last_rows])
def test_runs_in_threads_draw_what_they_draw_alone(run: Callable[[int], Tensor]) -> None:
    alone = run(0)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, range(TIMES)))
    assert all(torch.equal(rows, alone) for rows in found)


def test_the_generator_is_given_back_as_it_was() -> None:
    before = torch.get_rng_state()
    with fork_rng(7):
        first = torch.rand(3)
    with suppress(ZeroDivisionError), fork_rng(7):
        assert torch.equal(torch.rand(3), first)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def anew() -> Iterator[None]:
    """Ask again which generators there are, and afterwards once more."""
    _seeder.cache_clear()
    yield
    _seeder.cache_clear()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("accelerated", [True, False])
def test_only_where_an_accelerator_is_all_generators_are_seeded(
    accelerated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those that might come, torch would note the stack each time."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerated)
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    with fork_rng(7):
        drawn = torch.rand(3)
    assert seeded == [7] * accelerated
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(drawn, expected) != accelerated
