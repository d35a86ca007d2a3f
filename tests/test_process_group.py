"""Rows between workers: the bits of one process, sent once, in rounds that never wait in a circle.

The workers are threads of this process; what lies between them is Gloo, as between machines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import connected, together
from test_exchange import block, drawn
from torch import Tensor

from decentral.exchange import process_group as module
from decentral.exchange.base import LocalExchange, LostPeer
from decentral.exchange.process_group import ProcessGroupExchange
from decentral.exchange.send_receive import is_average, send_receive_plan
from decentral.mixing.base import Mixing, assemble
from decentral.topology.base import Links

pytestmark = pytest.mark.timeout(60)

Sizes = Sequence[int]
SIZES = pytest.mark.parametrize(
    "sizes", [[3, 3], [1, 4], [2, 2, 2, 2], [1, 5, 1, 2]], ids=str
)


@contextmanager
def workers(sizes: Sizes, **options: Any) -> Iterator[list[Any]]:
    """Yield workers, each with its exchange and its block."""
    with connected(sizes, **options) as exchanges:
        yield [SimpleNamespace(rank=rank, exchange=e) for rank, e in enumerate(exchanges)]


def share(rows: Tensor, worker: Any) -> Tensor:
    """Return a copy of the rows that a worker hosts."""
    hosted = worker.exchange.hosted
    return rows[hosted.start : hosted.stop].clone()


def alone(rows: Tensor, mixings: Sequence[Mixing]) -> Tensor:
    """Return what one process makes of the rows."""
    rows, exchange = rows.clone(), LocalExchange(len(rows), ordered=True)
    for mixing in mixings:
        exchange.mix(rows, mixing)
    return rows


def crossing(mixing: Mixing, sizes: Sizes) -> set[tuple[int, int]]:
    """Return (worker, row) of every row of another worker that a worker hears."""
    worker = np.repeat(np.arange(len(sizes)), sizes)
    received = {
        (int(worker[node]), int(sender))
        for node in range(mixing.nodes)
        for sender in mixing.row(node)[0]
    }
    return {(where, row) for where, row in received if worker[row] != where}


def complete(nodes: int) -> Mixing:
    pairs = np.array([(i, j) for i in range(nodes) for j in range(nodes) if i != j]).T
    links = Links(pairs[0], pairs[1], None, directed=True)
    return assemble(links, np.full(len(pairs[0]), 1 / nodes), nodes)


# --- rounds ---------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize(
    ("packed", "piece"),
    [(1 << 20, 1 << 20), (0, 1 << 20), (0, 256)],
    ids=["packed", "rows", "cut"],
)
def test_graphs_redrawn_in_every_round_give_the_bits_of_one_process(
    sizes: Sizes, packed: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty directed graphs, from silence to nearly complete: no round waits for ever."""
    monkeypatch.setattr(module, "PACKED_BYTES", packed)
    monkeypatch.setattr(module, "SENT_BYTES", piece)
    nodes = sum(sizes)
    mixings = [drawn(nodes, links % 41, links) for links in range(60)]
    rows = block(nodes, 167)

    def work(worker: Any) -> tuple[Tensor, list[int]]:
        mine = share(rows, worker)
        return mine, [worker.exchange.mix(mine, mixing) for mixing in mixings]

    with workers(sizes) as crew:
        found = together(work, crew)
    assert torch.equal(torch.cat([mine for mine, _ in found]), alone(rows, mixings))
    sent = np.array([bytes_ for _, bytes_ in found]).sum(0)
    assert sent.tolist() == [len(crossing(m, sizes)) * 167 * 8 for m in mixings]


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4), links=st.integers(0, 60),
    seed=st.integers(0, 99), width=st.integers(1, 70),
)  # fmt: skip
def test_any_blocks_and_any_graph(
    sizes: Sizes, links: int, seed: int, width: int
) -> None:
    nodes = sum(sizes)
    mixing, rows = drawn(nodes, links, seed), block(nodes, width, torch.float32)

    def work(worker: Any) -> Tensor:
        mine = share(rows, worker)
        worker.exchange.mix(mine, mixing)
        return mine

    with workers(sizes, ordered=True) as crew:
        assert torch.equal(torch.cat(together(work, crew)), alone(rows, [mixing]))


class Counted:
    """A process group that counts what it is asked to send."""

    def __init__(self, group: Any) -> None:
        self.group, self.sent = group, list[tuple[int, int, int]]()
        self.order = list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.group, name)

    def send(self, tensors: list[Tensor], peer: int, tag: int) -> Any:
        self.sent.append((peer, tag, tensors[0].nbytes))
        self.order.append("send")
        return self.group.send(tensors, peer, tag)

    def recv(self, tensors: list[Tensor], peer: int, tag: int) -> Any:
        self.order.append("receive")
        return self.group.recv(tensors, peer, tag)


