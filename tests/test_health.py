"""NaN and infinity: the run stops with a remedy, or the node is kept from poisoning others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import blobs, tiny_block, tiny_run, trained
from torch import nn

from decentral import RunError, Task
from decentral.loop.block import Block
from decentral.loop.rounds import checkpoint_of, restore

SICK = 2


class Sick:
    """A gradient that is NaN at one node from one step on."""

    def __init__(self, block: Block, step: int, what: str = "grads") -> None:
        self.block, self.inner, self.step, self.what = (
            block,
            block.pipeline.compute,
            step,
            what,
        )
        self.kind = block.pipeline.compute.kind

    def __call__(self, rows: Any, integers: Any, batch: Any, out: Any) -> Any:
        losses = self.inner(rows, integers, batch, out)
        if self.block.step + 1 >= self.step:
            if self.what in ("grads", "both"):
                out[SICK] = torch.nan
            if self.what in ("losses", "both"):
                losses[SICK] = torch.inf
        return losses


def sick_block(
    step: int, what: str = "grads", **settings: Any
) -> tuple[Block, list[Any]]:
    events: list[Any] = []
    announce = lambda event, details: events.append((event, dict(details)))  # noqa: E731
    block = tiny_block(announce, **{"nodes": 5, "topology": "complete", **settings})
    block.pipeline.compute = Sick(block, step, what)  # type: ignore[assignment]
    return block, events


TALK: dict[str, dict[str, Any]] = {
    "gossip": {"communication": "constant", "local_steps": 1},
    "dense": {"communication": "constant", "local_steps": 1, "nodes": 9},
    "with state": {"communication": "constant", "local_steps": 1, "mix_state": True, "nodes": 9},
    "adamw": {"communication": "constant", "optimizer": "adamw", "mix_state": True},
    "tensors": {
        "communication": "constant", "optimizer": "torch.optim.RAdam", "mix_state": True,
        "local_steps": 1,
    },
    "merge": {"communication": "then_merge(schedule=none, at=75%)", "mix_state": True},
    "at the end": {"communication": "none(final_merge=true)"},
    "never": {"communication": "none"},
    "all-reduce": {"algorithm": "allreduce"},
    "combine first": {
        "communication": "constant", "algorithm": "dsgd(order=combine_then_adapt)",
        "local_steps": 1,
    },
}  # fmt: skip


def asked(name: str) -> dict[str, Any]:
    settings = dict(TALK[name])
    return settings if "algorithm" not in settings or "communication" in settings else (
        settings | {"topology": None}
    )  # fmt: skip


@pytest.mark.parametrize("what", ["grads", "losses", "both"])
@pytest.mark.parametrize("name", list(TALK))
def test_a_sick_node_is_kept_out_and_the_others_finish_in_health(
    name: str, what: str
) -> None:
    block, events = sick_block(8, what, **asked(name), on_nonfinite="quarantine")
    rows = trained(block)
    assert block.quarantined == {SICK}
    assert torch.isfinite(block.rows).all()
    for channel in block.optimizer.channels():
        assert torch.isfinite(channel).all()
    merged = torch.equal(block.rows[SICK], block.rows[0])
    assert merged or (block.rows[SICK] == 0).all()
    assert rows[-1]["nodes/healthy"] == block.exchange.nodes - 1
    numbers = [v for row in rows[1:] for v in row.values() if isinstance(v, float)]
    assert torch.isfinite(torch.tensor(numbers)).all()
    found = [details for event, details in events if event == "nonfinite"]
    assert len(found) == 1
    assert found[0]["nodes"] == [SICK]
    assert found[0]["step"] in (8, 9, 10), "noticed at once, or at the next evaluation"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "torch.optim.RAdam", "muon"])
def test_a_node_with_a_rate_of_its_own_trains_as_a_run_at_that_rate(
    optimizer: str,
) -> None:
    common: dict[str, Any] = {
        "algorithm": "local",
        "optimizer": optimizer,
        "dtype": "float64",
    }
    alone = tiny_block(learning_rate=0.02, **common)
    mixed = tiny_block(learning_rate=0.01, node_lr={SICK: 2.0}, **common)
    slow = tiny_block(learning_rate=0.01, **common)
    for block in (alone, mixed, slow):
        trained(block)
    torch.testing.assert_close(mixed.rows[SICK], alone.rows[SICK], rtol=1e-9, atol=1e-12)
    assert torch.equal(mixed.rows[0], slow.rows[0])


def test_a_node_with_a_wild_rate_is_kept_out_before_it_talks() -> None:
    events: list[Any] = []
    announce = lambda event, details: events.append((event, dict(details)))  # noqa: E731
    settings: dict[str, Any] = {
        "communication": "constant",
        "local_steps": 10,
        "steps": 40,
    }
    wild = {"node_lr": {SICK: 1e20}, "on_nonfinite": "quarantine"}
    block = tiny_block(announce, **settings, **wild)
    rows = trained(block)
    assert block.quarantined == {SICK}
    assert events[0][1]["step"] < 10
    assert rows[-1]["loss/merged"] < rows[0]["loss/merged"]
    with pytest.raises(RunError, match=f"node {SICK} became NaN or infinite at step"):
        trained(tiny_block(**settings, node_lr={SICK: 1e20}))


@pytest.mark.parametrize("name", ["gossip", "at the end", "all-reduce"])
def test_the_healthy_nodes_go_on_as_they_should(name: str) -> None:
    """Whatever comes after the quarantine averages over the healthy nodes only."""
    block, _ = sick_block(3, **asked(name), on_nonfinite="quarantine", dtype="float64")
    trained(block)
    healthy = [node for node in range(5) if node != SICK]
    if name != "gossip":
        assert torch.allclose(block.rows[healthy], block.rows[0].expand(4, -1))
    weights = block.merge_shares()
    assert weights.tolist() == [0.25, 0.25, 0.0, 0.25, 0.25]


@pytest.mark.parametrize("name", list(TALK))
@pytest.mark.parametrize("step", [1, 7, 20])
def test_by_default_the_run_stops_and_names_node_step_and_remedy(
    name: str, step: int
) -> None:
    block, _ = sick_block(step, "both", **asked(name))
    with pytest.raises(RunError) as caught:
        trained(block)
    message = str(caught.value)
    assert message.startswith(
        f"node {SICK} became NaN or infinite at step {step}; lower the"
    )
    assert "set clip" in message
    assert "on_nonfinite=quarantine" in message
    assert "\n" not in message


def test_rows_that_overflow_in_the_last_step_are_not_published() -> None:
    """The loss of the last step is finite, and nothing is sent afterwards."""
    block, _ = sick_block(20, "grads", communication="none")
    with pytest.raises(RunError, match=f"node {SICK} became NaN or infinite at step 20"):
        trained(block)


def test_a_run_without_a_healthy_node_stops() -> None:
    block, _ = sick_block(99, communication="none", on_nonfinite="quarantine")
    block.rows += torch.nan
    with pytest.raises(RunError, match="every node became NaN or infinite by step 1"):
        trained(block)


@pytest.mark.parametrize("algorithm", ["dsgd", "allreduce", "local"])
def test_a_node_with_broken_data_is_quarantined_for_good(algorithm: str) -> None:
    whole = blobs()
    train, _, test = whole.splits
    owners = torch.arange(len(train)) % 4
    inputs = train.inputs.clone()
    inputs[owners == 1] = torch.finfo(
        inputs.dtype
    ).max  # what is NaN is refused beforehand
    task = Task(
        loss=nn.functional.cross_entropy, train=(inputs, train.targets), owners=owners,
        test=(test.inputs, test.targets),
    )  # fmt: skip
    block = tiny_block(
        task=task, algorithm=algorithm, on_nonfinite="quarantine", mix_state=True
    )
    rows = trained(block)
    assert block.quarantined == {1}
    assert torch.isfinite(block.rows).all()
    assert rows[-1]["loss/merged"] < rows[0]["loss/merged"]


def test_quarantine_is_written_down_and_survives_a_resume(tmp_path: Path) -> None:
    run = tiny_run(
        tmp_path / "run", on_nonfinite="quarantine", topology="ring", local_steps=1
    )
    run.block.pipeline.compute = Sick(run.block, 6)  # type: ignore[assignment]
    summary = run.run(lambda row: None)
    events = [e for e in run.folder.rows("events.jsonl") if e["event"] == "nonfinite"]
    assert [(e["step"], e["nodes"]) for e in events] == [(6, [SICK])]
    assert summary["final"]["accuracy/merged"] is not None
    again = tiny_block(task="digits", nodes=4, topology="ring")
    restore(again, checkpoint_of(run.block))
    assert again.quarantined == {SICK}


def test_a_run_that_diverged_names_its_folder(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", checkpoint_every=4)
    run.block.pipeline.compute = Sick(run.block, 6)  # type: ignore[assignment]
    with pytest.raises(RunError, match="node 2 became NaN or infinite") as caught:
        run.run(lambda row: None)
    assert str(tmp_path / "run") in str(caught.value)


def test_a_plug_in_that_fails_midway_names_the_folder_and_how_to_go_on(
    tmp_path: Path,
) -> None:
    def fails_later(block: Any, action: Any) -> None:
        """Divide by what is left."""
        block.gradient()
        block.adapt()
        block.combine(action)
        assert 1 / (10 - block.step)

    run = tiny_run(tmp_path / "run", algorithm=fails_later, checkpoint_every=4)
    with pytest.raises(
        RunError, match="'fails_later' raised ZeroDivisionError"
    ) as caught:
        run.run(lambda row: None)
    assert str(caught.value).endswith(f"Run folder: {tmp_path / 'run'}.")
