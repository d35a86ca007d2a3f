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

    def __init__(self, run: Any, mark: Path, resumed: bool) -> None:
        """Log into a run that was begun; ``mark`` keeps the last step across restarts."""
        self.run, self.mark = run, mark
        self.done = int(mark.read_text()) if resumed and mark.exists() else -1
        self.last = self.done

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step, unless they were logged before a restart.

        Weights & Biases drops what goes back; the run repeats it with the same numbers.
        """
        if step <= self.done or step < self.last:
            return
        self.run.log(dict(numbers), step=step)
        self.last = step
        self.mark.write_text(str(step))

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()  # silent by its settings: ``quiet`` came and went


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
    return Journal(run, folder / "wandb" / "last_step", step > 0)


def _identity(folder: Path) -> str:
    """Return what the same run has again when it is resumed, and no other: when it began."""
    with (folder / "events.jsonl").open(encoding="utf-8") as events:
        return hashlib.sha256(f"{folder}{events.readline()}".encode()).hexdigest()[:12]
