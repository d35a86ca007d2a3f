"""Keyed dropout: masks as a pure function of seed, node, sample and layer."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from decentral.gradients.draws import uniform


class KeyedDropout(nn.Module):
    """Dropout whose mask is hashed from ``key`` [B] (one integer per sample), layer and position.

    y = x m / (1 - p) with m ~ Bernoulli(1 - p). Draws nothing from a generator, so it runs under
    vmap and repeats bit by bit when a batch is visited again.
    """

    key: Tensor

    def __init__(self, p: float, layer: int) -> None:
        """Drop with probability ``p``; ``layer`` separates the masks of different layers."""
        super().__init__()
        self.p, self.layer = p, layer
        self.register_buffer("key", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mask x [B, ...] in training; pass it through in evaluation."""
        if not self.training or self.p == 0.0:
            return x
        chance = uniform(self.key, x[0].numel(), self.layer)
        return x * (chance >= self.p).view(x.shape).to(x.dtype) / (1.0 - self.p)


def keyed(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose ``nn.Dropout`` are keyed, or the model if it has none."""
    layers = [name for name, module in model.named_modules() if type(module) is nn.Dropout]
    if not layers:
        return model
    swapped = copy.deepcopy(model)
    for index, name in enumerate(layers):
        path, _, last = name.rpartition(".")
        old = swapped.get_submodule(name)
        assert isinstance(old, nn.Dropout)
        setattr(swapped.get_submodule(path), last, KeyedDropout(old.p, index))
    return swapped


def key_buffers(model: nn.Module) -> list[str]:
    """Return the names of the key buffers of a model's keyed dropout layers."""
    return [
        f"{name}.key" if name else "key"
        for name, module in model.named_modules()
        if isinstance(module, KeyedDropout)
    ]
