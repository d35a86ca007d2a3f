"""Gradients computed in bfloat16, where that is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from decentral.gradients import Batch, Gradient


class Reduced:
    """Lets torch's autocast run a gradient's products in bfloat16; rows and sums stay float32.

    Weights are cast at each use, since the tensors behind a module's parameters change from row to
    row and autocast would remember those of the first.
    """

    def __init__(self, inner: Gradient) -> None:
        """Compute as ``inner`` does, in bfloat16."""
        self.inner, self.kind = inner, inner.kind

    def __call__(
        self, rows: Tensor, integers: dict[str, Tensor], batch: Batch, out: Tensor
    ) -> Tensor:
        """Write the gradients of all rows into ``out``; return losses [n]."""
        with torch.autocast(rows.device.type, torch.bfloat16, cache_enabled=False):
            return self.inner(rows, integers, batch, out)
