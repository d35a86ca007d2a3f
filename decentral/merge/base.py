"""Turning all rows into one model.

A merge rule is one of two functions:

- ``(samples) -> weights``: from the number of training samples of every node [N] to the weights [N]
  of a weighted average, which sum to one. Rows need not meet: any run can merge so.
- ``(models) -> row``, with the trait ``sees="models"``: from everything about the models that were
  trained, `Models`, to one row [P]. All rows must be in one place: ``decentral merge RUN`` applies
  such a rule to the checkpoint of a run.

What else a rule promises stands in ``traits.MergeTraits``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.generator import fork_rng
from decentral.layout import Layout, cast
from decentral.private import BatchNorm
from decentral.pytree import Tree, first_leaf, tree_at
from decentral.registry import ConfiguredPlugin
from decentral.returned import describe, wrong
from decentral.traits import MergeTraits, traits_of

#: How far from 1 weights may sum that were computed in single precision.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Models:
    """What a rule may know of N trained models.

    ``loss`` is the validation loss of a row; ``fisher`` the mean squared gradient of model i on
    single samples of its own node, [P].
    """

    rows: Tensor  # [N, P]
    samples: Tensor  # training samples of every node, [N]
    start: Tensor  # the model that all began with, [P]
    model: nn.Module  # of which rows hold the numbers, as ``layout`` says where
    layout: Layout
    seed: int
    loss: Callable[[Tensor], float]
    fisher: Callable[[int], Tensor]


def in_a_run(rule: ConfiguredPlugin) -> ConfiguredPlugin:
    """Return a rule that a run can apply; raises ConfigError for one that must see all models."""
    if traits_of(rule, MergeTraits).sees == "models":
        raise ConfigError(
            f"merge {rule.name!r} must see all models in one place, which a run cannot offer; use "
            f"merge: uniform here, and `decentral merge RUN --rule {rule.name}` afterwards."
        )
    return rule


def merged(rule: ConfiguredPlugin, models: Models) -> Tensor:
    """Return the one model [P] that a rule of either kind makes of all."""
    wanted = traits_of(rule, MergeTraits).nodes
    if wanted not in (None, len(models.rows)):
        raise ConfigError(
            f"merge {rule.name!r} takes {wanted} models, the run has {len(models.rows)}; "
            "choose another rule."
        )
    if traits_of(rule, MergeTraits).sees == "models":
        return _checked_row(rule, rule(models), models.rows)
    return merge_weights(rule, models.samples).to(models.rows) @ models.rows


def merge_weights(
    rule: ConfiguredPlugin, samples: Tensor, excluded: frozenset[int] = frozenset()
) -> Tensor:
    """Return the weights [N] of a merge over the nodes that take part, summing to one.

    Args:
        rule: The merging rule.
        samples: Training samples of every node, [N].
        excluded: Nodes that are left out.
    """
    present = torch.ones(len(samples), dtype=torch.bool)
    present[sorted(excluded)] = False
    if not present.any():
        raise ConfigError("merge: no healthy node is left to merge.")
    weights = torch.zeros(len(samples), dtype=torch.float64)
    weights[present] = _checked_weights(rule, rule(samples[present].to(torch.float64)), present)
    # Once more: the shares of those present sum to one only up to rounding.
    return weights / weights.sum()


def _checked_row(rule: ConfiguredPlugin, row: Any, rows: Tensor) -> Tensor:
    """Return the model that a rule has made, if it is one."""
    expected = f"one row of {rows.shape[1]} finite numbers"
    if not isinstance(row, Tensor) or row.shape != rows.shape[1:]:
        raise wrong(rule, describe(row), expected)
    if not torch.isfinite(row).all() and torch.isfinite(rows).all():
        raise wrong(rule, "numbers that are NaN or infinite", expected)
    return row


def _checked_weights(rule: ConfiguredPlugin, weights: Any, present: Tensor) -> Tensor:
    """Return the weights that a rule gives those present, float64, if they are an average's."""
    count = int(present.sum())
    expected = f"{count} weights, one per node, of at least 0 that sum to 1"
    if not isinstance(weights, Tensor) or weights.shape != (count,) or weights.is_complex():
        raise wrong(rule, describe(weights), expected)
    weights = weights.double()
    if not torch.isfinite(weights).all():
        raise wrong(rule, "weights that are NaN or infinite", expected)
    if (least := weights.min().item()) < 0:
        raise wrong(rule, f"a weight of {least:g}", expected)
    if abs((total := weights.sum().item()) - 1) > _TOLERANCE:
        raise wrong(rule, f"weights that sum to {total:g}", expected)
    return weights