@pytest.mark.parametrize("packed", [True, False])
def test_a_row_is_sent_once_to_every_worker_that_hears_it(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a complete graph every other worker hears every row, through each of its nodes."""
    monkeypatch.setattr(module, "PACKED_BYTES", packed << 20)
    sizes, mixing = [2, 3, 1], complete(6)
    rows = block(6, 64)

    def work(worker: Any) -> list[tuple[int, int, int]]:
        group = worker.exchange._group = Counted(worker.exchange._group)
        for _ in range(2):
            worker.exchange.mix(share(rows, worker), mixing)
        return group.sent

    with workers(sizes, ordered=True) as crew:
        found = together(work, crew)
    for size, sent in zip(sizes, found, strict=True):
        assert sum(size_ for *_, size_ in sent) == 2 * 2 * size * 64 * 8
        assert len(sent) == 2 * 2 * (1 if packed else size)
        assert len({(peer, tag) for peer, tag, _ in sent}) == len(sent), (
            "no tag comes twice"
        )


def test_whoever_is_expected_to_send_is_told_before_rows_fill_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind rows the word would wait until they are through: one way after the other."""
    monkeypatch.setattr(module, "PACKED_BYTES", 0)
    monkeypatch.setattr(module, "SENT_BYTES", 1 << 8)

    def work(worker: Any) -> list[str]:
        group = worker.exchange._group = Counted(worker.exchange._group)
        worker.exchange.mix(share(block(4, 96), worker), complete(4))
        return group.order

    with workers([2, 2], ordered=True) as crew:
        for order in together(work, crew):
            assert order == ["receive"] * 6 + ["send"] * 6


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), links=st.integers(0, 80),
    seed=st.integers(0, 99), packed=st.booleans(),
)  # fmt: skip
def test_what_one_worker_sends_another_expects(
    sizes: Sizes, links: int, seed: int, packed: bool
) -> None:
    """Every message has its counterpart at its index, and all workers go through indices alike."""
    mixing = drawn(sum(sizes), links, seed)
    ends = np.cumsum([0, *sizes])
    blocks = [range(a, b) for a, b in pairwise(ends)]
    parts = [
        send_receive_plan(mixing, blocks, rank, packed) for rank in range(len(sizes))
    ]
    sent = {
        (p.index, rank, p.peer, len(p.rows))
        for rank, part in enumerate(parts)
        for p in part.messages
        if p.outgoing
    }
    received = {
        (p.index, p.peer, rank, len(p.rows))
        for rank, part in enumerate(parts)
        for p in part.messages
        if not p.outgoing
    }
    assert sent == received
    assert len({part.total_rows for part in parts}) == 1
    for part in parts:
        indices = [message.index for message in part.messages]
        assert indices == sorted(set(indices))


# --- while something else happens -----------------------------------------------------------------


@SIZES
def test_rows_that_travel_early_give_the_same_bits(sizes: Sizes) -> None:
    """Two channels are under way at once while collectives of another kind take place."""
    nodes = sum(sizes)
    mixings = [drawn(nodes, 3 * nodes, seed) for seed in range(8)]
    rows, state = block(nodes, 90), block(nodes, 31)

    def work(worker: Any) -> tuple[Tensor, Tensor]:
        mine, its = share(rows, worker), share(state, worker)
        for mixing in mixings:
            worker.exchange.begin(mine, mixing)
            worker.exchange.begin(its, mixing)
            worker.exchange.gather(torch.ones(worker.rank))
            worker.exchange.mix(mine, mixing)
            worker.exchange.mix(its, mixing)
        return mine, its

    with workers(sizes) as crew:
        ours, theirs = zip(*together(work, crew), strict=True)
    assert torch.equal(torch.cat(ours), alone(rows, mixings))
    assert torch.equal(torch.cat(theirs), alone(state, mixings))


def test_what_arrives_lies_in_the_memory_of_an_earlier_round_where_that_is_enough() -> (
    None
):
    mixing = complete(4)

    def work(worker: Any) -> list[tuple[int, int]]:
        exchange, seen = worker.exchange, list[tuple[int, int]]()
        for width in (48, 48, 32, 48, 64):
            rows = share(block(4, width), worker)
            inbox, _, sent = exchange.receive(rows, mixing)
            assert torch.equal(
                inbox, block(4, width)[[2, 3] if worker.rank == 0 else [0, 1]]
            )
            seen.append((inbox.data_ptr(), sent))
        return seen

    with workers([2, 2], ordered=True) as crew:
        for seen in together(work, crew):
            places = [place for place, _ in seen]
            assert len(set(places[:4])) == 1, "48 columns, again, fewer, and 48 again"
            assert places[4] != places[0], "64 do not fit"
            assert [sent for _, sent in seen] == [2 * w * 8 for w in (48, 48, 32, 48, 64)]


