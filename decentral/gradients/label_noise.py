"""Label noise and label smoothing: what becomes of targets before the gradient is taken.

Keys [n, B] name the visits of samples, so that noise is a pure function of seed, node and position.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from decentral.gradients import draws


def flipped(targets: Tensor, keys: Tensor, level: float, classes: int) -> Tensor:
    """Replace classes [n, B, ...], each with chance ``level``, by one drawn from all, its own too.

    Args:
        targets: Classes, [n, B, ...].
        keys: Key of every sample, [n, B].
        level: Chance of a target to be replaced.
        classes: Number of classes.

    >>> clean = torch.zeros(1, 4, dtype=torch.int64)
    >>> flipped(clean, torch.arange(4)[None], level=0.0, classes=3).tolist()
    [[0, 0, 0, 0]]
    """
    size = targets[0, 0].numel()
    changed = draws.uniform(keys, size, draws.CHANCE).view(targets.shape) < level
    drawn = (draws.uniform(keys, size, draws.CLASS) * classes).to(targets.dtype)
    return torch.where(changed, drawn.clamp_max(classes - 1).view(targets.shape), targets)


def shifted(targets: Tensor, keys: Tensor, level: float, kind: str) -> Tensor:
    """Add ``level`` times noise to numbers [n, B, ...]: standard normal, or a random ``sign``.

    Args:
        targets: Numbers, [n, B, ...].
        keys: Key of every sample, [n, B].
        level: Size of the noise.
        kind: ``gaussian`` or ``sign``.
    """
    size = targets[0, 0].numel()
    if kind == "gaussian":
        noise = draws.normal(keys, size)
    else:
        noise = 1.0 - 2.0 * (draws.uniform(keys, size, draws.NOISE) < 0.5).double()
    return targets + (level * noise).to(targets.dtype).view(targets.shape)


def smoothed(targets: Tensor, share: float, classes: int, dtype: torch.dtype) -> Tensor:
    """Return probabilities [n, B, ..., C]: ``share`` spread over all, the rest on the target.

    Args:
        targets: Classes, [n, B, ...].
        share: Probability that is spread over all classes.
        classes: Number of classes, C.
        dtype: Type of the probabilities.
    """
    return one_hot(targets, classes).to(dtype) * (1.0 - share) + share / classes
