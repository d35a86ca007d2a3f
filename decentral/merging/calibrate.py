"""What averages of models lack: BatchNorm statistics that fit, and buffers of whole
numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from decentral.layout import Layout, cast
from decentral.private import BatchNorm
from decentral.pytree import Tree, first_leaf, tree_at
from decentral.rng import fork_rng

#: Samples per calibration batch.
_BATCH = 256
#: Types without a maximum of their own in torch.
_WIDENED = (torch.uint16, torch.uint32, torch.uint64)


def merge_integers(
    integers: Mapping[str, Tensor], alive: Tensor, gather: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the buffers beside the rows of a merged model, [1, ...], by the rule
    of ``united``.

    Args:
        integers: buffers of the hosted nodes, by name, [n, ...].
        alive: hosted rows of the nodes that count, int64; on some worker there may
            be none.
        gather: gathers [m, ...] from all workers, in node order; all workers call
            it.
    """
    found: dict[str, Tensor] = {}
    for name, value in integers.items():
        here = value[alive.to(value.device)]
        if value.is_complex():
            found[name] = torch.view_as_complex(gather(torch.view_as_real(here[:1])))[:1]
        elif value.is_floating_point() or not len(here):
            found[name] = unite(gather(here))
        else:
            found[name] = unite(gather(unite(here)))
    return found


def unite(values: Tensor) -> Tensor:
    """Return as one, [1, ...], a buffer beside the rows of several nodes, [n, ...].

    Whole numbers and truth values are the elementwise maximum: what is equal on all
    nodes is so kept, a counter is that of the node that counted furthest, and a
    mask is true where it is on any node. No average is whole, and a maximum depends
    neither on the order of nodes nor on how workers divide them. Float buffers,
    which began infinite, are the mean over the nodes where they are finite; complex
    ones, which have no order, those of the first node.

    >>> unite(torch.tensor([[3], [7]])), unite(torch.tensor([2.0, torch.inf, 4.0]))
    (tensor([[7]]), tensor([3.]))
    """
    if values.is_complex():
        return values[:1]
    if values.is_floating_point():
        finite = torch.isfinite(values)
        some = torch.where(finite, values, 0).double().sum(0, keepdim=True)
        count = finite.sum(0, keepdim=True)
        return torch.where(count > 0, some / count.clamp_min(1), values[:1]).to(
            values.dtype
        )
    if values.dtype in _WIDENED:
        return values.to(torch.int64).amax(0, keepdim=True).to(values.dtype)
    return values.amax(0, keepdim=True)


def recalibrate(
    model: nn.Module,
    layout: Layout,
    row: Tensor,
    integers: Mapping[str, Tensor],
    inputs: Tree,
) -> Tensor:
    """Return a row [P] whose BatchNorm statistics are re-estimated on ``inputs``.

    The average of models has activations unlike those of its parts, so averaged
    running statistics do not fit it: they are reset and averaged over one pass of
    the calibration inputs. A model without BatchNorm, or with frozen statistics
    only, is returned as it is.

    Args:
        model: the template; neither it nor ``row`` is changed.
        layout: where its tensors lie in a row.
        row: the model to re-estimate, [P].
        integers: its integer and bool buffers, [1, ...].
        inputs: calibration inputs, [B, ...]; at least two, or the row is returned
            as it is.
    """
    normalises = any(isinstance(module, BatchNorm) for module in model.modules())
    if len(first_leaf(inputs)) < 2 or not normalises:
        return row
    merged = cast(copy.deepcopy(model), row.device, row.dtype).train()
    norms = [m for m in merged.modules() if isinstance(m, BatchNorm) and _estimates(m)]
    if not norms:
        return row
    layout.unpack(row, merged, integers)
    # Nothing else is in training: dropout would change the activations that are
    # measured, from what evaluation will see, and counters and estimates of other
    # modules would move.
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
    """Tell whether a layer has running statistics that its model updates in
    training.
    """
    return norm.training and norm.running_mean is not None
