"""Evaluation between the first step and the last: how often, on whom, on what, and how fast."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import (
    blobs,
    exchanges,
    silent,
    tiny_block,
    tiny_run,
    tiny_setup,
    together,
    trained,
)
from torch import nn

import decentral
import decentral.cli
from decentral import Task
from decentral.config import read_file
from decentral.errors import RunError
from decentral.loop.block import Block
from decentral.loop.cost import ONE_THREAD_FLOPS, step_flops, thread_count
from decentral.loop.measure import Evaluator, plan_evaluations
from decentral.metrics.base import score

NODES = 6


def validated() -> Task:
    """Return a task with validation samples that are neither trained on nor tested on."""
    task, other = blobs(), blobs(samples=80)
    _, _, test = task.splits
    held = replace(other.splits[0], inputs=other.splits[0].inputs + 1.5)
    return Task(loss=task.loss, train=task.splits[0], val=(held.inputs, held.targets),
                test=(test.inputs, test.targets))  # fmt: skip


# --- on whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "chosen"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (64, list(range(6)))]
)
def test_evaluations_in_between_look_at_eval_nodes_spread_evenly(
    asked: int, chosen: list[int]
) -> None:
    block = tiny_block(nodes=NODES, eval_nodes=asked, init="independent", dtype="float64")
    evaluator = Evaluator(block)
    assert evaluator.snapshot(complete=False).evaluated.tolist() == chosen
    everybody = evaluator.snapshot(complete=True)
    assert everybody.evaluated.tolist() == list(range(NODES))
    # All test samples are in the subset, so that the two differ by their nodes only.
    losses = everybody.local.loss
    found = evaluator(complete=False)
    assert found["loss/local_mean"] == pytest.approx(
        losses[chosen].mean().item(), rel=1e-12
    )
    assert found["loss/local_max"] == pytest.approx(
        losses[chosen].max().item(), rel=1e-12
    )


# --- how often ------------------------------------------------------------------------------------


@pytest.mark.parametrize("local_steps", [1, 3, 7, 16])
def test_the_automatic_interval_is_whole_rounds(local_steps: int) -> None:
    """50 test samples by 7 models, under a twentieth of 6 nodes of 8 samples: 146 steps."""
    plan = plan_evaluations(
        tiny_setup(nodes=NODES, steps=4000, local_steps=local_steps, eval_every="auto")
    )
    assert plan.every % local_steps == 0
    assert 146 <= plan.every < 146 + local_steps


def test_a_long_run_is_evaluated_sixty_times() -> None:
    setup = tiny_setup(nodes=NODES, steps=60_000, local_steps=1, eval_every="auto")
    assert plan_evaluations(setup).every == 1000


@pytest.mark.parametrize("eval_nodes", [1, 3, 64])
@pytest.mark.parametrize("eval_samples", [10, 64])
def test_evaluation_takes_up_to_a_twentieth_of_the_samples_of_training(
    eval_nodes: int, eval_samples: int
) -> None:
    """Counted in forward passes; a step less between evaluations would be more than that."""
    block = tiny_block(
        nodes=NODES, steps=6000, local_steps=1, eval_every="auto", eval_nodes=eval_nodes,
        eval_samples=eval_samples, batch=4,
    )  # fmt: skip
    passed = forwards(block)
    plan = plan_evaluations(block.setup)
    trained_on = NODES * 4 * plan.every
    assert passed <= 0.05 * trained_on
    assert passed > 0.05 * (trained_on - NODES * 4) or plan.every == 100  # sixty times
    between = (6000 - 1) // plan.every * passed
    assert plan.share == pytest.approx(between / (NODES * 4 * 6000), rel=1e-12)


@pytest.mark.parametrize("steps", [100, 300, 900, 2000])
@pytest.mark.parametrize("local_steps", [1, 5])
def test_a_short_run_has_twenty_points_within_a_fifth_of_training(
    steps: int, local_steps: int
) -> None:
    block = tiny_block(
        nodes=NODES, steps=steps, local_steps=local_steps, eval_every="auto", batch=32,
        eval_samples=2048,
    )  # fmt: skip
    plan = plan_evaluations(block.setup)
    between = (steps - 1) // plan.every
    assert between + 1 >= 20, "points, the first among them, the last not"
    assert plan.every % local_steps == 0
    assert between * forwards(block) <= 0.2 * NODES * 32 * steps
    assert plan.samples >= 16


def test_where_twenty_points_would_cost_more_there_are_as_many_as_do_not() -> None:
    """16 samples by 7 models, under a fifth of 6 nodes of 4 samples: 24 steps."""
    setup = tiny_setup(
        nodes=NODES, steps=300, local_steps=1, batch=4, eval_every="auto",
        eval_samples=2048,
    )  # fmt: skip
    plan = plan_evaluations(setup)
    assert (plan.every, plan.samples) == (24, 16)
    assert plan.share < 0.2


def test_an_asked_interval_and_its_samples_stay() -> None:
    plan = plan_evaluations(tiny_setup(nodes=NODES, steps=300, eval_every=10))
    assert (plan.every, plan.samples) == (10, 64)
    ends = plan_evaluations(tiny_setup(nodes=NODES, steps=300, eval_every=1000))
    assert (ends.every, ends.share) == (1000, 0)


def test_what_a_run_writes_of_its_evaluations_repeats_them(tmp_path: Path) -> None:
    """Also where the samples of each are fewer than were asked for."""
    run = decentral.launch(
        nodes=2, steps=40, local_steps=2, threads=1, out=tmp_path / "one"
    )
    written = read_file(tmp_path / "one" / "config.yaml")
    assert (written["eval_every"], written["eval_samples"]) == (4, 16)
    again = decentral.launch(**{**written, "out": tmp_path / "two"})
    keys = ["step", "loss/local_mean", "loss/merged"]
    one, two = (of.metrics.dropna(subset=keys)[keys] for of in (run, again))
    assert len(one) > 10
    assert one.equals(two)


@pytest.mark.parametrize("every", ["auto", 3, 1000])
def test_evaluations_change_no_bit_of_training(every: int | str) -> None:
    blocks = [
        tiny_block(
            nodes=NODES, steps=40, local_steps=2, eval_every=one, model="mlp(hidden=[8])"
        )
        for one in (every, 40)
    ]
    for block in blocks:
        trained(block)
    assert torch.equal(blocks[0].rows, blocks[1].rows)


def test_the_terminal_says_how_often_on_what_and_at_what_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--nodes", "4", "--steps", "40", "local_steps=2", f"out={out}"]
    code = decentral.cli.run(["launch", *words, "eval_nodes=3"])
    assert code == 0
    said = (
        "every 4 steps on 16 of 450 test samples, 3 nodes: 11.2 % of training's samples"
    )
    assert said in " ".join(capsys.readouterr().out.split())


def forwards(block: Block) -> int:
    """Count the forward passes of samples in one evaluation in between."""
    evaluator, passed = Evaluator(block), 0
    forward = evaluator.forward

    def counted(rows: Any, integers: Any, inputs: Any) -> Any:
        nonlocal passed
        passed += len(rows) * len(inputs)
        return forward(rows, integers, inputs)

    evaluator.forward = counted
    evaluator(complete=False)
    return passed


# --- on what --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp(hidden=[8])", "mlp(hidden=[5, 5])"])
def test_validation_is_that_of_the_merged_model_and_is_written(
    model: str, tmp_path: Path
) -> None:
    task = validated()
    run = tiny_run(
        tmp_path / "run", task=task, model=model, dtype="float64", topology="ring"
    )
    run.run(lambda row: None)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluated = [row for row in map(json.loads, lines) if "loss/merged" in row]
    assert [row["step"] for row in evaluated] == [0, 10, 20, 20]
    assert all(
        {"val/loss_merged", "val/accuracy_merged"} <= row.keys() for row in evaluated
    )
    merged = run.setup.builder().double()
    merged.load_state_dict(run.evaluator.merged_state())
    samples = task.splits[1]
    assert samples is not None
    with torch.no_grad():
        outputs = merged(samples.inputs.double())
    loss = nn.functional.cross_entropy(outputs, samples.targets).item()
    right = (outputs.argmax(-1) == samples.targets).double().mean().item()
    assert evaluated[-1]["val/loss_merged"] == pytest.approx(loss, rel=1e-9)
    assert evaluated[-1]["val/accuracy_merged"] == pytest.approx(right, abs=1e-12)
    assert abs(loss - evaluated[-1]["loss/merged"]) > 1e-3, (
        "other samples than the test's"
    )


def test_without_validation_samples_there_are_no_such_metrics() -> None:
    assert not [
        key for row in trained(tiny_block()) for key in row if key.startswith("val/")
    ]


# --- in health ------------------------------------------------------------------------------------


def breaks(block: Block, step: int, node: int) -> None:
    """Let one node's row overflow in the very step before an evaluation."""
    adapt = block.adapt

    def broken() -> None:
        adapt()
        if block.step + 1 == step and node in block.hosted:
            block.rows[block.hosted.index(node), 0] = torch.inf

    block.adapt = broken  # type: ignore[method-assign]