# --- what averages lack ---------------------------------------------------------------------------


#: Samples per calibration batch.
_BATCH = 256
#: Types without a maximum of their own in torch.
_WIDENED = (torch.uint16, torch.uint32, torch.uint64)


def merge_integers(
    integers: Mapping[str, Tensor], alive: Tensor, gather: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the buffers beside the rows of a merged model, [1, ...], by the rule of ``united``.

    Args:
        integers: buffers of the hosted nodes, by name, [n, ...].
        alive: hosted rows of the nodes that count, int64; on some worker there may be none.
        gather: gathers [m, ...] from all workers, in node order; all workers call it.
    """
    found: dict[str, Tensor] = {}
    for name, value in integers.items():
        here = value[alive.to(value.device)]
        if value.is_complex():
            found[name] = torch.view_as_complex(gather(torch.view_as_real(here[:1])))[:1]
        elif value.is_floating_point() or not len(here):
            found[name] = united(gather(here))
        else:
            found[name] = united(gather(united(here)))
    return found


def united(values: Tensor) -> Tensor:
    """Return as one, [1, ...], a buffer beside the rows of several nodes, [n, ...].

    Whole numbers and truth values are the elementwise maximum: what is equal on all nodes is so
    kept, a counter is that of the node that counted furthest, and a mask is true where it is on any
    node. No average is whole, and a maximum depends neither on the order of nodes nor on how
    workers divide them. Float buffers, which began infinite, are the mean over the nodes where they
    are finite; complex ones, which have no order, those of the first node.

    >>> united(torch.tensor([[3], [7]])), united(torch.tensor([2.0, torch.inf, 4.0]))
    (tensor([[7]]), tensor([3.]))
    """
    if values.is_complex():
        return values[:1]
    if values.is_floating_point():
        finite = torch.isfinite(values)
        some = torch.where(finite, values, 0).double().sum(0, keepdim=True)
        count = finite.sum(0, keepdim=True)
        return torch.where(count > 0, some / count.clamp_min(1), values[:1]).to(values.dtype)
    if values.dtype in _WIDENED:
        return values.to(torch.int64).amax(0, keepdim=True).to(values.dtype)
    return values.amax(0, keepdim=True)


def recalibrate(
    model: nn.Module, layout: Layout, row: Tensor, integers: Mapping[str, Tensor], inputs: Tree
) -> Tensor:
    """Return a row [P] whose BatchNorm statistics are re-estimated on ``inputs``.

    The average of models has activations unlike those of its parts, so averaged running statistics
    do not fit it: they are reset and averaged over one pass of the calibration inputs. A model
    without BatchNorm, or with frozen statistics only, is returned as it is.

    Args:
        model: the template; neither it nor ``row`` is changed.
        layout: where its tensors lie in a row.
        row: the model to re-estimate, [P].
        integers: its integer and bool buffers, [1, ...].
        inputs: calibration inputs, [B, ...]; at least two, or the row is returned as it is.
    """
    normalises = any(isinstance(module, BatchNorm) for module in model.modules())
    if len(first_leaf(inputs)) < 2 or not normalises:
        return row
    merged = cast(copy.deepcopy(model), row.device, row.dtype).train()
    norms = [m for m in merged.modules() if isinstance(m, BatchNorm) and _estimates(m)]
    if not norms:
        return row
    layout.unpack(row, merged, integers)
    # Nothing else is in training: dropout would change the activations that are measured, from
    # what evaluation will see, and counters and estimates of other modules would move.
    merged.eval()
    for norm in norms:
        norm.train().reset_running_stats()
        # A plain mean over all batches, rather than one that forgets the first.
        norm.momentum = None
    with torch.no_grad(), fork_rng(0):
        for begin in range(0, len(first_leaf(inputs)), _BATCH):
            part = tree_at(inputs, slice(begin, begin + _BATCH))
            # One sample has no variance, and torch refuses it.
            if len(first_leaf(part)) > 1:
                merged(part)
    calibrated = row.clone()
    layout.pack(merged, calibrated)
    return calibrated


def _estimates(norm: BatchNorm) -> bool:
    """Tell whether a layer has running statistics that its model updates in training."""
    return norm.training and norm.running_mean is not None
