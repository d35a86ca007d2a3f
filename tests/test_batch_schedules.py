"""Batch schedules and budgets of data in a run: counters, resuming, accumulation, both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_block, tiny_run, tiny_setup, trained, untimed

from decentral import ConfigError
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.network import preview
from decentral.registry import build, names
from decentral.run.checkpoint import newest_checkpoint
from decentral.run.folder import RunFolder
from decentral.schedules import Progress
from decentral.schedules.progress import step_timeline

LATE = "late_switch(at=50%, from=4, to=24)"


# --- schedules ------------------------------------------------------------------------------------


@given(share=st.integers(0, 100), small=st.integers(1, 64), factor=st.integers(1, 8))
def test_a_switch_is_two_stages(share: int, small: int, factor: int) -> None:
    switch = {
        "name": "late_switch",
        "at": f"{share}%",
        "from": small,
        "to": small * factor,
    }
    stages = f"{small},{small * factor} at {share}%"
    mirrored = {**switch, "name": "early_switch"}
    paces = [
        step_timeline(build("batch", spec), 0, 5000)
        for spec in (switch, mirrored, stages)
    ]
    assert paces[0] == paces[1] == paces[2]


@given(sizes=st.lists(st.integers(1, 99), min_size=1, max_size=5), data=st.data())
def test_a_plan_is_stages_by_shares(sizes: list[int], data: st.DataObject) -> None:
    shares = sorted(
        data.draw(st.lists(st.floats(0, 1), min_size=len(sizes) - 1, max_size=4))
    )
    shares = shares[: len(sizes) - 1]
    plan = build("batch", {"name": "plan", "sizes": sizes, "at": shares})
    stages = build(
        "batch", {"name": "stages", "sizes": sizes, "at": [f"{x!r}" for x in shares]}
    )
    if all(0 < x < 1 for x in shares):
        assert step_timeline(plan, 0, 3000) == step_timeline(stages, 0, 3000)
    assert step_timeline(plan, 0, 3000).samples[-1] == 3000


def test_geometric_growth_has_equal_factors() -> None:
    rule = build("batch", "geometric(from=10, to=1000)")
    assert [rule(Progress(step, 4)) for step in range(5)] == [10, 32, 100, 316, 1000]


@pytest.mark.parametrize("capacity", [1.5, 2.0, 4.0])
def test_growth_follows_the_power_of_the_time_to_go(capacity: float) -> None:
    """By samples, the law in the time to go emerges from the closed form in the data to go."""
    rule = build("batch", f"easy_growth(from=100, to=40000, capacity={capacity})")
    timeline = step_timeline(rule, 0, 4_000_000)
    to_go = torch.arange(timeline.steps, 0, -1, dtype=torch.float64)
    sizes = torch.tensor(
        [timeline.size(step) for step in range(timeline.steps)], dtype=torch.float64
    )
    middle = slice(timeline.steps // 10, timeline.steps * 9 // 10)
    power = 1 - 1 / (2 * capacity)
    x, y = to_go[middle].log(), sizes[middle].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope == pytest.approx(-power, abs=0.05)


def test_growth_by_steps_and_by_samples_begins_and_ends_alike() -> None:
    rule = build("batch", "stable_growth(start=80%, from=8, to=512)")
    by_steps = [rule(Progress(step, 1000)) for step in (0, 800, 1000)]
    by_samples = [rule(Progress(0, 0, samples, 1000)) for samples in (0, 800, 1000)]
    assert by_steps == by_samples == [8, 8, 512]


# --- budgets of data ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [*names("batch")[:1], LATE, "geometric(from=3, to=17)"])
@pytest.mark.parametrize("data", ["1000", "999 samples", "0.25k samples/node"])
def test_a_run_ends_with_its_data(batch: str, data: str) -> None:
    block = tiny_block(batch=batch, data=data)
    rows = trained(block)
    wanted = 250 if "node" in data or data == "1000" else 249
    assert block.samples == wanted == rows[-1]["samples"]
    assert rows[-1]["step"] == block.setup.config.steps == block.setup.timeline.steps
    seen = [row["samples"] for row in rows if "samples" in row]
    assert seen == [
        block.setup.timeline.samples[row["step"]] for row in rows if "samples" in row
    ]
    assert rows[-1]["batch/global"] == 4 * rows[-1]["batch/size"]


def test_points_in_time_go_by_data() -> None:
    """Communication, learning rate and batch switch where half of the data is used up."""
    block = tiny_block(
        batch="late_switch(at=50%, from=1, to=50)", data="100 samples/node", local_steps=1,
        communication="late(start=50%, intensity=0.001)", learning_rate="step(at=[50%])",
    )  # fmt: skip
    assert block.setup.config.steps == 51
    rows = [row for row in trained(block) if row["step"]]
    before, after = rows[40], rows[49]
    assert (before["batch/size"], after["batch/size"]) == (1, 50)
    assert after["learning_rate"] == pytest.approx(0.1 * before["learning_rate"])
    assert {row["comm/intensity"] for row in rows if row["step"] >= 50} == {1.0}


def test_the_preview_equals_the_run_under_a_growing_batch() -> None:
    block = tiny_block(
        batch="geometric(from=2, to=40)", data="3000", local_steps=2, topology="erdos_renyi",
        communication="then_merge(schedule=constant(0.4), at=70%)",
    )  # fmt: skip
    planner = block.setup.planner
    assert planner is not None
    planned = list(preview(planner))
    rows = trained(block)
    assert planned[-1].messages == rows[-1]["comm/messages"]
    assert sum(step.is_merge for step in planned) == 1, (
        "the merge came once, exactly at its point"
    )


def test_tokens_are_counted_as_sequences() -> None:
    from decentral import Task

    inputs = torch.arange(400).reshape(40, 10) % 7
    task = Task(
        train=(inputs, inputs[:, 0]),
        loss=torch.nn.functional.cross_entropy,
        model=lambda: torch.nn.Sequential(
            torch.nn.Embedding(7, 4), torch.nn.Flatten(), torch.nn.Linear(40, 7)
        ),
    )
    setup = tiny_setup(task=task, data="2k tokens", batch=5, nodes=2, split="iid")
    assert setup.timeline.samples[-1] == 100


def test_epochs_are_passes_over_the_data_of_all_nodes() -> None:
    one = tiny_setup(data="1 epoch", batch=5, nodes=2, split="iid")
    samples = len(one.task.splits[0])
    assert one.timeline.samples[-1] == samples // 2
    more = tiny_setup(data="2.5 epochs", batch=5, nodes=2, split="iid")
    assert more.timeline.samples[-1] == 5 * samples // 4


def test_steps_and_data_must_agree() -> None:
    setup = tiny_setup(steps=32, data="1000", batch=8)
    assert setup.config.steps == 32
    with pytest.raises(ConfigError, match="steps = 31"):
        tiny_setup(steps=31, data="1000", batch=8)


def test_data_replace_the_steps_that_a_task_recommends() -> None:
    config = make_config({"task": "quadratic", "data": "1k"})
    assert "steps" not in config.model_fields_set
    assert make_config({"task": "quadratic"}).steps == 500


# --- runs -----------------------------------------------------------------------------------------


def finished(run: LocalRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    run.run(rows.append)
    return [untimed(row) for row in rows]


@pytest.mark.parametrize(
    "batch", ["stages(sizes=[4, 12, 20], at=[40%, 70%])", "easy_growth(from=2, to=40)"]
)
def test_resume_in_the_middle_of_a_stage_is_exact(tmp_path: Path, batch: str) -> None:
    settings: dict[str, Any] = {
        "batch": batch, "data": "1000", "checkpoint_every": 7, "keep_checkpoints": 99,
        "optimizer": "adamw", "micro_batch": 5, "split": "iid",
    }  # fmt: skip
    whole = tiny_run(tmp_path / "whole", **settings)
    rows = finished(whole)
    saved = next(
        p for p in (tmp_path / "whole/checkpoints").iterdir() if p.name.endswith("14")
    )
    (tmp_path / "again/checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl", "events.jsonl"):
        (tmp_path / "again" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    saved.rename(tmp_path / "again/checkpoints" / saved.name)
    again = LocalRun(whole.setup.config)
    again.go_on(RunFolder(tmp_path / "again"), newest_checkpoint(tmp_path / "again"))
    assert 0 < again.block.samples < 1000 // 4
    assert finished(again) == [row for row in rows if row["step"] > 14 or "phase" in row]
    assert torch.equal(again.block.rows, whole.block.rows)


def test_the_resolved_configuration_repeats_the_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", batch=LATE, data="1k samples")
    rows = finished(run)
    config = tmp_path / "run/config.yaml"
    from decentral.config import read_file

    again = LocalRun(
        make_config({k: v for k, v in read_file(config).items() if v is not None})
    )
    again.begin(RunFolder.create(tmp_path / "again"))
    assert finished(again) == rows
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["samples"] == {"per_node": 250, "all_nodes": 1000}


def test_large_batches_are_accumulated_in_constant_memory(monkeypatch: Any) -> None:
    """No more than the micro-batch is ever fetched, and the gradient is that of the whole."""
    settings: dict[str, Any] = {
        "batch": "late_switch(at=50%, from=8, to=600)",
        "steps": 2,
    }
    block = tiny_block(**settings, dtype="float64")
    assert block.setup.config.micro_batch == 256, "chosen because the batch grows beyond"
    whole = tiny_block(**settings, dtype="float64", micro_batch=600)
    fetched: list[int] = []
    original = block.sampler.batch
    monkeypatch.setattr(
        block.sampler,
        "batch",
        lambda at, size: fetched.append(size) or original(at, size),
    )
    for each in (block, whole):
        each.stand_at(1, 0)
        each.gradient()
    assert fetched == [256, 256, 88]
    torch.testing.assert_close(block.grads, whole.grads, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(block.losses, whole.losses, rtol=1e-12, atol=1e-14)


def test_a_constant_batch_is_never_split_unasked() -> None:
    assert tiny_setup(batch=700).config.micro_batch is None


@pytest.mark.parametrize("algorithm", names("algorithm"))
def test_every_algorithm_follows_a_batch_schedule(algorithm: str) -> None:
    block = tiny_block(algorithm=algorithm, batch=LATE, data="800")
    rows = trained(block)
    assert block.samples == 200
    assert {row["batch/size"] for row in rows if "batch/size" in row} >= {4, 24}
