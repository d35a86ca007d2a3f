"""Algorithms, topologies and schedules, two by two: several workers end where one process ends.

So does every other kind that acts on what is sent, each member by itself. The cases come from the
registry. In float64 with ordered sums they agree to the bit, unless something was averaged over all
nodes, where Gloo's order of adding counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import (
    advance,
    connected,
    in_rounds,
    logical,
    pairwise_cover,
    silent,
    tiny_setup,
    together,
)
from torch import Tensor

from decentral.errors import ConfigError
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.registry import find, names
from decentral.traits import AlgorithmTraits, CodecTraits, CommunicationTraits, traits_of

KINDS = "algorithm", "topology", "communication"
#: What else acts on what is sent.
OTHERS = "aggregation", "codec", "fault", "attack"
NODES, SIZES = 8, (5, 3)
SETTINGS: dict[str, Any] = {
    "nodes": NODES, "steps": 30, "local_steps": 3, "dtype": "float64", "replicas": "vmap",
    "mixing": "ordered", "init": "independent", "seed": 5, "task": "quadratic(dimension=6)",
}  # fmt: skip


def written(kind: str, name: str) -> str:
    traits = find(kind, name).traits
    text = str(traits.example or name)
    if isinstance(traits, CommunicationTraits) and traits.budgeted:
        # more than one merge spends, less than every link in every round, on any graph here
        text = f"{name}(schedule=late, budget=10%)"
    biased = isinstance(traits, CodecTraits) and traits.biased
    return f"choco(codec={text}, step=0.1)" if biased else text


def asked(case: dict[str, str]) -> dict[str, Any]:
    """Return the settings of a run that ask for the members of a case."""
    parts: dict[str, Any] = {kind: written(kind, name) for kind, name in case.items()}
    if "fault" in parts:
        parts["faults"] = [parts.pop("fault")]
    return parts


def members(kind: str) -> list[str]:
    return in_rounds() if kind == "algorithm" else list(names(kind))


def talkative(name: str) -> bool:
    return traits_of(find("algorithm", name), AlgorithmTraits).communicates == "rounds"


CASES = pairwise_cover(
    {
        kind: [n for n in members(kind) if kind != "algorithm" or talkative(n)]
        for kind in KINDS
    }
) + [{"algorithm": name} for name in in_rounds() if not talkative(name)]
CASES += [
    {"topology": "ring", "communication": "constant", kind: name}
    for kind in OTHERS
    for name in names(kind)
]


def news(cases: list[dict[str, str]]) -> Iterator[tuple[dict[str, str], bool]]:
    """Yield every case, and whether it shows a member that no case before has shown."""
    seen: set[tuple[str, str]] = set()
    for case in cases:
        yield case, not case.items() <= seen
        seen |= case.items()


@pytest.fixture(scope="module")
def exchanges() -> Iterator[list[Any]]:
    """The shared workers: threads that are connected by Gloo."""
    with connected(SIZES, ordered=True) as made:
        yield made


class Watched(LocalExchange):
    """Knows whether anything was averaged over all nodes."""

    averaged = False

    def mean(self, channel: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        self.averaged = True
        return super().mean(channel, weights)


def trained(setup: Any, exchange: Any) -> Block:
    block = Block(setup, exchange, silent)
    advance(block, setup.config.steps)
    return block


def combined(parts: dict[str, Any]) -> tuple[Any, Block]:
    """Return a run in one process; members that refuse each other get simpler company."""
    simpler: tuple[dict[str, str], ...] = (
        {}, {"topology": "ring"}, {"topology": "line"}, {"algorithm": "dsgd"},
        {"task": "digits"}, {"topology": "ring", "communication": "constant"},
    )  # fmt: skip
    refusals: list[str] = []
    for change in simpler:
        try:
            setup = tiny_setup(**(SETTINGS | parts | change))
            return setup, trained(setup, Watched(NODES, ordered=True))
        except ConfigError as error:
            refusals.append(str(error))
    raise AssertionError(f"cannot be combined: {refusals}")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=() if new else pytest.mark.soak, id="-".join(case.values())
        )
        for case, new in news(CASES)
    ],
)
def test_two_workers_end_where_one_process_ends(
    case: dict[str, str], exchanges: list[Any]
) -> None:
    """By default the cases that show a member for the first time, in a soak run every pair."""
    setup, alone = combined(asked(case))
    crew = [SimpleNamespace(exchange=exchange) for exchange in exchanges]
    blocks = together(lambda worker: trained(setup, worker.exchange), crew)
    found = torch.cat([block.rows for block in blocks])
    if alone.exchange.averaged:  # pyright: ignore
        torch.testing.assert_close(found, alone.rows, rtol=1e-9, atol=1e-12)
    else:
        assert torch.equal(found, alone.rows)
    assert [logical(block) for block in blocks] == [logical(alone)] * 2


def test_every_two_members_meet() -> None:
    factors = {kind: [n for n in members(kind) if kind != "algorithm" or talkative(n)]
               for kind in KINDS}  # fmt: skip
    met = {pair for case in CASES for pair in combinations(sorted(case.items()), 2)}
    for one, other in combinations(sorted(KINDS), 2):
        for a in factors[one]:
            for b in factors[other]:
                assert ((one, a), (other, b)) in met
