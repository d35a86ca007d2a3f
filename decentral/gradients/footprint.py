"""How much a model keeps for its backward pass, and so how many rows are computed at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decentral.generator import borrowed
from decentral.layout import shadow

#: Most rows at a time: more of them leave the cache.
ROWS = 32
#: Numbers that the rows of one time may keep between forward and backward, by device.
_KEPT = {"cpu": 1 << 26, "cuda": 1 << 30}


def kept_numbers(model: nn.Module, inputs: Tensor) -> int:
    """Return how many numbers a model keeps for its backward pass on ``inputs`` [B, ...]."""
    probe = shadow(model).eval()
    own = {
        tensor.untyped_storage().data_ptr() for tensor in [*probe.parameters(), *probe.buffers()]
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    # What is kept stays alive until the end, so that no place in memory is used twice.
    with (
        borrowed(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
    ):
        output = probe(inputs.clone())
    del output
    return sum(kept.values())


def rows_at_once(kept: int, device: torch.device) -> int:
    """Return how many rows to compute at a time when each keeps ``kept`` numbers."""
    budget = _KEPT.get(device.type, _KEPT["cuda"])
    return max(1, min(ROWS, budget // max(1, kept)))
