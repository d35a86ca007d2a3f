"""What averages of models lack: BatchNorm statistics that fit, and buffers of whole numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from decentral.generator import fork_rng
from decentral.layout import Layout, cast
from decentral.private import BatchNorm
from decentral.pytree import Tree, first_leaf, tree_at

#: Samples per calibration batch.
_BATCH = 256
#: Types without a maximum of their own in torch.
_WIDENED = (torch.uint16, torch.uint32, torch.uint64)


def merge_integers(
    integers: Mapping[str, Tensor], alive: Tensor, gather: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the buffers beside the rows of a merged model, [1, ...]: the elementwise maximum.

    What is equal on all nodes is so kept, a counter is that of the node that counted furthest, and
    a mask is true where it is on any node. No average is whole, and a maximum depends neither on
    the order of nodes nor on how workers divide them. Complex buffers, which have no order, are
    those of the first node; float buffers, which began infinite, the mean where that is finite.

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
        elif value.is_floating_point():
            found[name] = _mean(gather(here))
        else:
            found[name] = _most(gather(_most(here)))
    return found


def _most(values: Tensor) -> Tensor:
    """Return the elementwise maximum of values [n, ...] as [1, ...], or nothing of nothing."""
    if len(values) < 2:
        return values
    if values.dtype in _WIDENED:
        return values.to(torch.int64).amax(0, keepdim=True).to(values.dtype)
    return values.amax(0, keepdim=True)


def _mean(values: Tensor) -> Tensor:
    """Return the mean of values [n, ...] as [1, ...]: the first where it is infinite."""
    mean = values.double().mean(0, keepdim=True)
    return torch.where(torch.isfinite(mean), mean, values[:1].double()).to(values.dtype)


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
        norm.momentum = None
    with torch.no_grad(), fork_rng(0):
        for begin in range(0, len(first_leaf(inputs)), _BATCH):
            part = tree_at(inputs, slice(begin, begin + _BATCH))
            if len(first_leaf(part)) > 1:
                merged(part)
    calibrated = row.clone()
    layout.pack(merged, calibrated)
    return calibrated


def _estimates(norm: BatchNorm) -> bool:
    """Tell whether a layer has running statistics that its model updates in training."""
    return norm.training and norm.running_mean is not None
