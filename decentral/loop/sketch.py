"""Sketches: 64 numbers per row from which the spread of the rows is estimated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.layout import Layout

#: Numbers per sketch.
SKETCH = 64


class Sketch:
    """A count sketch of the trainable columns: s_b sums +-x_c over columns hashed
    to bucket b.

    E|s_i - s_j|^2 = |x_i - x_j|^2 (Charikar, Chen & Farach-Colton, 2002).
    """

    def __init__(self, layout: Layout, seed: int, device: torch.device) -> None:
        """Hash every trainable column to a bucket and a sign."""
        draws = rng.bits(seed, "sketch", np.arange(layout.trainable))
        # The lowest bit is the sign, so buckets take the others: both must be
        # independent.
        bucket = (draws >> np.uint64(1)) % np.uint64(SKETCH)
        sign = (draws & np.uint64(1)).astype(np.float64) * 2 - 1
        self.layout = layout
        self.bucket = torch.from_numpy(bucket.astype(np.int64)).to(device)
        self.sign = torch.from_numpy(sign).to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the sketches [n, 64] of rows [n, P], float64."""
        signed = self.layout.trainable_view(rows) * self.sign.to(rows.dtype)
        empty = torch.zeros(
            rows.shape[0], SKETCH, dtype=torch.float64, device=rows.device
        )
        # In float64, since the sum of a bucket is over thousands of columns.
        return empty.index_add_(1, self.bucket, signed.double())

    @staticmethod
    def relative_spread(sketches: Tensor) -> float:
        """Return the RMS distance of sketches [N, 64] from their mean, over its
        norm.
        """
        mean = sketches.mean(0)
        spread = (sketches - mean).square().sum(1).mean().sqrt()
        # Models may begin at zero.
        return float(spread / mean.norm().clamp_min(1e-12))