@pytest.mark.parametrize(
    ("own", "average"), [(1 / 3, True), (0.5, False)], ids=["equal", "unequal"]
)
def test_only_equal_weights_on_every_pair_are_an_average(
    own: float, average: bool
) -> None:
    pairs = np.array([(i, j) for i in range(3) for j in range(3) if i != j]).T
    links = Links(pairs[0], pairs[1], None, directed=True)
    assert is_average(assemble(links, np.full(6, (1 - own) / 2), 3)) == average


# --- numbers on the wire --------------------------------------------------------------------------


def test_bfloat16_rounds_what_travels_and_nothing_else() -> None:
    sizes, mixing = [2, 2], drawn(4, 12, 3)
    rows = block(4, 64, torch.float32)
    rounded = rows.bfloat16().float()

    def work(worker: Any) -> tuple[Tensor, int]:
        mine = share(rows, worker)
        return mine, worker.exchange.mix(mine, mixing)

    with workers(sizes, wire=torch.bfloat16) as crew:
        found = together(work, crew)
    for worker, (mine, _) in zip(crew, found, strict=True):
        hosted = worker.exchange.hosted
        seen = rounded.clone()
        seen[hosted.start : hosted.stop] = share(rows, worker)
        assert torch.equal(mine, share(alone(seen, [mixing]), worker))
    assert not torch.equal(torch.cat([mine for mine, _ in found]), alone(rows, [mixing]))
    assert sum(sent for _, sent in found) == len(crossing(mixing, sizes)) * 64 * 2


# --- all together ---------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("longest", [16 << 20, 1 << 10], ids=["whole", "chunks"])
def test_means_are_those_of_one_process(
    sizes: Sizes, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REDUCED_BYTES", longest)
    nodes = sum(sizes)
    rows, weights = block(nodes, 400), torch.rand(nodes, dtype=torch.float64)
    expected = LocalExchange(nodes).mean(rows, weights)[0]

    def work(worker: Any) -> tuple[Tensor, int]:
        return worker.exchange.mean(share(rows, worker), share(weights, worker))

    with workers(sizes) as crew:
        found = together(work, crew)
    for mean, sent in found:
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(mean, found[0][0]), "every worker goes on with the same bits"
        assert sent == 2 * (len(sizes) - 1) * 400 * 8 // len(sizes)


def test_a_mixing_that_averages_everybody_is_a_global_average() -> None:
    """It costs less than rows from everybody to everybody; ``ordered`` asks for those."""
    sizes, mixing, rows = [4, 4], complete(8), block(8, 48)

    def work(worker: Any) -> tuple[Tensor, int]:
        mine = share(rows, worker)
        worker.exchange.begin(mine, mixing)
        return mine, worker.exchange.mix(mine, mixing)

    for ordered, sent in ((False, 48 * 8), (True, 4 * 48 * 8)):
        with workers(sizes, ordered=ordered) as crew:
            found = together(work, crew)
        torch.testing.assert_close(
            torch.cat([mine for mine, _ in found]), alone(rows, [mixing])
        )
        assert [bytes_ for _, bytes_ in found] == [sent, sent]


@SIZES
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool], ids=str)
def test_gathering_keeps_the_order_of_nodes_and_the_bits(
    sizes: Sizes, dtype: torch.dtype
) -> None:
    """Every worker may give another number of values, and none."""
    values = block(sum(sizes), 3).mul(10).to(dtype)

    def work(worker: Any) -> tuple[Tensor, Tensor, Tensor]:
        mine = share(values, worker)
        some = mine if worker.rank % 2 else mine[:0]
        gather = worker.exchange.gather
        return gather(mine), gather(some), gather(mine[:0])

    with workers(sizes) as crew:
        found = together(work, crew)
        odd = torch.cat([share(values, worker) for worker in crew if worker.rank % 2])
    for everything, some, nothing in found:
        assert torch.equal(everything, values)
        assert torch.equal(some, odd)
        assert nothing.shape == (0, 3)
        assert everything.dtype == nothing.dtype == dtype


# --- who is gone ----------------------------------------------------------------------------------


def test_a_peer_that_is_gone_is_named() -> None:
    """Its connections stay open here, as those of a host whose cable is cut: time must run out."""
    mixing, rows = complete(3), block(3, 40)

    def work(worker: Any) -> str:
        exchange: ProcessGroupExchange = worker.exchange
        exchange.mix(share(rows, worker), mixing)
        if worker.rank == 2:
            exchange.close()
            return ""
        with pytest.raises(LostPeer) as caught:
            exchange.mix(share(rows, worker), mixing)
        return str(caught.value)

    with workers([1, 1, 1], timeout_s=1.0) as crew:
        first, second, _ = together(work, crew)
    assert "worker 0 lost contact with worker" in first
    assert "worker 1 lost contact with worker" in second
