"""Rows meet in the exchange: sums in order, in place, whatever the block's shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_block, vectors
from torch import Tensor

from decentral.exchange.base import CommunicationStats, LocalExchange, ordered_sums
from decentral.loop.block import Block
from decentral.mixing.base import Mixing, assemble
from decentral.topology.base import Links

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def drawn(nodes: int, links: int, seed: int) -> Mixing:
    """Return a directed mixing with random links and weights."""
    rng = np.random.default_rng(seed)
    pairs = {(int(a), int(b)) for a, b in rng.integers(0, nodes, (links, 2)) if a != b}
    senders, receivers = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    weights = rng.uniform(0.01, 0.9, len(pairs)) / max(1, nodes)
    return assemble(Links(receivers, senders, None, directed=True), weights, nodes)


def block(nodes: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        nodes, width, dtype=dtype, generator=torch.Generator().manual_seed(width)
    )


def by_rows(rows: Tensor, mixing: Mixing) -> Tensor:
    """Return what the exchange must: the sums, number by number, in ascending order of senders."""
    sums = rows.clone()
    for node in range(mixing.nodes):
        senders, weights = mixing.row(node)
        if len(senders) > 1:
            terms = [
                rows[s].double() * float(w) for s, w in zip(senders, weights, strict=True)
            ]
            sums[node] = torch.stack(terms).sum(0).to(rows.dtype)
    return sums


@DTYPES
@pytest.mark.parametrize("ordered", [False, True])
@given(
    nodes=st.integers(1, 12), links=st.integers(0, 150), width=st.integers(1, 300),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_mixing_is_the_matrix_product_in_place(
    dtype: torch.dtype, ordered: bool, nodes: int, links: int, width: int, seed: int
) -> None:
    mixing = drawn(nodes, links, seed)
    rows = block(nodes, width, dtype)
    expected = torch.from_numpy(mixing.dense()) @ rows.double()
    address = rows.data_ptr()
    assert LocalExchange(nodes, ordered).mix(rows, mixing) == 0
    assert rows.data_ptr() == address
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(rows.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(rows, by_rows(block(nodes, width, dtype), mixing))


@DTYPES
@pytest.mark.parametrize("width", [1, 63, 64, 1000, 4099])
def test_ordered_sums_have_the_same_bits_however_columns_are_divided(
    width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixing = drawn(9, 30, 0)
    found: list[Tensor] = []
    for chunk in (1, 9 * 70 * 8, 9 * 1001 * 8, 1 << 30):
        monkeypatch.setattr("decentral.exchange.base.CHUNK_BYTES", chunk)
        rows = block(9, width, dtype)
        LocalExchange(9, ordered=True).mix(rows, mixing)
        found.append(rows)
    assert all(torch.equal(rows, found[0]) for rows in found)


@DTYPES
def test_a_sum_has_the_same_bits_whoever_else_is_summed(dtype: torch.dtype) -> None:
    """What a worker computes from its own rows and received ones equals one process's."""
    rows = block(6, 501, dtype)
    senders, weights = torch.tensor([0, 2, 5, 1, 3, 4]), torch.rand(6, dtype=dtype)
    together = ordered_sums(rows, senders, weights, torch.tensor([0, 3, 4]))
    for place, span in enumerate((slice(0, 3), slice(3, 4), slice(4, 6))):
        heard = rows[senders[span]]
        order = torch.arange(len(heard))
        alone = ordered_sums(heard, order, weights[span], torch.tensor([0]))
        assert torch.equal(alone[0], together[place])


@pytest.mark.parametrize("ordered", [False, True])
def test_rows_that_hear_nobody_keep_their_bits(ordered: bool) -> None:
    links = Links(np.array([0, 0]), np.array([1, 2]), None, directed=True)
    mixing = assemble(links, np.array([0.25, 0.25]), 5)
    rows = block(5, 40)
    rows[1, :3] = torch.tensor([-0.0, 5e-324, -5e-324])
    rows[4] = torch.inf
    before = rows.clone()
    LocalExchange(5, ordered).mix(rows, mixing)
    assert torch.equal(rows[1:].view(torch.int64), before[1:].view(torch.int64))
    torch.testing.assert_close(rows[0], before[0] / 2 + before[1] / 4 + before[2] / 4)


def test_silence_touches_nothing() -> None:
    for nodes in (1, 2, 3):
        rows = block(nodes, 7)
        before = rows.clone()
        LocalExchange(nodes).mix(rows, drawn(nodes, 0, 0))
        assert torch.equal(rows, before)


