"""Merge rules that average: all alike, by samples, the best soup, medians, trimmed means."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from decentral.exchange import robust
from decentral.merge.base import Models
from decentral.registry import plugin


@plugin("merge")
def uniform(samples: Tensor) -> Tensor:
    """Average all models with equal weights, x = (1/N) sum_i x_i."""
    return torch.full_like(samples, 1.0 / len(samples))


@plugin("merge")
def weighted(samples: Tensor) -> Tensor:
    """Average all models weighted by their training samples, x = sum_i (m_i / m) x_i."""
    return samples / samples.sum()


@plugin("merge", sees="models")
def soup(models: Models) -> Tensor:
    """Average the best models as long as each one more does not harm.

    Models are taken in the order of their validation loss; one stays in the average if the loss of
    the average does not grow. Never worse than the best single model, on validation data.
    (Wortsman et al., "Model soups", ICML 2022.)
    """
    losses = [models.loss(row) for row in models.rows]
    first, *others = sorted(range(len(losses)), key=losses.__getitem__)
    total, count, best = models.rows[first].clone(), 1, losses[first]
    for node in others:
        tried = models.loss((total + models.rows[node]) / (count + 1))
        if tried <= best:
            total, count, best = total + models.rows[node], count + 1, tried
    return total / count


@plugin("merge", sees="models")
def median(models: Models) -> Tensor:
    """Take the median of all models, number by number.

    Of an even number of models, the mean of the two in the middle. Fewer than half of the models,
    whatever they hold, cannot move it out of the range of the others. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)
    """
    return robust.median(models.rows, 0)


@plugin("merge", sees="models")
def trimmed_mean(models: Models, *, share: Annotated[float, Ge(0), Lt(0.5)] = 0.2) -> Tensor:
    """Average all models, number by number, without the largest and the smallest.

    floor(``share`` N) are left out at either end; 0 is the plain average. (Yin et al.,
    "Byzantine-robust distributed learning", ICML 2018.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        share: Share of the models left out at either end.
    """
    return robust.trimmed(models.rows, int(share * len(models.rows)), 0)
