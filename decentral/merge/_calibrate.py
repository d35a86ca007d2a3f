"""Re-estimating BatchNorm statistics of a merged model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from decentral.layout import Layout

#: Samples per calibration batch.
_BATCH = 256


def recalibrate(
    model: nn.Module, layout: Layout, row: Tensor, inputs: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a row [P] and integer buffers [1, ...] with statistics re-estimated on ``inputs``.

    The average of models has activations unlike those of its parts, so averaged running statistics
    do not fit it: they are reset and averaged over one pass of the calibration inputs. A model
    without BatchNorm is returned as it is.
    """
    integers = {k: v.unsqueeze(0).to(row.device) for k, v in layout.integers.items()}
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return row, integers
    merged = copy.deepcopy(model).to(row.device, row.dtype).train()
    layout.unpack(row, merged)
    for module in merged.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for part in inputs.split(_BATCH):
            if len(part) > 1:
                merged(part)
    calibrated = row.clone()
    layout.pack(merged, calibrated)
    values = dict(merged.named_buffers())
    return calibrated, {k: values[k].detach().unsqueeze(0).clone() for k in layout.integers}
