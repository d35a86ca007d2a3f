"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decentral.registry import plugin


class Board:
    """Writes scalars into a folder that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path, step: int) -> None:
        """Write into ``folder``; what it holds beyond ``step`` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add one point to every curve."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


@plugin("tracker", package="tensorboard")
def tensorboard(folder: Path, config: Mapping[str, Any], step: int) -> Board:
    """Curves for ``tensorboard --logdir runs``, in the folder ``tensorboard`` of the run."""
    return Board(folder / "tensorboard", step)
