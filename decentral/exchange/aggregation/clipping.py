"""Steps towards others that are not too long."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from decentral.registry import Positive, plugin


@plugin("aggregation", sees="distances")
def clipping(
    distances: Tensor,
    weights: Tensor,
    *,
    radius: Positive | None = None,
    bad: Annotated[int, Ge(0)] = 1,
) -> Tensor:
    """Clip around oneself: x_i <- x_i + sum_j W_ij clip(x_j - x_i), to a length of t_i at most.

    t_i is ``radius`` or, as in the authors' code, the distance of the farthest row but ``bad``, so
    that a bad node pulls no harder than a good one. (He, Karimireddy & Jaggi, "Byzantine-robust
    decentralized learning via ClippedGossip", 2022.)
    """
    others = distances[:, 1:].sort(dim=1, descending=True).values
    if radius is not None or not others.shape[1]:
        limit = distances.new_tensor(radius or 0.0)
    else:
        limit = others[:, min(bad, others.shape[1] - 1), None]
    return weights * torch.where(distances > limit, limit / distances, 1.0)
