"""Merge rules that take models as vectors: averages and medians, spheres, signs,
curvature.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from decentral import rng
from decentral.errors import ConfigError
from decentral.exchange.aggregation import mean_of_middle, middle
from decentral.merging.base import Models
from decentral.registry import Positive, Share, plugin

# --- averages ---------------------------------------------------------------------


@plugin("merge")
def uniform(samples: Tensor) -> Tensor:
    """Average all models with equal weights, x = (1/N) sum_i x_i."""
    return torch.full_like(samples, 1.0 / len(samples))


@plugin("merge")
def weighted(samples: Tensor) -> Tensor:
    """Average all models weighted by their training samples, x = sum_i (m_i / m)
    x_i.
    """
    return samples / samples.sum()


@plugin("merge", sees="models")
def soup(models: Models) -> Tensor:
    """Average the best models as long as each one more does not harm.

    Models are taken in the order of their validation loss; one stays in the average
    if the loss of the average does not grow. Never worse than the best single
    model, on validation data. (Wortsman et al., "Model soups", ICML 2022.)
    """
    losses = [models.loss(row) for row in models.rows]
    first, *others = sorted(range(len(losses)), key=losses.__getitem__)
    total, count, best = models.rows[first].clone(), 1, losses[first]
    for node in others:
        tried = models.loss((total + models.rows[node]) / (count + 1))
        # Also at equal loss: the average of more models is the flatter one.
        if tried <= best:
            total, count, best = total + models.rows[node], count + 1, tried
    return total / count


@plugin("merge", sees="models")
def median(models: Models) -> Tensor:
    """Take the median of all models, number by number.

    Of an even number of models, the mean of the two in the middle. Fewer than half
    of the models, whatever they hold, cannot move it out of the range of the
    others. (Yin et al., "Byzantine-robust distributed learning", ICML 2018.)
    """
    return middle(models.rows, 0)


@plugin("merge", sees="models")
def trimmed_mean(
    models: Models, *, share: Annotated[float, Ge(0), Lt(0.5)] = 0.2
) -> Tensor:
    """Average all models, number by number, without the largest and the smallest.

    floor(``share`` N) are left out at either end; 0 is the plain average. (Yin et
    al., "Byzantine-robust distributed learning", ICML 2018.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        share: Share of the models left out at either end.
    """
    return mean_of_middle(models.rows, int(share * len(models.rows)), 0)


# --- products ---------------------------------------------------------------------


@plugin("merge", sees="models")
def lora_product(models: Models) -> Tensor:
    """Average the products B_i A_i of adapters of low rank, and not their factors.

    B A is the best approximation of (1/N) sum_i B_i A_i of the rank of the
    adapters, by singular values; where all A_i are the same, (1/N) sum_i B_i with
    it is exact. All other numbers are averaged. (Wang et al., "FLoRA", NeurIPS
    2024, and Singhal et al., "FedEx-LoRA", ACL 2025, on how both averages differ.)
    """
    merged = models.rows.mean(0)
    entries = {entry.name: entry for entry in models.layout.parameters}
    for name, down in entries.items():
        up = entries.get(name.replace("lora_A", "lora_B"))
        # Linear layers only: of others, such as embeddings, factors are averaged.
        if up is None or up is down or len(down.shape) != 2 or len(up.shape) != 2:
            continue
        a, b = (models.layout.views(models.rows, [one])[one.name] for one in (down, up))
        if (a == a[0]).all():
            continue
        for one, factor in zip((down, up), _factors(a, b), strict=True):
            merged[one.start : one.stop] = factor.to(merged).reshape(-1)
    return merged


def _factors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r] of the mean of products, of equal size.

    Args:
        a: The factors A of all models, [N, r, in].
        b: Their factors B, [N, out, r].
    """
    rank = a.shape[1]
    # The product itself, [out, in], is never formed: it may be far larger.
    left, core_b = torch.linalg.qr(b.double().permute(1, 0, 2).flatten(1) / len(a))
    right, core_a = torch.linalg.qr(a.double().flatten(0, 1).T)
    u, sizes, v = torch.linalg.svd(core_b @ core_a.T, full_matrices=False)
    # A layer narrower than the rank leaves columns of zeros.
    some = min(rank, len(sizes))
    root = sizes[:some].sqrt()
    found_a, found_b = a.new_zeros(a.shape[1:]), b.new_zeros(b.shape[1:])
    found_a[:some] = (root[:, None] * v[:some] @ right.T).to(a)
    found_b[:, :some] = (left @ u[:, :some] * root).to(b)
    return found_a, found_b


# --- directions -------------------------------------------------------------------


#: Sine of an angle below which an arc is a straight line, to the last bits of
#: float32.
_STRAIGHT = 1e-4
#: Degrees beyond which two models are opposite: every great circle leads from one
#: to the other, and their mean is next to nothing.
_OPPOSITE = 179.0


@plugin("merge", sees="models", nodes=2, ordered=True)
def slerp(models: Models, *, t: Share = 0.5) -> Tensor:
    """Go from the first of two models to the second along a great circle.

    x = (sin((1 - t) w) x_0 + sin(t w) x_1) / sin w with the angle w between the
    models. Where it is next to nothing, the straight line is taken; beyond 179
    degrees it is refused, since no way between opposite models is the shortest.
    (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        t: Place between the first model (0) and the second (1).
    """
    one, other = models.rows.double()
    angle = _angle(one, other)
    # Written so that NaN, the angle of a model of zeros, takes the straight line
    # too.
    if not torch.sin(angle) > _STRAIGHT:
        return torch.lerp(one, other, t).to(models.rows)
    parts = torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * other
    return (parts / torch.sin(angle)).to(models.rows)


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """Return the angle between two models; NaN, where one is of zeros."""
    angle = torch.arccos((one @ other / (one.norm() * other.norm())).clamp(-1, 1))
    if (degrees := angle.rad2deg().item()) > _OPPOSITE:
        raise ConfigError(
            f"merge 'slerp' goes along an arc, and the two models are {degrees:.4g} degrees "
            f"apart, beyond {_OPPOSITE:g}: opposite, with nothing between them; take one of "
            "them, or merge=uniform, whose mean of such models is next to nothing."
        )
    return angle


def slerp_weights(rows: Tensor, t: float = 0.5) -> tuple[float, float]:
    """Return the weights of two models [2, P] of which ``slerp`` is the sum."""
    angle = _angle(*rows.double())
    if not torch.sin(angle) > _STRAIGHT:
        return 1 - t, t
    first, second = (torch.sin(part * angle) / torch.sin(angle) for part in (1 - t, t))
    return first.item(), second.item()


@plugin("merge", sees="models", moves_equal=True)
def ties(
    models: Models, *, keep: Annotated[float, Gt(0), Le(1)] = 0.2, scale: Positive = 1.0
) -> Tensor:
    """Merge what models have learnt since their common start, where they agree on
    the sign.

    Of x_i - x_0 each keeps the share ``keep`` of largest size; every number takes
    the sign of the sum over models, and the mean of those that have this sign.
    (Yadav et al., "TIES-merging", NeurIPS 2023.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        keep: Share of largest numbers that a model keeps.
        scale: Factor of the merged change.
    """
    learnt = models.rows - models.start
    kept = max(1, round(keep * learnt.shape[1]))
    # The size of the last number that stays; equal ones stay with it.
    least = learnt.abs().kthvalue(learnt.shape[1] - kept + 1, dim=1, keepdim=True).values
    learnt = learnt.where(learnt.abs() >= least, 0)
    agreeing = (learnt.sign() == learnt.sum(dim=0).sign()) & (learnt != 0)
    mean = learnt.where(agreeing, 0).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)
    return torch.add(models.start, mean, alpha=scale)


