"""A whole run folder as it was: names of files and keys, numbers to 1e-9, what figures show.

The Ray engine's is in ``test_ray_failures.py``, where a cluster stands. ``pytest --regenerate``
writes ``golden/folder-*.json`` anew; review the diff.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from inventory import agree, as_it_was, settled
from test_golden_members import classes, squares

import decentral
from decentral import Task

pytestmark = pytest.mark.usefixtures("drawn")

SETTINGS: dict[str, Any] = {
    "nodes": 5, "steps": 16, "local_steps": 2, "dtype": "float64", "mixing": "ordered",
    "replicas": "vmap", "threads": 1, "seed": 5, "init": "independent", "batch": 12,
    "algorithm": "gradient_tracking", "topology": "ring", "device": "cpu", "engine": "local",
    "communication": "constant(final_merge=true)", "optimizer": "sgd(momentum=0.9)",
    "sam": {"rho": 0.1, "start": "50%"}, "network": "lan", "eval_every": 4, "log_every": 1,
    "compute": "lognormal(median=5ms, nodes_spread=0.5)", "checkpoint_every": 8,
}  # fmt: skip


def validated() -> Task:
    """Return the task of the trajectories with some of its test samples for validation."""
    task = classes(squares)
    train, _, test = task.splits
    val, rest = (test.subset(part) for part in torch.arange(len(test)).tensor_split(2))
    return Task(
        model=task.model, loss=squares, train=train, val=(val.inputs, val.targets),
        test=(rest.inputs, rest.targets),
    )  # fmt: skip


def test_a_run_folder_is_as_it_was(tmp_path: Path, regenerate: bool) -> None:
    run = decentral.launch(task=validated(), **SETTINGS, out=str(tmp_path / "run"))
    as_it_was(run.path, "local", regenerate)


@pytest.mark.parametrize(
    "now",
    [
        {"a": 1.0, "b": [1, 2]}, {"b": [1, 2], "a": 1.0 + 1e-6}, {"b": [1], "a": 1.0},
        {"b": [1, "2"], "a": 1.0}, {"b": [1, 2]}, {"b": [1, 2], "a": 1.0, "c": None},
    ],
)  # fmt: skip
def test_no_other_key_order_or_number_agrees(now: dict[str, Any]) -> None:
    then = {"b": [1, 2], "a": 1.0}
    agree({"b": [1, 2], "a": 1.0 + 1e-12}, then)
    with pytest.raises(AssertionError):
        agree(now, then)


def test_moments_and_durations_are_kept_by_their_type() -> None:
    found = settled(
        {"time": "now", "time/wall_s": 1.5, "time/simulated_s": 1 / 3, "run": "/a"}
    )
    assert found == {
        "time": "str", "time/wall_s": "float", "time/simulated_s": 0.333333333333, "run": "str",
    }  # fmt: skip
