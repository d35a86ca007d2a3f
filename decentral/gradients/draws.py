"""Random numbers on the device of a batch: draws, and dropout, as pure functions of
sample keys.
"""

from __future__ import annotations

import copy
from math import pi

import torch
from torch import Tensor, nn

_MASK = (1 << 63) - 1
_M1, _M2 = 0x3F58476D1CE4E5B9, 0x14D049BB133111EB

#: Streams of the methods; those of dropout layers are their indices, from 0.
CHANCE, CLASS, NOISE, ANGLE, ATTACK = ((1 << 20) + place for place in range(5))


def hash_bits(value: Tensor) -> Tensor:
    """Return 63 bits that look random for every int64, the same for the same."""
    value = (value ^ (value >> 30)) * _M1
    value = (value ^ (value >> 27)) * _M2
    return (value ^ (value >> 31)) & _MASK


def uniform(keys: Tensor, size: int, stream: int) -> Tensor:
    """Return ``size`` float64 in [0, 1) for every key of a sample's visit, [*keys,
    size].

    Draws of one stream are the same each time; those of different streams are
    independent.
    """
    # Streams are 2^32 places apart: no layer has as many numbers per sample.
    place = torch.arange(size, device=keys.device) + stream * (1 << 32)
    return hash_bits(hash_bits(keys).unsqueeze(-1) + place).to(torch.float64) / float(
        1 << 63
    )


def normal(keys: Tensor, size: int) -> Tensor:
    """Return ``size`` standard normal float64 for every key (Box-Muller), [*keys,
    size].
    """
    # (0, 1] rather than [0, 1): the logarithm of 0 is not finite.
    radius = (1.0 - uniform(keys, size, NOISE)).clamp_min(2.0**-63)
    return (-2.0 * radius.log()).sqrt() * (2.0 * pi * uniform(keys, size, ANGLE)).cos()


# --- dropout ----------------------------------------------------------------------


class KeyedDropout(nn.Module):
    """Dropout whose mask is hashed from ``key`` [B] (one integer per sample), layer
    and position.

    y = x m / (1 - p) with m ~ Bernoulli(1 - p). Draws nothing from a generator, so
    it runs under vmap and repeats bit by bit when a batch is visited again.
    """

    key: Tensor

    def __init__(self, p: float, layer: int) -> None:
        """Drop with probability ``p``; ``layer`` separates the masks of different
        layers.
        """
        super().__init__()
        self.p, self.layer = p, layer
        self.register_buffer("key", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mask x [B, ...] in training; pass it through in evaluation.

        An x whose first dimension is not the batch is masked by the keys of all
        samples together.
        """
        if not self.training or self.p == 0.0:
            return x
        # A key for every sample: its mask does not depend on who else is in the
        # batch.
        if x.dim() and len(x) == len(self.key):
            chance = uniform(self.key, x[0].numel(), self.layer)
        else:  # no sample owns a slice of x: time first, or a weight
            chance = uniform(
                hash_bits(self.key).sum(0, keepdim=True), x.numel(), self.layer
            )
        return x * (chance >= self.p).view(x.shape).to(x.dtype) / (1.0 - self.p)


def key_dropout(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose ``nn.Dropout`` are keyed, or the model if it
    has none.
    """
    if not any(type(module) is nn.Dropout for module in model.modules()):
        return model
    swapped = copy.deepcopy(model)
    made: dict[nn.Module, KeyedDropout] = {}
    # One layer may stand at several places, and stays one layer.
    for name, old in list(swapped.named_modules(remove_duplicate=False)):
        if type(old) is nn.Dropout:
            made.setdefault(old, KeyedDropout(old.p, len(made)))
            path, _, last = name.rpartition(".")
            setattr(swapped.get_submodule(path), last, made[old])
    return swapped


def key_buffers(model: nn.Module) -> list[str]:
    """Return the names of the key buffers of a model's keyed dropout layers."""
    return [
        f"{name}.key" if name else "key"
        for name, module in model.named_modules()
        if isinstance(module, KeyedDropout)
    ]
