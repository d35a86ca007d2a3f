"""The planner on the command line: from a law or from runs to a configuration that trains."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from support import tiny_run, tiny_setup

import decentral.cli
from decentral.cli.plan_batch import Planner
from decentral.config import make_config, read_file
from decentral.loop.preparing import prepare
from decentral.theory import fsl

HARD = "plan batch --source 0.25 --capacity 2"


def said(words: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    assert decentral.cli.run(shlex.split(words)) == status
    both = capsys.readouterr()
    return both.err if status else both.out


def test_it_says_what_is_best_and_what_else_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(f"{HARD} --budget 2^20 --min 8 --png {tmp_path}/p.png", capsys)
    assert "hard: grow the batch late" in text
    assert "1,048,576 samples" in text
    rows = {
        line[:20].strip(): line.split() for line in text.splitlines() if "%" in line[-8:]
    }
    planned = next(
        line.split() for line in text.splitlines() if line.startswith("planned")
    )
    assert float(planned[-1]) == pytest.approx(0.0578, abs=1e-4)
    assert {"constant 8", "early 25 %", "mid 50 %", "late 75 %", "late 90 %"} <= set(rows)
    assert all(row[-1].startswith("+") for row in rows.values()), "nothing is better"
    assert max(len(line) for line in text.splitlines() if "drawn in" not in line) <= 80
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_easy_tasks_grow_from_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    text = said("plan batch --source 1 --capacity 2 --budget 2^20 --min 8", capsys)
    assert "easy: grow the batch from the start" in text
    planned = next(
        line.split() for line in text.splitlines() if line.startswith("planned")
    )
    assert float(planned[-1]) == pytest.approx(0.000096, abs=2e-6)


@pytest.mark.parametrize("nodes", [1, 3])
def test_what_it_writes_trains_by_the_plan(
    nodes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.yaml"
    flags = f"--budget 6000 --min 4 --max 64 --nodes {nodes} --out {path}"
    said(f"{HARD} {flags}", capsys)
    best = Planner(fsl.Law.of(fsl.PowerLaw(0.25, 2)), 6000, 4, 64, nodes).best()
    setup = prepare(make_config(read_file(path), {"task": "quadratic"}))
    assert setup.timeline.sizes() == best.per_step().tolist()
    assert setup.timeline.samples[-1] * nodes == 6000
    named = tiny_setup(
        task="quadratic", batch=f"plan({path})", data=f"{6000 // nodes}/node"
    )
    assert named.timeline.sizes() == setup.timeline.sizes()


def test_a_plan_brings_its_budget_unless_another_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.yaml"
    said(f"{HARD} --budget 3000 --min 8 --max 32 --out {path}", capsys)
    layer = {"task": "quadratic", "batch": f"plan({path})"}
    assert prepare(make_config(layer)).timeline.samples[-1] == 3000
    assert prepare(make_config(layer, {"steps": 7})).timeline.budget is None
    assert prepare(make_config(layer, {"data": "900/node"})).timeline.samples[-1] == 900


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with constant batches on one node."""
    folder = tmp_path_factory.mktemp("runs")
    for size, steps in ((4, 400), (16, 200)):
        run = tiny_run(
            folder / f"{size}", batch=size, steps=steps, eval_every=steps // 40, nodes=1,
            learning_rate=0.1, optimizer="sgd(momentum=0)", communication="none", split="iid",
        )  # fmt: skip
        run.run(lambda row: None)
    return {path.name: path for path in folder.iterdir()}


def test_it_fits_runs_and_stays_within_them(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, path = f"--from {runs['4']} {runs['16']}", tmp_path / "plan.yaml"
    text = said(f"plan batch {both} --budget 1600 --out {path}", capsys)
    assert "off by" in text
    written = read_file(path)
    assert written["task"]["name"] == "digits"
    assert written["learning_rate"]["lr"] == 0.1
    assert prepare(make_config(written)).timeline.samples[-1] == 1600
    beyond = said(f"plan batch {both} --budget 100k", capsys, status=2)
    assert "beyond the runs, whose longest has 400" in beyond
    outside = said(f"plan batch {both} --budget 1600 --min 2", capsys, status=2)
    assert "batches from 2 to 16 are beyond the runs" in outside


def test_show_schedule_draws_a_batch_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    named = said("show schedule 'late_switch(from=4,to=500)' data=40k nodes=4", capsys)
    beside = said("show schedule late data=40k nodes=4 'batch=4,500 at 75%'", capsys)
    assert "4 to 500, late_switch" in named
    assert "4 to 500, stages" in beside
