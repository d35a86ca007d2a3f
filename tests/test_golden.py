"""Golden trajectories: four short runs, step by step, as they were when the files were written.

``pytest --regenerate`` writes the files anew; review the diff. Numbers are float64 with 12
significant digits, compared to 1e-9, since libraries of linear algebra round differently.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from photos import photograph
from support import tiny_block

FOLDER = Path(__file__).parent / "golden"
SHARED: dict[str, Any] = {
    "nodes": 6, "steps": 24, "local_steps": 3, "dtype": "float64", "threads": 1, "seed": 5,
    "replicas": "vmap", "mixing": "ordered", "model": "mlp(hidden=[16])", "batch": 16,
    "task": "digits",
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "ring-late": {"topology": "ring", "communication": "late(start=60%, intensity=0.3)"},
    "one-peer-adamw": {
        "topology": "one_peer_exponential", "communication": "constant(0.7)", "nodes": 8,
        "algorithm": "dsgd(order=combine_then_adapt)", "optimizer": "adamw", "mix_state": True,
        "learning_rate": "cosine(lr=0.003, warmup=10%)", "init": "independent",
    },
    "allreduce": {"algorithm": "allreduce", "split": "classes(k=3)", "clip": 1.0},
    "random-batchnorm": {
        "topology": "random_neighbors(r=1.5)", "communication": "linear(0.2, 1.0)", "steps": 20,
        "model": "cnn(channels=[3], norm=batch)", "sampling": "resample", "micro_batch": 8,
    },
}  # fmt: skip


def trajectory(given: dict[str, Any]) -> list[dict[str, Any]]:
    block = tiny_block(**{**SHARED, **given})
    planner = block.setup.planner
    found = []
    for _ in range(block.setup.config.steps):
        block.setup.algorithm(block, block.decide())
        block.finish_step()
        found.append(photograph(block))
    if planner is not None:
        block.combine(planner.final_merge())
        found.append(photograph(block))
    return found


@pytest.mark.parametrize("name", list(RUNS))
def test_a_trajectory_is_as_it_was(name: str, regenerate: bool) -> None:
    path = FOLDER / f"{name}.jsonl"
    found = trajectory(RUNS[name])
    if regenerate:
        lines = [json.dumps(row) for row in [{"config": RUNS[name]}, *found]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, *wanted = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first["config"] == RUNS[name], (
        "the file belongs to another configuration: --regenerate"
    )
    assert len(found) == len(wanted)
    for now, then in zip(found, wanted, strict=True):
        assert now.keys() == then.keys()
        for key, value in then.items():
            assert now[key] == pytest.approx(value, rel=1e-9, abs=1e-9), (
                then["step"],
                key,
            )


def test_every_golden_file_belongs_to_a_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == {*RUNS, "members"}


@pytest.mark.parametrize("column", [0, 100, -1])
def test_no_small_change_of_a_row_goes_unnoticed(column: int) -> None:
    block = tiny_block(**{**SHARED, "task": "quadratic(dimension=128)"})
    block.rows += 1.0
    before = photograph(block)
    block.rows[3, column] += 1e-6
    after = photograph(block)
    assert before["projections"] != pytest.approx(
        after["projections"], rel=1e-9, abs=1e-9
    )
