"""Engines: how workers are started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they load torch, and Ray
    from decentral.config import Config
    from decentral.engines.base import EngineRun


def engine_of(config: Config) -> type[EngineRun]:
    """Return the engine of a run; ``auto``: Ray for several workers, an address or several GPUs."""
    if config.engine == "ray" or (config.engine == "auto" and _is_for_many(config)):
        from decentral.engines.ray import require

        require()
        from decentral.engines.ray.run import RayRun

        return RayRun
    from decentral.engines.local import LocalRun

    return LocalRun


def _is_for_many(config: Config) -> bool:
    import torch

    several = config.workers != "auto" and config.workers > 1
    gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else 0
    return several or config.address is not None or gpus > 1
