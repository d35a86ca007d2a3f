"""The configuration of a run as its folder keeps it."""

from __future__ import annotations

from typing import Any

from decentral.config import PARTS
from decentral.loop.methods import noise_kind
from decentral.loop.setup import Setup
from decentral.registry import PYTHON, Bound
from decentral.tasks.base import Task


def _written(bound: Bound) -> Any:
    return bound.spec() if bound.reloadable else PYTHON


def resolved(setup: Setup, **decided: Any) -> dict[str, Any]:
    """Return the configuration with every default written out and every ``auto`` decided."""
    settings = setup.config.model_dump()
    for kind in PARTS:
        bound = setup.parts.get(kind)
        settings[kind] = _written(bound) if bound else None
    if isinstance(setup.config.task, Task):
        settings["task"] = PYTHON
    if "model" not in setup.parts and setup.task.model is None:
        settings["model"] = PYTHON
    if setup.conversation is not None and "weights" not in setup.parts:
        settings["weights"] = "auto"
    if setup.config.label_noise is not None:
        settings["label_noise"]["kind"] = noise_kind(setup.config.label_noise, setup.task)
    settings["metrics"] = list(setup.config.metrics)
    settings["device"] = str(setup.device)
    return {**settings, **decided}
