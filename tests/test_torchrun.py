"""Ranks of torchrun or Slurm: one run of all of them, the bits of one process."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO

import decentral.cli
from decentral.config import make_config
from decentral.engines import ranks
from decentral.engines.attempt import recorded_losses
from decentral.engines.ranks import Meeting, joins_ranks, ranks_of
from decentral.engines.torchrun import TorchrunRun, check_count
from decentral.errors import ConfigError, RunError
from decentral.faults.base import Fault, due_faults
from decentral.run.checkpoint import has_checkpoint, newest_checkpoint
from decentral.run.folder import RunFolder

WORDS = (
    "task=quadratic", "nodes=5", "steps=24", "topology=ring", "mixing=ordered", "dtype=float64",
    "replicas=vmap", "communication=constant(0.7)", "init=independent", "checkpoint_every=4",
    "threads=1", "--quiet",
)  # fmt: skip
KILL = "faults=[kill(worker=1,step=14)]"


def launch_words(folder: Path, *more: str) -> list[str]:
    return ["-m", "decentral", "launch", *WORDS, "--out", str(folder), *more]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **more}


def slurm(rank: int, port: int, **more: str) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "nowhere[1-2]",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "MASTER_PORT": str(port), **more,
    }  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def states(folder: Path) -> tuple[int, dict[Any, dict[str, torch.Tensor]]]:
    saved = newest_checkpoint(folder)
    return saved.step, saved.load(saved.live).nodes


def assert_same_bits(folder: Path, tmp_path: Path) -> None:
    """The rows and optimizer states are those of an undisturbed run in this process."""
    alone = tmp_path / "alone"
    done = decentral.cli.run(["launch", *WORDS, "--out", str(alone), "engine=local"])
    assert done == 0
    (step, found), (same, wanted) = states(folder), states(alone)
    assert step == same == 24
    assert found.keys() == wanted.keys()
    for node, tensors in wanted.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[node][name], tensor), (node, name)
    assert len({bytes(t["row"].numpy()) for t in wanted.values()}) == 5


def events(folder: Path) -> list[str]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.hosts
def test_ranks_started_again_by_torchrun_give_the_bits_of_one_process(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    counts = ["--nproc-per-node", "2", "--max-restarts", "1"]
    done = subprocess.run(
        [*starter, *counts, *launch_words(folder, KILL)],
        env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "rank 1 lost" in said[0]
    assert events(folder) == ["start", "failure", "resume", "finished"]
    assert len(list((folder / "checkpoints").glob("*24/nodes-*.safetensors"))) == 2
    assert_same_bits(folder, tmp_path)


@pytest.mark.hosts
def test_a_lost_task_of_slurm_ends_the_others_and_one_process_goes_on(
    tmp_path: Path,
) -> None:
    folder, port = tmp_path / "run", free_port()
    tasks = [
        subprocess.Popen(
            [sys.executable, *launch_words(folder, KILL)],
            env=environment(**slurm(rank, port)), stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [task.communicate(timeout=100)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [1, -9]
    assert said[1] == ""
    assert len(said[0].splitlines()) == 1
    assert "rank 1 lost at step 1" in said[0]
    assert f"`srun decentral resume {folder}` goes on" in said[0]
    words = ["resume", str(folder), "engine=local", "faults=[]", "--quiet"]
    assert decentral.cli.run(words) == 0
    assert_same_bits(folder, tmp_path)


@pytest.mark.hosts
def test_a_signal_to_any_rank_stops_all_of_them(tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    words = [one.replace("steps=24", "steps=100000") for one in launch_words(folder)]
    tasks = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(**slurm(rank, port)), stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        # The first checkpoint is complete, so that the run has begun.
        while not has_checkpoint(folder) and tasks[0].poll() is None:
            time.sleep(0.05)
        tasks[1].terminate()
        said = [task.communicate(timeout=60)[1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [1, 1]
    assert said[1] == ""
    assert len(said[0].splitlines()) == 1
    assert "everything is saved" in said[0]
    assert f"`srun decentral resume {folder}`" in said[0]


def test_a_fault_that_was_injected_does_not_strike_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    planned = ["kill(worker=0,step=9)", "kill(worker=1,step=4)", "kill(worker=1,step=8)"]
    due = [Fault.parse(text) for text in planned]

    def found(*, trains: bool) -> list[Fault]:
        return due_faults(planned, recorded_losses(folder, trains=trains))

    folder.event("start", 0)
    assert found(trains=True) == due
    folder.event("failure", 4, workers=[1])
    folder.event("resume", 3)
    assert found(trains=True) == found(trains=False) == [due[2], due[0]]
    # Nobody was left to record the end of rank 0; a coordinator of others is no worker.
    folder.event("resume", 3)
    assert found(trains=True) == [due[2]]
    assert found(trains=False) == [due[2], due[0]]
    folder.event("interrupted", 7)
    folder.event("resume", 7)
    assert found(trains=True) == [due[2]]


def test_a_rank_that_fails_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's end would abort a thread that is in the midst of a step."""
    left = list[int]()
    for name, value in slurm(0, 0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(sys, "argv", ["decentral", "launch", "task=nothing"])
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "disable", lambda: None)
    with pytest.raises(SystemExit):
        decentral.cli.main()
    assert left == [2]


def test_what_is_left_in_an_environment_makes_nobody_wait() -> None:
    left = {"RANK": "0", "WORLD_SIZE": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
    batch = {**left, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}
    alone = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1"}
    assert [ranks_of(one) for one in (left, batch, alone, {})] == [None] * 4
    step = slurm(1, 0, SLURM_STEP_NODELIST="gpu[07-09],other")
    found = ranks_of(step)
    assert found is not None
    assert (found.rank, found.world, found.serves) == (1, 2, False)
    assert found.store[0] == "gpu07"
    assert found.store[1] in range(20_000, 32_000)
    for engine in ("local", "ray", {"address": "auto"}):
        assert joins_ranks(make_config({"engine": engine}), step) is None
    assert joins_ranks(make_config({"engine": "torchrun"}), step) == found


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "CHECK_IN_S", 0.2)
    found = ranks_of(slurm(0, free_port(), SLURM_STEP_NUM_TASKS="4"))
    assert found is not None
    meeting = Meeting(found)
    with pytest.raises(RunError, match="of 4 ranks, 1, 2, 3 did not come"):
        meeting.gather()


def test_a_run_that_does_not_suit_its_ranks_is_refused() -> None:
    found = ranks_of(slurm(0, 0, SLURM_STEP_NUM_TASKS="4"))
    assert found is not None
    with pytest.raises(ConfigError, match="start at most 3, or raise nodes"):
        check_count(make_config({"nodes": 3}), found)
    with pytest.raises(ConfigError, match="srun has started 4 ranks"):
        check_count(make_config({"engine": {"workers": 2}}), found)
    with pytest.raises(ConfigError, match="no launcher has started this process"):
        TorchrunRun(make_config({"engine": "torchrun"}))
    with pytest.raises(ConfigError, match="torchrun takes no on_failure"):
        make_config({"engine": {"name": "torchrun", "on_failure": "stop"}})
