"""Launchers that start a program many times: here every process would train a run of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping

from decentral.config import Config
from decentral.errors import ConfigError

#: How a launcher tells a process its rank, and of how many: name, variables.
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
)


def refuse_ranks(config: Config | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError in a process that is one of several; ``engine: local`` asks for that.

    Of Slurm the number of tasks of the *step* counts: a batch script and what it leaves in its
    environment are one process, whatever the job has asked for. A step of several tasks may still
    be one run where a Ray cluster is joined: ``ray symmetric-run`` starts it on one host only.
    """
    if config is not None and config.engine == "local":
        return
    for launcher, rank, size in _LAUNCHERS:
        count = environ.get(size, "")
        if rank not in environ or not count.isdigit() or int(count) < 2:
            continue
        if launcher == "srun" and config is not None and config.address is not None:
            continue
        raise ConfigError(
            f"{launcher} has started this {count} times, and each process would train a run of "
            f"its own ({size} is {count}); start it once, with --engine ray --workers {count} "
            "where it needs several, or say engine=local."
        )