@plugin("merge", sees="models", moves_equal=True, ordered=True)
def dare(models: Models, *, drop: Annotated[float, Ge(0), Lt(1)] = 0.5) -> Tensor:
    """Average what models have learnt since their common start, most of it left out
    at random.

    Every number of x_i - x_0 is dropped with probability ``drop``, or else divided
    by 1 - drop, so that the average stays what it was in expectation. (Yu et al.,
    "Language models are super Mario", ICML 2024.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        drop: Probability that a number is left out.
    """
    total = torch.zeros_like(models.start)
    for node, row in enumerate(models.rows):
        columns = np.arange(len(row))
        stays = rng.uniform(models.seed, "dare", node, columns) >= drop
        total += (row - models.start) * torch.from_numpy(stays).to(row.device)
    return models.start + total / ((1 - drop) * len(models.rows))


@plugin("merge", sees="models")
def fisher(models: Models, *, floor: Positive = 1e-6, empirical: bool = False) -> Tensor:
    """Average every number weighted by how much it matters to each model.

    x = sum_i F_i x_i / sum_i F_i with the mean squared gradient F_i of single
    samples of node i, at least ``floor``; where nothing matters to any model it is
    the plain average. Labels are drawn from what the model itself predicts, which
    makes F_i the Fisher information; targets that are no classes are taken as they
    are. (Matena & Raffel, "Merging models with Fisher-weighted
    averaging", NeurIPS 2022.)

    Args:
        models: What is merged: rows [N, P], and what rules may ask about them.
        floor: Least weight of a number.
        empirical: Take the labels of the data: what they do not tell does not
            count.
    """
    total, weight = (torch.zeros_like(models.start) for _ in range(2))
    for node, row in enumerate(models.rows):
        # Where no model cares the floors weigh alike, and give the plain average.
        information = models.fisher(node, empirical) + floor
        total += information * row
        weight += information
    return total / weight
