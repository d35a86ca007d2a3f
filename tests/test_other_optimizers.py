"""Optimizers of torch and of pytorch-optimizer: what they remember, their modes, and all of them.

The soak test tries every one and compares with the table in docs/other-optimizers.md, which
``--regenerate`` writes.
"""

from __future__ import annotations

import inspect
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
from support import advance, blobs, silent, tiny_setup
from torch import Tensor, nn

from decentral.config import make_config
from decentral.errors import ConfigError
from decentral.exchange.base import LocalExchange
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import checkpoint_of, restore, train
from decentral.loop.setup import Setup
from decentral.optim.states import UnknownState, pack, unpack
from decentral.registry import build
from decentral.run.checkpoint import newest_checkpoint, save_checkpoint
from decentral.run.folder import RunFolder

PAGE = Path(__file__).resolve().parent.parent / "docs/other-optimizers.md"
OTHERS = "pytorch_optimizer."
HALF, STEPS = 3, 6


def setup_of(optimizer: object, **settings: Any) -> Setup:
    given = {
        "steps": STEPS,
        "local_steps": 1,
        "topology": "nx:path_graph",
        "nodes": 3,
    } | settings
    given = {"communication": "constant(final_merge=false)"} | given
    return tiny_setup(task=blobs(), optimizer=optimizer, **given)


def block_of(setup: Setup) -> Block:
    return Block(setup, LocalExchange(3, ordered=True), silent)


def resumed(setup: Setup, folder: Path) -> tuple[Block, Block]:
    """Return a block that went to the end, and one that went on from the middle, from disk."""
    block = block_of(setup)
    advance(block, HALF)
    out = RunFolder.create(folder)
    save_checkpoint(out, checkpoint_of(block), 1)
    saved, again = newest_checkpoint(out.path), block_of(setup)
    restore(again, saved.load(saved.live))
    for one in (block, again):
        advance(one, STEPS)
    return block, again


# --- what they remember ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Prodigy", "AdaFactor", "ADOPT", "AggMo", "AdaShift", "MADGRAD", "SOAP", "StableSPAM",
             "LoRARite", "ScheduleFreeAdamW", "SPlus"],
)  # fmt: skip
def test_what_they_remember_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    block, again = resumed(setup_of(OTHERS + name), tmp_path / "run")
    assert torch.equal(block.rows, again.rows)
    assert not torch.equal(block.rows, block.setup.initial_rows(block.hosted))


