"""Buffers of every type: one rule where models meet, and where one is made of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import exchanges, silent, tiny_setup, together
from torch import Tensor, nn

from decentral import Task
from decentral.engines.workers import mean_state
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import train
from decentral.merging.calibrate import unite

GOSSIP = {"topology": "nx:path_graph", "communication": "constant(final_merge=false)"}
MERGE = {"communication": "none(final_merge=true)"}
ALL_REDUCE = {"algorithm": "allreduce"}
#: Metropolis weights of a path of three nodes.
MIXING = torch.tensor([[2, 1, 0], [1, 1, 1], [0, 1, 2]], dtype=torch.float64) / 3


class Seen(nn.Module):
    """Buffers that hold what a node has seen: every sample of node i is i + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("low", torch.full((2,), torch.inf))
        self.register_buffer("count", torch.zeros((), dtype=torch.int32))
        self.register_buffer("large", torch.zeros(2, dtype=torch.bool))
        self.register_buffer("phase", torch.zeros((), dtype=torch.complex64))
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("table", torch.arange(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        now = x.detach().mean()
        if self.training:
            self.mean = now.clone()
            self.low[:1].copy_(now.reshape(1))
            self.count.add_(now.round().to(torch.int32))
            self.large.logical_or_(torch.stack([now > 2, now > 9]))
            self.phase.copy_(now * 1j)
            self.scale.copy_(now)
        return self.body(x) * self.table[1]


def setup(rows: str, **settings: Any) -> Any:
    data = {
        node: (torch.full((6, 1), node + 1.0), torch.zeros(6, 1)) for node in range(3)
    }
    task = Task(loss=nn.functional.mse_loss, train=data, test=data[0], model=Seen)
    return tiny_setup(
        task=task, nodes=3, steps=1, local_steps=1, batch=2, replicas=rows, eval_every=1,
        metrics=["loss"], **settings,
    )  # fmt: skip


def finish(block: Block) -> dict[str, Tensor]:
    """Train a block by one step; return the state of the model that is made of all."""
    evaluator = Evaluator(block)
    list(train(block, evaluator))
    return evaluator.merged_state()


def trained(made: Any, workers: int) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Return every buffer of all nodes, [3, ...], and what each worker makes of them."""
    if workers == 1:
        blocks = [Block(made, LocalExchange(3, ordered=True), silent)]
    else:
        blocks = [Block(made, exchange, silent) for exchange in exchanges([2, 1])]
    states = together(finish, blocks)
    rows = torch.cat([block.rows for block in blocks])
    whole = {
        k: torch.cat([block.integers[k] for block in blocks])
        for k in made.layout.integers
    }
    return {**made.layout.views(rows, made.layout.buffers), **whole}, states


@pytest.mark.usefixtures("threads_may_evaluate")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("rows", ["vmap", "loop"])
@pytest.mark.parametrize(
    "way", [GOSSIP, MERGE, ALL_REDUCE], ids=["gossip", "merge", "all-reduce"]
)
def test_one_rule_for_buffers(way: dict[str, Any], rows: str, workers: int) -> None:
    own = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    made = setup(rows, dtype="float64", **way)
    found, states = trained(made, workers)
    met = {"gossip": MIXING @ own, "merge": own.mean().repeat(3), "all-reduce": own}
    floats = met["gossip" if way is GOSSIP else "merge" if way is MERGE else "all-reduce"]
    torch.testing.assert_close(found["mean"], floats)
    torch.testing.assert_close(found["scale"], floats)
    assert found["low"].tolist() == [[1, torch.inf], [2, torch.inf], [3, torch.inf]]
    assert found["count"].tolist() == [1, 2, 3]
    assert found["large"].tolist() == [[False, False], [False, False], [True, False]]
    assert found["phase"].tolist() == [1j, 2j, 3j]
    assert "table" not in found
    for state in states:
        assert state["mean"].item() == pytest.approx(2)
        assert state["low"].tolist() == [2, torch.inf]
        assert state["count"].item() == 3
        assert state["count"].dtype == torch.int32
        assert state["large"].tolist() == [True, False]
        assert state["phase"].item() == 1j
        assert not {"scale", "table"} & set(state)


def test_statistics_need_not_travel() -> None:
    found, states = trained(
        setup("loop", dtype="float64", gossip_buffers=False, **GOSSIP), 1
    )
    assert found["mean"].tolist() == [1, 2, 3]
    assert states[0]["mean"].item() == 2


def test_who_joins_begins_with_the_same_rule() -> None:
    states: list[dict[str, Tensor]] = [
        {
            "row": torch.tensor([1.0 + k]), "integer/count": torch.tensor(3 - k),
            "integer/large": torch.tensor([k > 0, False]), "optimizer/0/step#": torch.tensor(7),
        }
        for k in range(2)
    ]  # fmt: skip
    found = mean_state(states)
    assert found["row"].tolist() == [1.5]
    assert found["integer/count"].item() == 3
    assert found["integer/large"].tolist() == [True, False]
    assert found["optimizer/0/step#"].item() == 7


def test_what_is_infinite_on_some_nodes_is_the_mean_of_the_others() -> None:
    values = torch.tensor(
        [[torch.inf, -torch.inf, 1.0], [4.0, -torch.inf, torch.nan], [6.0, 0, 3]]
    )
    values[2, 1] = -torch.inf
    assert unite(values).tolist() == [[5, -torch.inf, 2]]