def test_a_row_that_overflows_just_before_an_evaluation_ends_the_run_there() -> None:
    block = tiny_block(communication="none")
    breaks(block, step=10, node=2)
    with pytest.raises(RunError, match="node 2 became NaN or infinite at step 10"):
        trained(block)


def test_a_row_that_overflows_just_before_an_evaluation_is_not_in_its_numbers() -> None:
    block = tiny_block(communication="none", on_nonfinite="quarantine")
    breaks(block, step=10, node=2)
    row = next(row for row in trained(block) if row["step"] == 10)
    assert row["nodes/healthy"] == 3
    for key in ("loss/local_max", "loss/merged", "consensus/distance", "gradient/norm"):
        assert torch.isfinite(torch.tensor(row[key])), key


def test_all_workers_know_who_is_sick_before_they_evaluate() -> None:
    setup = tiny_setup(communication="none", on_nonfinite="quarantine")
    crew = [SimpleNamespace(exchange=exchange) for exchange in exchanges([2, 2])]

    def absent(worker: Any) -> frozenset[int]:
        block = Block(setup, worker.exchange, silent)
        block.step = 3
        if 2 in block.hosted:
            block.rows[block.hosted.index(2), 0] = torch.nan
        block.check()
        return block.quarantined

    assert together(absent, crew) == [{2}, {2}]


