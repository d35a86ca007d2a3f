"""Launchers that start a program many times: refused, but not what they have left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

import decentral.cli
from decentral.config import make_config
from decentral.engines.ranks import refuse_ranks
from decentral.errors import ConfigError

#: Those of another launcher for torch: without an agent's store ranks do not meet.
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
QUICK = "task=quadratic nodes=4 steps=2"


@pytest.mark.parametrize(
    "environ", [TORCHRUN, SRUN, MPIRUN], ids=["torchrun", "srun", "mpirun"]
)
@pytest.mark.parametrize(
    "words",
    [
        f"launch {QUICK}",
        "resume begun",
        f"sweep {QUICK} seed=0,1",
        "reproduce single-merge",
    ],
    ids=lambda words: words.partition(" ")[0],
)
def test_one_process_of_several_is_refused(
    words: str,
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("begun").mkdir()
    Path("begun/config.yaml").write_text("# decentral run, format 3: \ntask: quadratic\n")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert decentral.cli.run(words.split()) == 2
    said = capsys.readouterr().err
    assert "each process would train a run of its own" in said
    assert "--engine ray --workers" in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["begun", "config.yaml"]


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # a batch script
        # srun -n 1
        {
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_NTASKS": "8",
        },
        {"WORLD_SIZE": "1", "RANK": "0"},  # a notebook
        {"WORLD_SIZE": "2"},  # the number alone says nothing of this process
        {"SLURM_STEP_NUM_TASKS": "8"},
        {"WORLD_SIZE": "", "RANK": ""},
    ],
)
def test_what_others_have_left_in_the_environment_is_no_reason(
    environ: dict[str, str],
) -> None:
    assert refuse_ranks(make_config({}), environ) is None


@pytest.mark.parametrize("environ", [TORCHRUN, SRUN, MPIRUN])
def test_an_engine_of_this_process_is_asked_for(environ: dict[str, str]) -> None:
    refuse_ranks(make_config({"engine": "local"}), environ)
    with pytest.raises(ConfigError, match="say engine=local"):
        refuse_ranks(make_config({"engine": "ray"}), environ)


def test_a_step_that_joins_a_cluster_is_one_run() -> None:
    """``ray symmetric-run``, as in launch/slurm.sbatch, starts the driver on one host only."""
    joined = make_config({"engine": {"name": "ray", "address": "auto"}})
    refuse_ranks(joined, SRUN)
    with pytest.raises(ConfigError, match="torchrun has started this 2 times"):
        refuse_ranks(joined, TORCHRUN)
