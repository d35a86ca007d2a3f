"""The loss curves of runs with constant batches, for the planner to fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decentral.config import read_file
from decentral.errors import ConfigError
from decentral.report.reader import read_run
from decentral.theory import fsl

#: Settings that a planned run must not take over: they follow from the batch and the data.
_FOLLOWING = (
    "steps", "data", "batch", "micro_batch", "eval_every", "log_every", "checkpoint_every", "out",
)  # fmt: skip


def curves_of(paths: Sequence[str]) -> tuple[list[fsl.Curve], dict[str, Any]]:
    """Return the curves of runs, batches of all nodes together, and the settings of the last.

    The loss is that of the merged model on the test samples; where there is one node, its own.
    """
    found: list[fsl.Curve] = []
    settings: dict[str, Any] = {}
    for path in paths:
        run = read_run(path)
        settings = read_file(Path(path) / "config.yaml")
        steps, losses = run.series("loss/merged")
        size = _constant(path, settings, "batch", "size")
        lr = _constant(path, settings, "learning_rate", "lr")
        points = np.array([steps, losses], dtype=np.float64)[:, 1:]  # the first model is no step
        found.append(
            fsl.Curve(Path(path).name, int(size) * int(settings["nodes"]), float(lr), *points)
        )
    kept = {key: value for key, value in settings.items() if key not in _FOLLOWING}
    return found, {key: value for key, value in kept.items() if value is not None}


def _constant(path: str, settings: dict[str, Any], part: str, setting: str) -> Any:
    chosen = settings[part]
    if chosen["name"] != "constant":
        raise ConfigError(
            f"run {path}: its {part} is {chosen['name']}; the law is fitted to runs whose batch "
            "and learning rate are constant."
        )
    return chosen[setting]
