"""Trim, elect sign, merge."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from decentral.merge import Models
from decentral.registry import Positive, plugin


@plugin("merge", sees="models", moves_equal=True)
def ties(
    models: Models, *, keep: Annotated[float, Gt(0), Le(1)] = 0.2, scale: Positive = 1.0
) -> Tensor:
    """Merge what models have learnt since their common start, where they agree on the sign.

    Of x_i - x_0 each keeps the share ``keep`` of largest size; every number takes the sign of the
    sum over models, and the mean of those that have this sign. (Yadav et al., "TIES-merging",
    NeurIPS 2023.)
    """
    learnt = models.rows - models.start
    kept = max(1, round(keep * learnt.shape[1]))
    least = learnt.abs().kthvalue(learnt.shape[1] - kept + 1, dim=1, keepdim=True).values
    learnt = learnt.where(learnt.abs() >= least, 0)
    agreeing = (learnt.sign() == learnt.sum(dim=0).sign()) & (learnt != 0)
    mean = learnt.where(agreeing, 0).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)
    return torch.add(models.start, mean, alpha=scale)
