"""The average of models whose hidden units are aligned first."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.merge import Models
from decentral.merge._assign import assignment
from decentral.merge._symmetry import Hidden, by_unit, hidden_units, permute
from decentral.registry import Count, plugin


@plugin("merge", sees="models")
def aligned(models: Models, *, passes: Count = 10) -> Tensor:
    """Average all models after permuting the hidden units of each to match the others.

    x = (1/N) sum_i P_i x_i, where the permutations P_i leave what a model computes as it is and
    maximise <P_i x_i, m>: first with the model m of least validation loss, which stays, then with
    the mean of the others in the order of their loss, until nothing moves or after ``passes``.
    Known are linear and convolutional layers in sequence, feed-forward parts and attention heads; a
    model without them is averaged as it is. (Ainsworth, Hayase & Srinivasa, "Git Re-Basin", 2023.)
    """
    layers, rows = hidden_units(models.model, models.layout), models.rows.clone()
    losses = [models.loss(row) for row in models.rows]
    best, *others = sorted(range(len(rows)), key=losses.__getitem__)
    for index in others:
        align(rows[index], rows[best], layers)
    for _ in range(passes):
        if not _align_to_rest(rows, others, layers):
            break
    return rows.mean(0)


def _align_to_rest(rows: Tensor, chosen: list[int], layers: list[Hidden]) -> bool:
    """Match each of the chosen rows [N, P] with the sum of the others; return whether any moved."""
    total, moved = rows.sum(0), False
    for index in chosen:
        rest = total - rows[index]
        moved |= align(rows[index], rest, layers)
        total = rest + rows[index]
    return moved


def align(row: Tensor, reference: Tensor, layers: list[Hidden], sweeps: int = 20) -> bool:
    """Permute the units of a row [P] in place to match a reference; return whether any moved.

    Layer by layer: each permutation is the best one while the others stay (a linear assignment), so
    that the inner product of both rows only grows.
    """
    moved = False
    for _ in range(sweeps):
        changed = [_align_layer(row, reference, hidden) for hidden in layers]
        if not any(changed):
            break
        moved = True
    return moved


def _align_layer(row: Tensor, reference: Tensor, hidden: Hidden) -> bool:
    """Put the units of one layer into the order that matches best; return whether that is new."""
    likeness = torch.zeros(hidden.units, hidden.units, dtype=torch.float64)
    for axis in hidden.axes:
        ours, theirs = (by_unit(one, axis, hidden.units).double() for one in (row, reference))
        likeness += (theirs @ ours.T).cpu()
    order = torch.from_numpy(assignment(likeness.numpy()))
    stays = torch.arange(hidden.units)
    gain = (likeness[stays, order] - likeness[stays, stays]).sum().item()
    if gain <= 1e-9 * likeness.abs().max().item():  # as good as it was: rounding must not decide
        return False
    permute(row, hidden, order.to(row.device))
    return True
