"""A golden trajectory of every member of every kind that decides how rows change.

Each is a run of five nodes in float64, in one process and, where that is not tested elsewhere, on
two workers that are threads. ``pytest --regenerate`` writes ``golden/members.jsonl``, one line a
member; review the diff. Numbers are compared to 1e-9 on any machine. The bits of the last rows
count only where the file was written: libraries round as the processor suggests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from photos import digits12, machine, photograph, sha256
from support import advance, exchanges, logical, silent, tiny_setup, together
from thread_ranks import train_on_ranks
from torch import nn

from decentral import Task
from decentral.errors import ConfigError
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.setup import Setup
from decentral.registry import find, names
from decentral.simulation import Simulation
from decentral.traits import AlgorithmTraits, CodecTraits, traits_of

FILE = Path(__file__).parent / "golden" / "members.jsonl"
REMEDY = "`pytest tests/test_golden_members.py --regenerate` writes it; review the diff"


def eighths(*shape: int, seed: int | None = None) -> torch.Tensor:
    """Draw multiples of 1/8 within [-1, 1]: how other draws are rounded depends on the machine."""
    draw = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=draw) / 8


class Net(nn.Sequential):
    """Two square layers: with `squares`, gradients of 12 samples have full rank.

    Where they have not, SOAP's directions are up to the library, and so are its steps.
    """

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        with torch.no_grad():
            for values in self.parameters():
                values.copy_(eighths(*values.shape) / 2)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - torch.eye(6, dtype=outputs.dtype)[targets]).square().mean()


def classes(loss: Any, samples: int = 200) -> Task:
    """Return six classes around six points."""
    labels = torch.arange(samples) % 6
    inputs = 2 * eighths(6, 6, seed=1)[labels] + eighths(samples, 6, seed=2)
    cut = samples * 3 // 4
    return Task(
        model=Net, loss=loss, train=(inputs[:cut], labels[:cut]),
        test=(inputs[cut:], labels[cut:]),
    )  # fmt: skip


SHARED: dict[str, Any] = {
    "nodes": 5, "steps": 16, "local_steps": 2, "dtype": "float64", "threads": 1,
    "seed": 5, "replicas": "vmap", "mixing": "ordered", "init": "independent", "batch": 12,
    "topology": "ring", "communication": "constant(0.8)",
    "network": "lan", "compute": "lognormal(median=5ms, nodes_spread=0.5)",
}  # fmt: skip
#: Steps whose numbers are kept, beside the last.
KEPT = (1, 9)

#: Kinds whose every member has its trajectory, and the setting that names one.
KINDS = {
    "algorithm": "algorithm", "codec": "codec", "aggregation": "aggregation", "attack": "attack",
    "fault": "faults", "optimizer": "optimizer", "batch": "batch", "communication": "communication",
    "learning_rate": "learning_rate", "topology": "topology", "weights": "weights",
}  # fmt: skip
#: Kinds that run on workers here, simulated seconds included. `test_pairs` and `test_parity` have
#: the others on workers, or they act within a row.
APART = "algorithm", "batch"
#: What else changes how rows move: settings that no plug-in stands for.
OPTIONS: dict[str, dict[str, Any]] = {
    "torch optimizer": {"optimizer": "torch.optim.RAdam"},
    "row by row": {"replicas": "loop"},
    "state travels": {"optimizer": "adamw", "mix_state": True},
    "own rates": {"node_lr": {1: 0.5, 3: 2.0}},
    "clip": {"clip": 0.1},
    "clip by value": {"clip_value": 0.01},
    "micro-batches": {"micro_batch": 2},
    "sam": {"sam": 0.1},
    "adversarial": {"adversarial": {"eps": 0.05, "steps": 3}},
    "label noise": {"label_noise": 0.3},
    "label smoothing": {"label_smoothing": 0.1},
    "one first model": {"init": "shared"},
    "resampled": {"sampling": "resample", "split": "dirichlet(0.3)"},
    "classes": {"split": "classes(k=2)"},
    "by samples": {"merge": "weighted", "communication": "none(final_merge=true)"},
}
MEMBERS = [(kind, name) for kind in KINDS for name in names(kind)]
MEMBERS += [("option", name) for name in OPTIONS]

#: What a member that refuses the usual company gets, tried in order; the file keeps what was found.
COMPANIES: tuple[dict[str, Any], ...] = (
    {}, {"communication": "constant"}, {"topology": "exponential"}, {"topology": "complete"},
    {"nodes": 8}, {"topology": "complete", "nodes": 8}, {"steps": 60},
    {"communication": None, "topology": None}, {"algorithm": "push_sum"},
    {"algorithm": "relay_sum", "topology": "line", "communication": "constant"},
)  # fmt: skip


def written(kind: str, name: str) -> Any:
    """Return a member as its trait spells it, usable by itself in a run."""
    traits = find(kind, name).traits
    text = str(traits.example or name)
    if isinstance(traits, CodecTraits) and traits.biased:
        text = f"choco(codec={text}, step=0.1)"
    return [text] if kind == "fault" else text


def made(given: dict[str, Any]) -> Setup:
    loss = nn.functional.cross_entropy if "label_smoothing" in given else squares
    return tiny_setup(**SHARED | {"task": classes(loss)} | given)


def company(kind: str, name: str) -> dict[str, Any]:
    """Return the settings of the first run that takes a member."""
    asked = OPTIONS[name] if kind == "option" else {KINDS[kind]: written(kind, name)}
    suits = (
        traits_of(find(kind, name), AlgorithmTraits).defaults
        if kind == "algorithm"
        else {}
    )
    refusals: list[str] = []
    for change in (suits, *COMPANIES):
        try:
            made(change | asked)
        except ConfigError as error:
            refusals.append(str(error))
        else:
            return change | asked
    raise AssertionError(
        f"no run takes {kind} {name}; COMPANIES needs one more. {refusals}"
    )


def ended(block: Block) -> Block:
    """Train a block to its end, the last merge included."""
    advance(block, block.setup.config.steps)
    planner = block.setup.planner
    block.combine(planner.final_merge() if planner else None)
    return block


def alone(given: dict[str, Any]) -> tuple[Block, list[dict[str, Any]]]:
    """Return a run in one process, and what was seen of it."""
    setup = made(given)
    block = Block(setup, LocalExchange(setup.config.nodes, ordered=True), silent)
    if setup.in_events:
        block.simulation = Simulation(block)
    seen: list[dict[str, Any]] = []
    for step in KEPT:
        advance(block, step)
        seen.append(photograph(block))
    last = photograph(ended(block)) | {
        "messages": block.stats.messages,
        "samples": block.samples,
        "simulated_s": digits12(block.simulated_s),
    }
    return block, [*seen, last]


def apart(one: Block) -> torch.Tensor:
    """Return the last rows of two workers; they have counted what one process counts."""
    setup = one.setup
    crew = [SimpleNamespace(exchange=e) for e in exchanges([setup.config.nodes - 3, 3])]
    blocks = together(lambda worker: ended(Block(setup, worker.exchange, silent)), crew)
    assert [logical(block) for block in blocks] == [logical(one)] * 2
    assert [block.simulated_s for block in blocks] == [one.simulated_s] * 2
    return torch.cat([block.rows for block in blocks])


class Album:
    """The golden file: one line per member behind a line that names the machine."""

    def __init__(self, writing: bool) -> None:
        first, *lines = (
            FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else ["{}"]
        )
        self.writing, self.machine = writing, json.loads(first).get("machine")
        self.kept = {
            (line["kind"], line["name"]): line for line in map(json.loads, lines)
        }
        if writing and self.machine != machine():  # its bits are not those of this one
            self.machine = machine()
            for line in self.kept.values():
                line.pop("sha256", None)

    def write(self) -> None:
        """Write all members, also those that no test has renewed."""
        lines = [self.kept[member] for member in MEMBERS if member in self.kept]
        texts = [json.dumps(line) for line in [{"machine": self.machine}, *lines]]
        FILE.write_text("\n".join(texts) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def album(regenerate: bool) -> Iterator[Album]:
    made = Album(regenerate)
    yield made
    if regenerate:
        made.write()


def same(now: dict[str, Any], then: dict[str, Any]) -> None:
    assert now.keys() == then.keys()
    for key, value in then.items():
        assert now[key] == pytest.approx(value, rel=1e-9, abs=1e-9), (then["step"], key)


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_a_member_moves_rows_as_it_did(kind: str, name: str, album: Album) -> None:
    if album.writing:
        run = company(kind, name)
        block, seen = alone(run)
        album.kept[kind, name] = {
            "kind": kind, "name": name, "run": run, "seen": seen, "sha256": sha256(block.rows),
        }  # fmt: skip
    assert (kind, name) in album.kept, f"{kind} {name} has no golden trajectory: {REMEDY}"
    golden = album.kept[kind, name]
    block, seen = alone(golden["run"])
    assert len(seen) == len(golden["seen"])
    for now, then in zip(seen, golden["seen"], strict=True):
        same(now, then)
    if kind in APART and not block.setup.in_events:
        assert torch.equal(apart(block), block.rows)
    if "sha256" in golden and machine() == album.machine:
        assert sha256(block.rows) == golden["sha256"], (
            "the numbers agree, their last bits do not"
        )


#: Every so many members run on ranks by default; the soak has all.
TURN = 9


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(*member, marks=[pytest.mark.soak] * (place % TURN > 0))
        for place, member in enumerate(MEMBERS)
    ],
)
def test_a_member_moves_rows_on_ranks_as_in_one_process(
    kind: str, name: str, album: Album, tmp_path: Path
) -> None:
    golden = album.kept[kind, name]["run"]
    block, _ = alone(golden)
    config = block.setup.config
    if block.setup.in_events:
        with pytest.raises(ConfigError, match="event by event"):
            train_on_ranks(config, tmp_path / "run")
        return
    rows = train_on_ranks(config, tmp_path / "run")
    # Averages over all nodes are summed block by block: there the last bits may differ.
    for node, row in rows.items():
        torch.testing.assert_close(row, block.rows[node], rtol=1e-9, atol=1e-9)


def test_every_golden_trajectory_has_its_member(album: Album) -> None:
    assert set(album.kept) == set(MEMBERS), REMEDY


def test_a_member_without_a_golden_trajectory_is_told_how_to_get_one() -> None:
    empty = Album(writing=False)
    empty.kept = {}
    with pytest.raises(AssertionError, match=r"codec sign has no golden .* --regenerate"):
        test_a_member_moves_rows_as_it_did("codec", "sign", empty)


def test_one_last_bit_is_another_hash() -> None:
    rows = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    other = rows.clone()
    other[2, 1] = torch.nextafter(other[2, 1], torch.tensor(2.0, dtype=torch.float64))
    assert sha256(rows) != sha256(other)
    assert sha256(rows) == sha256(rows.t().contiguous().t())
