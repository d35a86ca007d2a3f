"""Which engine trains a run, and where none may: in one of several processes of a
launcher.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from decentral.blame import reraise
from decentral.config import Config, foreign_parts
from decentral.errors import ConfigError

if TYPE_CHECKING:  # they load torch, and Ray
    from decentral.engines.base import EngineRun


def engine_of(config: Config) -> type[EngineRun]:
    """Return the engine of a run; ``auto``: Ray for several workers, an address or
    several GPUs.
    """
    name = config.engine.name
    if name == "ray" or (name == "auto" and _is_for_many(config)):
        require_ray()
        from decentral.engines.ray.run import RayRun

        return RayRun
    from decentral.engines.local import LocalRun

    return LocalRun


def prepare_run(config: Config) -> EngineRun:
    """Prepare a run on its engine; what goes wrong is said to be whose it is."""
    try:
        return engine_of(config)(config)
    except Exception as error:
        reraise(error, foreign_parts(config))


def _is_for_many(config: Config) -> bool:
    import torch

    engine = config.engine
    several = engine.workers != "auto" and engine.workers > 1
    gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else 0
    return several or engine.address is not None or gpus > 1


def require_ray() -> None:
    """Refuse to go on without Ray, in one line."""
    if find_spec("ray") is None:
        raise ConfigError(
            "engine ray needs Ray, which is not installed; "
            "pip install -c constraints.txt -e '.[ray]', or use engine local."
        )


# --- launchers --------------------------------------------------------------------

#: How a launcher tells a process its rank, and of how many: name, variables.
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
)


def refuse_ranks(
    config: Config | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Raise ConfigError in a process that is one of several; ``engine: local`` asks
    for that.

    Of Slurm the number of tasks of the *step* counts: a batch script and what it
    leaves in its environment are one process, whatever the job has asked for. A
    step of several tasks may still be one run where a Ray cluster is joined:
    ``ray symmetric-run`` starts it on one host only.
    """
    if config is not None and config.engine.name == "local":
        return
    for launcher, rank, size in _LAUNCHERS:
        count = environ.get(size, "")
        # A launcher's variables also stand in the environment of single processes.
        if rank not in environ or not count.isdigit() or int(count) < 2:
            continue
        if (
            launcher == "srun"
            and config is not None
            and config.engine.address is not None
        ):
            continue
        raise ConfigError(
            f"{launcher} has started this {count} times, and each process would train a run of "
            f"its own ({size} is {count}); start it once, with --engine ray --workers {count} "
            "where it needs several, or say engine=local."
        )