def test_only_the_given_columns_are_mixed() -> None:
    """A channel may be a view: the trainable columns of a block, say."""
    rows = block(8, 50)
    before = rows.clone()
    mixing = drawn(8, 20, 1)
    LocalExchange(8).mix(rows[:, 5:33], mixing)
    expected = torch.from_numpy(mixing.dense()) @ before
    torch.testing.assert_close(rows[:, 5:33], expected[:, 5:33])
    assert torch.equal(rows[:, :5], before[:, :5])
    assert torch.equal(rows[:, 33:], before[:, 33:])


@pytest.mark.parametrize("nodes", [1, 2, 3, 16])
def test_means_are_weighted(nodes: int) -> None:
    rows = block(nodes, 33)
    weights = torch.rand(nodes, dtype=torch.float64)
    weights /= weights.sum()
    mean, wire = LocalExchange(nodes).mean(rows, weights)
    torch.testing.assert_close(mean, (weights[:, None] * rows).sum(0))
    assert wire == 0
    assert torch.equal(LocalExchange(nodes).gather(rows), rows)


def test_the_ledger_counts_messages_and_averages() -> None:
    stats = CommunicationStats()
    stats.gossip(messages=6, row_bytes=100)
    stats.average(nodes=4, row_bytes=100)
    assert stats.state() == {
        "bytes": 1200, "messages": 12, "rounds": 2, "wire_bytes": 0, "measure_bytes": 0,
    }  # fmt: skip


def relayed(x: Tensor, start: Tensor, parents: list[int], rounds: int) -> list[Tensor]:
    """Return what everybody has after each round of RelaySum, with a message per link."""
    nodes = len(x)
    links = [(i, p) for i, p in enumerate(parents) if p >= 0]
    links += [(p, i) for i, p in links]
    models = dict.fromkeys(links, torch.zeros_like(x[0]))
    counts = dict.fromkeys(links, 0)
    found: list[Tensor] = []
    for _ in range(rounds):
        inner = {
            (i, j): [(k, to) for k, to in links if to == i and k != j] for i, j in links
        }
        models, counts = (
            {
                (i, j): sum((before[link] for link in inner[i, j]), own(i))
                for i, j in links
            }
            for before, own in ((models, lambda i: x[i]), (counts, lambda i: 1))
        )
        arrived = [
            1 + sum(counts[k, to] for k, to in links if to == i) for i in range(nodes)
        ]
        sums = [
            sum((models[k, to] for k, to in links if to == i), x[i]) for i in range(nodes)
        ]
        rows = [
            s + (nodes - n) * start[i]
            for i, (s, n) in enumerate(zip(sums, arrived, strict=True))
        ]
        found.append(torch.stack(rows) / nodes)
    return found


def stand_still(block: Block) -> None:
    """Let nobody learn."""
    block.gradient = lambda: None  # type: ignore[method-assign]
    block.adapt = lambda: None  # type: ignore[method-assign]


def test_relay_sum_is_that_of_its_authors_from_the_first_round_on() -> None:
    """A message per link; models that have not arrived are stood in for by the first ones."""
    block = tiny_block(
        task="quadratic", nodes=7, topology="binary_tree", algorithm="relay_sum",
        communication="constant", local_steps=1, steps=20, dtype="float64",
    )  # fmt: skip
    start = vectors(block).clone()
    x = torch.randn(start.shape, generator=torch.Generator().manual_seed(1)).double()
    parents = [-1, 0, 0, 1, 1, 2, 2]
    stand_still(block)
    for wanted in relayed(x, start, parents, 8):
        vectors(block).copy_(x)
        block.setup.algorithm(block, block.decide())
        block.finish_step()
        torch.testing.assert_close(vectors(block), wanted, rtol=1e-12, atol=1e-12)


def test_rounding_of_relay_sum_does_not_add_up() -> None:
    block = tiny_block(
        task="quadratic", nodes=32, topology="line", algorithm="relay_sum", steps=200,
        communication="constant", local_steps=1, dtype="float32",
    )  # fmt: skip
    x = torch.randn(vectors(block).shape, generator=torch.Generator().manual_seed(1))
    stand_still(block)
    for _ in range(200):
        vectors(block).copy_(x)
        block.setup.algorithm(block, block.decide())
        block.finish_step()
    far = vectors(block).double() - x.double().mean(0)
    assert far.abs().max() < 2e-7  # 8e-6 with sums in single precision, and growing
