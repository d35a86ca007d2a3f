"""Turning all rows into one model.

A merge rule is one of two functions:

- ``(samples) -> weights``: from the number of training samples of every node [N] to
  the weights [N] of a weighted average, which sum to one. Rows need not meet: any
  run can merge so.
- ``(models) -> row``, with the trait ``sees="models"``: from everything about the
  models that were trained, `Models`, to one row [P]. All rows must be in one place:
  ``decentral merge RUN`` applies such a rule to the checkpoint of a run.

What else a rule promises stands in ``traits.MergeTraits``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.layout import Layout
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin
from decentral.topology.labels import Position
from decentral.traits import MergeTraits, traits_of

#: How far from 1 weights may sum that were computed in single precision.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Models:
    """What a rule may know of N trained models.

    ``loss`` is the validation loss of a row; ``fisher`` the mean squared gradient
    of model i on single samples of its own node, [P], with labels drawn from its
    own predictions, or those of the data (true).
    """

    rows: Tensor  # [N, P]
    samples: Tensor  # training samples of every node, [N]
    start: Tensor  # the model that all began with, [P]
    model: nn.Module  # of which rows hold the numbers, as ``layout`` says where
    layout: Layout
    seed: int
    loss: Callable[[Tensor], float]
    fisher: Callable[[int, bool], Tensor]


def in_a_run(rule: ConfiguredPlugin) -> ConfiguredPlugin:
    """Return a rule that a run can apply; raises ConfigError for one that must see
    all models.
    """
    if traits_of(rule, MergeTraits).sees == "models":
        raise ConfigError(
            f"merge {rule.name!r} must see all models in one place, which a run cannot offer; use "
            f"merge: uniform here, and `decentral merge RUN --rule {rule.name}` afterwards."
        )
    return rule


def merge_models(rule: ConfiguredPlugin, models: Models) -> Tensor:
    """Return the one model [P] that a rule of either kind makes of all."""
    wanted = traits_of(rule, MergeTraits).nodes
    if wanted not in (None, len(models.rows)):
        raise ConfigError(
            f"merge {rule.name!r} takes {wanted} models, the run has {len(models.rows)}; "
            "choose another rule."
        )
    if traits_of(rule, MergeTraits).sees == "models":
        return _check_row(rule, rule(models), models.rows)
    return merge_weights(rule, models.samples).to(models.rows) @ models.rows


def merge_weights(
    rule: ConfiguredPlugin, samples: Tensor, excluded: frozenset[Position] = frozenset()
) -> Tensor:
    """Return the weights [N] of a merge over the nodes that take part, summing to
    one.

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
    weights[present] = _check_weights(
        rule, rule(samples[present].to(torch.float64)), present
    )
    # Once more: the shares of those present sum to one only up to rounding.
    return weights / weights.sum()


def _check_row(rule: ConfiguredPlugin, row: Any, rows: Tensor) -> Tensor:
    """Return the model that a rule has made, if it is one."""
    expected = f"one row of {rows.shape[1]} finite numbers"
    if not isinstance(row, Tensor) or row.shape != rows.shape[1:]:
        raise wrong(rule, describe(row), expected)
    if not torch.isfinite(row).all() and torch.isfinite(rows).all():
        raise wrong(rule, "numbers that are NaN or infinite", expected)
    return row


def _check_weights(rule: ConfiguredPlugin, weights: Any, present: Tensor) -> Tensor:
    """Return the weights that a rule gives those present, float64, if they are an
    average's.
    """
    count = int(present.sum())
    expected = f"{count} weights, one per node, of at least 0 that sum to 1"
    if (
        not isinstance(weights, Tensor)
        or weights.shape != (count,)
        or weights.is_complex()
    ):
        raise wrong(rule, describe(weights), expected)
    weights = weights.double()
    if not torch.isfinite(weights).all():
        raise wrong(rule, "weights that are NaN or infinite", expected)
    # Not even a little: below 0 an average leaves what lies between the models.
    if (least := weights.min().item()) < 0:
        raise wrong(rule, f"a weight of {least:g}", expected)
    if abs((total := weights.sum().item()) - 1) > _TOLERANCE:
        raise wrong(rule, f"weights that sum to {total:g}", expected)
    return weights
