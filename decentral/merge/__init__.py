"""Turning all rows into one model.

A merge rule is a function ``(samples) -> weights``: from the number of training samples of every
node [N] to the weights [N] of a weighted average, which sum to one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.errors import ConfigError
from decentral.registry import Bound


def merge_weights(rule: Bound, samples: Tensor, excluded: frozenset[int] = frozenset()) -> Tensor:
    """Return the weights [N] of a merge over the nodes that take part, summing to one."""
    present = torch.ones(len(samples), dtype=torch.bool)
    present[sorted(excluded)] = False
    if not present.any():
        raise ConfigError("merge: no healthy node is left to merge.")
    weights = torch.zeros(len(samples), dtype=torch.float64)
    weights[present] = rule(samples[present].to(torch.float64))
    return weights / weights.sum()