# --- how fast -------------------------------------------------------------------------------------


def test_steps_per_second_are_the_steps_over_the_seconds(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    run = tiny_run(tmp_path / "run", nodes=2, steps=60, topology="ring")
    summary = run.run(rows.append)
    told = [row for row in rows if row["time/wall_s"] > 0.01 and row["step"]]
    assert told
    for row in told:
        steps = row["time/steps_per_s"] * row["time/wall_s"]
        assert steps == pytest.approx(row["step"], rel=0.02)
    took = summary["counters"]
    assert took["time/steps_per_s"] * took["time/wall_s"] == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize(("hidden", "wanted"), [(8, 1), (20_000, 1), (22_000, 6)])
def test_small_steps_take_one_thread_and_large_ones_all_cores(
    hidden: int, wanted: int
) -> None:
    """6 operations per weight, (64 + 10) ``hidden`` of these, on 4 nodes of 8 samples."""
    setup = tiny_setup(task="digits", model=f"mlp(hidden=[{hidden}])", threads="auto")
    assert step_flops(setup) == 6 * 74 * hidden * 8 * 4
    assert thread_count(setup, cores=6) == wanted
    assert thread_count(setup, workers=2, cores=6) == 1, "each has half of the work"


def test_threads_are_as_many_as_asked() -> None:
    assert thread_count(tiny_setup(threads=3), cores=6) == 3
    assert ONE_THREAD_FLOPS == 3e8


def test_a_small_run_settles_on_one_thread_and_writes_it_down(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    run = tiny_run(tmp_path / "run", threads="auto")
    assert run.threads == run.settings["threads"] == torch.get_num_threads() == 1


def test_an_objective_in_closed_form_is_the_mean_loss_of_the_samples() -> None:
    """The quadratic brings one: 10,000 nodes need no 10,000 times 160,000 losses."""
    block = tiny_block(
        task={"name": "quadratic", "noise": 0.5, "dimension": 3}, nodes=5, dtype="float64"
    )
    evaluator, task = Evaluator(block), block.setup.task
    snapshot = evaluator.snapshot(complete=True)
    snapshot.rows = 3 * torch.randn_like(snapshot.rows)
    forward, samples = evaluator.forward, snapshot.samples
    one_by_one = score(replace(task, objective=None), forward, snapshot.rows, {}, samples)
    torch.testing.assert_close(snapshot.local.loss, one_by_one.loss, rtol=1e-12, atol=0)