class Hoarder(torch.optim.SGD):
    """Remembers things of every type."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (weight,) = self.param_groups[0]["params"]
        self.count = 3
        self.param_groups[0] |= {"queue": deque([weight * 1], maxlen=2), "rule": len}
        self.state[weight] |= {
            "list": [weight.detach() + 1, None, (1, 2.5, True)], "type": torch.float16,
            "by name": {"a": float("inf"), 3: {1, 2}}, "turned": torch.eye(2, 3).T.clone() + 1,
        }  # fmt: skip
        self.state["all"] = torch.tensor([7], dtype=torch.int8)  # type: ignore[index]


def test_memories_of_every_type_come_back() -> None:
    first, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    one, two = Hoarder([first], lr=0.5), Hoarder([other], lr=0.1)
    one.step()
    two.param_groups[0]["rule"] = max
    unpack(two, pack(one))
    group, state = two.param_groups[0], two.state[other]
    assert (two.count, group["lr"], group["rule"]) == (3, 0.5, max)
    assert group["queue"].maxlen == 2
    assert group["queue"][0].tolist() == [1, 1]
    assert group["params"][0] is other
    assert state["list"][0].tolist() == [2, 2]
    assert state["list"][1:] == [None, (1, 2.5, True)]
    assert state["type"] is torch.float16
    assert state["by name"] == {"a": float("inf"), 3: {1, 2}}
    assert state["turned"].stride() == one.state[first]["turned"].stride() == (1, 3)
    assert torch.equal(state["turned"], one.state[first]["turned"])
    known: Any = two.state
    assert known["all"].dtype == torch.int8
    one.state[first]["what"] = object()
    with pytest.raises(UnknownState, match="object"):
        pack(one)


def test_only_what_the_user_gave_is_judged_and_written() -> None:
    rule = build("optimizer", "pytorch_optimizer.ADOPT(weight_decay=0.1)")
    spec = rule.spec()
    assert spec["weight_decay"] == 0.1
    assert all(isinstance(v, int | float | str | list | None) for v in spec.values())
    assert build("optimizer", spec).spec() == spec
    assert setup_of(OTHERS + "Prodigy").optimizer.settings["growth_rate"] is None
    with pytest.raises(ConfigError, match="growth_rate = inf: it must be finite"):
        build("optimizer", make_config({"optimizer": "pytorch_optimizer.Prodigy(growth_rate=inf)"})
              .optimizer)  # fmt: skip


# --- modes ----------------------------------------------------------------------------------------


def averaged(block: Block) -> Tensor:
    """Return x of every row: by the formula of schedule-free optimizers, from y and z."""
    found = block.rows.clone()
    for row, one in enumerate(block.optimizer.instances):
        beta = one.param_groups[0]["betas"][0]
        views = block.setup.layout.views(found)
        for view, parameter in zip(
            views.values(), block.optimizer._params_of(row), strict=True
        ):
            view[row] = parameter.detach().lerp(one.state[parameter]["z"], 1 - 1 / beta)
    return found


def test_schedule_free_optimizers_are_evaluated_where_they_average() -> None:
    block = block_of(setup_of(OTHERS + "ScheduleFreeAdamW", dtype="float64"))
    evaluator = Evaluator(block)
    advance(block, STEPS)
    y, x = block.rows.clone(), averaged(block)
    assert (x - y).abs().max() > 1e-4
    with block.optimizer.evaluating():
        torch.testing.assert_close(block.rows, x)
        assert not block.optimizer.instances[0].param_groups[0]["train_mode"]
    torch.testing.assert_close(block.rows, y)
    state = evaluator.merged_state()
    torch.testing.assert_close(
        state["1.weight"], block.setup.layout.views(x)["1.weight"].mean(0)
    )
    found = evaluator(complete=True)
    block.rows.copy_(x)
    block.optimizer.moded.clear()
    assert evaluator(complete=True)["loss/merged"] == pytest.approx(
        found["loss/merged"], rel=1e-9
    )


def test_schedule_free_optimizers_are_merged_where_they_average() -> None:
    merge = {"communication": "none(final_merge=true)", "dtype": "float64"}
    block = block_of(setup_of(OTHERS + "ScheduleFreeAdamW", **merge))
    other = block_of(setup_of(OTHERS + "ScheduleFreeAdamW", **merge))
    advance(other, STEPS)
    expected = averaged(other).mean(0)
    list(train(block, Evaluator(block)))
    with block.optimizer.evaluating():
        torch.testing.assert_close(block.rows, expected.expand(3, -1))


# --- all of them ----------------------------------------------------------------------------------


def names() -> list[str]:
    """Return every optimizer of torch and of pytorch-optimizer, by its dotted name."""
    import pytorch_optimizer  # two seconds, for one soak test

    found: list[str] = []
    for module, prefix in ((torch.optim, "torch.optim."), (pytorch_optimizer, OTHERS)):
        classes = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, torch.optim.Optimizer)
            and value.__module__.startswith(prefix.rstrip("."))
            and value is not torch.optim.Optimizer
        ]
        found += [prefix + name for name in sorted(classes)]
    return found


def line(name: str, folder: Path) -> str:
    """Try an optimizer; return its line of the table."""
    try:
        block, again = resumed(setup_of(name), folder)
    except ConfigError as error:
        reason = (
            str(error)
            .removeprefix(f"optimizer {name!r} ")
            .rstrip(".")
            .replace("|", "\\|")
        )
        return f"| `{name}` | | | {reason} |"
    assert bool(torch.isfinite(block.rows).all()), name
    together = block.optimizer.shared
    same = "yes" if torch.equal(block.rows, again.rows) else "no"
    return f"| `{name}` | {'all by one' if together else 'each by its own'} | {same} | |"


HEAD = """# Optimizers of others

Any optimizer is found by its dotted name, such as `torch.optim.RAdam` or
`pytorch_optimizer.Prodigy(weight_decay=0.01)`, also of a package of your own. It is tried for two
steps on one row of the model before a run, and refused in one line where it fails. One that has
`train()` and `eval()`, as schedule-free ones have, is evaluated, merged and exported in
evaluation mode; gossip mixes what it trains. A checkpoint holds what it remembers: tensors,
numbers, text, lists, queues and mappings of these, in its state, its groups and its attributes.
Only what you give is judged and written into `config.yaml`.

What follows is every optimizer of torch {torch} and of pytorch-optimizer {others} with its own
defaults, on an MLP of 3 nodes: whether one instance updates the rows of all nodes or each row has
its own, whether a run that stops and goes on ends with the same bits, and what is refused, with
the reason. `Kron` draws from the global generators of torch and numpy, which no checkpoint holds.
Made by `pytest -m soak tests/test_other_optimizers.py --regenerate`; a soak test compares.

| optimizer | rows | resumes to the same bits | refused, and why |
|---|---|---|---|
"""


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_is_as_the_page_says(tmp_path: Path, regenerate: bool) -> None:
    from importlib.metadata import version

    lines = [line(name, tmp_path / str(place)) for place, name in enumerate(names())]
    head = HEAD.format(
        torch=torch.__version__.split("+")[0], others=version("pytorch_optimizer")
    )
    text = head + "\n".join(lines) + "\n"
    if regenerate:
        PAGE.write_text(text)
    assert text == PAGE.read_text()
