"""Laws of aggregation: what nodes make of the rows they hear lies between these rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import example, exchanges, planner, silent, tiny_block, together, walk
from torch import Tensor

from decentral.exchange import aggregation
from decentral.exchange.aggregation import aggregate, aggregate_all
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.mixing.base import Mixing
from decentral.network import preview
from decentral.registry import build, find, names
from decentral.traits import AggregationTraits, traits_of

NODES, WIDTH = 7, 96
on_every_rule = pytest.mark.parametrize("name", names("aggregation"))


def rows(seed: int = 0, nodes: int = NODES) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, WIDTH, dtype=torch.float64, generator=draw)


def mixing(topology: str = "star") -> Mixing:
    return planner(topology, nodes=NODES).mixer.mixing(0)


def made(
    name: str, own: Tensor, said: Tensor | None = None, talk: Mixing | None = None
) -> Tensor:
    """Return what a rule makes of all rows, in one process."""
    found = own.clone()
    said = own if said is None else said
    inbox, heard, _ = LocalExchange(len(own), True).receive(said, talk or mixing())
    aggregate(example("aggregation", name), found, said, inbox, heard)
    return found


@on_every_rule
def test_every_number_lies_between_those_of_the_rows_that_are_heard(name: str) -> None:
    own, talk = rows(), mixing("ring")
    found = made(name, own, talk=talk)
    for node in range(NODES):
        heard = own[talk.row(node)[0]]
        assert (found[node] <= heard.max(0).values + 1e-12).all()
        assert (found[node] >= heard.min(0).values - 1e-12).all()


@on_every_rule
def test_equal_rows_stay_and_order_does_not_matter(name: str) -> None:
    equal = rows(nodes=1).expand(NODES, WIDTH).clone()
    torch.testing.assert_close(made(name, equal), equal, rtol=0, atol=1e-14)
    order = torch.tensor([0, 4, 2, 6, 1, 3, 5])  # the centre of the star stays
    own = rows()
    torch.testing.assert_close(
        made(name, own[order]), made(name, own)[order], rtol=0, atol=1e-12
    )


@on_every_rule
def test_a_node_knows_its_own_row_whatever_it_says(name: str) -> None:
    """Who lies, node 2 here, goes on as if it had not; its neighbours hear the lie."""
    own = rows()
    said = own.clone()
    said[2] = 50.0
    talk = mixing("ring")
    found, honest = made(name, own, said, talk), made(name, own, talk=talk)
    torch.testing.assert_close(found[2], honest[2], rtol=0, atol=1e-14)
    torch.testing.assert_close(found[5], honest[5], rtol=0, atol=1e-14)
    assert (found[1] != honest[1]).any()


@on_every_rule
def test_columns_in_chunks_give_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, whole = rows(), made(name, rows())
    monkeypatch.setattr(aggregation, "CHUNK_BYTES", 1)
    torch.testing.assert_close(made(name, own), whole, rtol=0, atol=1e-14)


@on_every_rule
def test_who_is_linear_is_the_mixing_itself(name: str) -> None:
    own, plain = rows(), rows()
    LocalExchange(NODES, ordered=True).mix(plain, mixing())
    linear = traits_of(find("aggregation", name), AggregationTraits).linear
    assert torch.equal(made(name, own), plain) == linear


@on_every_rule
def test_a_merge_of_all_lies_between_them_and_heeds_who_is_absent(name: str) -> None:
    own = rows()
    own[3] = 1e9
    weights = torch.full((NODES,), 1 / (NODES - 1), dtype=torch.float64)
    weights[3] = 0.0
    rule = example("aggregation", name)
    found = aggregate_all(rule, lambda values: values, own, weights)
    good = own[weights > 0]
    assert (found <= good.max(0).values + 1e-12).all()
    assert (found >= good.min(0).values - 1e-12).all()


def test_a_merge_by_distances_goes_from_the_median_and_clips_the_farthest_but_one() -> (
    None
):
    """By hand: the median is 2; of distances 1, 1/2, 0, 3, 98 the limit is the last but one."""
    own = torch.tensor([[1.0], [1.5], [2.0], [5.0], [100.0]], dtype=torch.float64)
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    found = aggregate_all(
        build("aggregation", "clipping"), lambda given: given, own, weights
    )
    assert found.item() == pytest.approx(2 + 0.2 * (-1 - 0.5 + 0 + 3 + 3))


def talking(name: str, **settings: Any) -> Block:
    plain = {
        "task": "quadratic(dimension=40)", "nodes": 5, "dtype": "float64", "topology": "ring",
        "communication": "then_merge(constant, at=60%)", "local_steps": 1, "steps": 10,
        "mixing": "ordered", "aggregation": example("aggregation", name), "init": "independent",
        "attack": "sign_flip(nodes=[1])", "replicas": "vmap",
    }  # fmt: skip
    return tiny_block(**{**plain, **settings})


@on_every_rule
def test_two_workers_do_what_one_process_does_and_bytes_are_as_planned(name: str) -> None:
    alone = talking(name)
    blocks = [Block(alone.setup, exchange, silent) for exchange in exchanges([2, 3])]
    walk(alone)
    found = torch.cat(together(walk, blocks))
    torch.testing.assert_close(found, alone.rows, rtol=1e-9, atol=1e-12)
    assert alone.planner is not None
    assert alone.stats.bytes == list(preview(alone.planner))[-1].bytes(alone.setup.size)
    assert blocks[0].stats.bytes == alone.stats.bytes
