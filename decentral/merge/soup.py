"""The greedy soup."""

from __future__ import annotations

from torch import Tensor

from decentral.merge import Models
from decentral.registry import plugin


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
