"""Weights & Biases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from decentral.registry import plugin


class Journal:
    """One run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        """Log into a run that was begun."""
        self.run = run

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step."""
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish(quiet=True)


@plugin("tracker", package="wandb")
def wandb(
    folder: Path,
    config: Mapping[str, Any],
    step: int,
    *,
    project: str = "decentral",
    mode: Literal["auto", "online", "offline"] = "auto",
) -> Journal:
    """A run of Weights & Biases; ``auto`` is online where a key is known, else offline.

    Offline it writes into the run folder; ``wandb sync RUN/wandb/offline-run-*`` uploads it later.
    The environment variable WANDB_MODE decides where ``mode`` is auto.
    """
    client: Any = import_module("wandb")  # an extra that need not be there
    known = "WANDB_MODE" in os.environ or client.api.api_key is not None
    chosen = mode if mode != "auto" else None if known else "offline"
    run = client.init(
        project=project, name=folder.name, id=_identity(folder), dir=str(folder),
        config=dict(config), mode=chosen, resume="allow" if step else None,
        settings=client.Settings(silent=True, console="off"),
    )  # fmt: skip
    return Journal(run)


def _identity(folder: Path) -> str:
    """Return what the same run has again when it is resumed, and no other: when it began."""
    with (folder / "events.jsonl").open(encoding="utf-8") as events:
        return hashlib.sha256(f"{folder}{events.readline()}".encode()).hexdigest()[:12]
