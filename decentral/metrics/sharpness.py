"""Sharpness of the blocks of a model."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.metrics import Snapshot
from decentral.optim.blocks import block_of
from decentral.records import Record
from decentral.registry import plugin

#: Samples that are looked at: one backward pass for each.
SAMPLES = 32


_BLOCK = Record("sharpness/*", "Mean diagonal Fisher information of a block of the average model")


@plugin("metric", records=(_BLOCK,))
def sharpness(snapshot: Snapshot) -> dict[str, float]:
    """Mean diagonal Fisher information of the average model, block by block: ``sharpness/qk``, ...

    S(block) = 1/|block| sum_k sum_s g_sk^2 / predictions, with g_s the gradient of a test sample's
    summed cross-entropy against labels drawn from the model's own predictions; with the true labels
    it would be another quantity. ``decentral show blocks`` lists the blocks; parameters of no known
    block are ``sharpness/unknown``. Tasks without classes have none (Wang et al., "The sharpness
    disparity principle in transformers", 2025).
    """
    if snapshot.samples.targets.is_floating_point():
        return {}
    fisher = _diagonal(snapshot)
    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for entry in snapshot.layout.parameters:
        block = block_of(entry.name) or "unknown"
        sums[block] = sums.get(block, 0.0) + fisher[entry.start : entry.stop].sum().item()
        sizes[block] = sizes.get(block, 0) + prod(entry.shape)
    return {f"sharpness/{block}": total / sizes[block] for block, total in sums.items()}


def _diagonal(snapshot: Snapshot) -> Tensor:
    """Return the diagonal of the Fisher information of the average model, [P]."""
    row, integers = snapshot.calibrated
    row = row.detach().clone().requires_grad_()
    total, predictions = torch.zeros_like(row), 0
    for index in range(min(SAMPLES, len(snapshot.samples))):
        sample = snapshot.samples.inputs[index : index + 1]
        with torch.enable_grad():
            outputs = snapshot.forward(row.unsqueeze(0), integers, sample)
            scores = outputs.reshape(-1, outputs.shape[-1]).log_softmax(-1)
            drawn = _drawn(scores.detach(), index)
            (grad,) = torch.autograd.grad(-scores.gather(1, drawn).sum(), row)
        total += grad.square()
        predictions += len(scores)
    return total / predictions


def _drawn(scores: Tensor, sample: int) -> Tensor:
    """Draw a label for each prediction [k, classes] from its own probabilities, [k, 1]."""
    draws = rng.uniform(0, "sharpness", sample, np.arange(len(scores)))
    level = torch.from_numpy(draws).to(scores.device).unsqueeze(1)
    below = scores.double().exp().cumsum(1) < level
    return below.sum(1, keepdim=True).clamp_max(scores.shape[1] - 1)
