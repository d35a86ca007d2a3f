"""Matrices of low rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.exchange.codec import Draw, Load
from decentral.registry import Count, plugin


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], int(np.prod(shape[1:]))) if shape else (1, 1)


def _size(load: Load, rank: int) -> int:
    """Count two factors of every matrix that gets smaller by it, and all other numbers."""
    whole = [_matrix(shape) for _, _, shape in load.tensors]
    return sum(min(a * b, rank * (a + b)) for a, b in whole) * load.itemsize


@plugin("codec", biased=True, size=lambda load, settings: _size(load, settings["rank"]))
def low_rank(rows: Tensor, load: Load, draw: Draw, *, rank: Count = 1) -> Tensor:
    """Replace every matrix M by P P' M, P an orthonormal basis of M Q, Q random [columns, rank].

    Only for differences: ``choco(low_rank(1))``. One power iteration per round, from a keyed start;
    PowerGossip (Vogels et al., NeurIPS 2020) iterates on the differences of each pair instead.
    """
    coded = rows.clone()
    for place, (start, stop, shape) in enumerate(load.tensors):
        high, wide = _matrix(shape)
        if rank * (high + wide) >= high * wide:
            continue
        m = rows[:, start:stop].view(-1, high, wide)
        axes = np.arange(wide)[:, None], np.arange(rank)
        q = rng.normal(draw.seed, f"codec/low_rank/{place}", draw.round, *axes)
        p, _ = torch.linalg.qr(m @ torch.from_numpy(q).to(rows))
        coded[:, start:stop] = (p @ (p.mT @ m)).reshape(len(rows), -1)
    return coded
