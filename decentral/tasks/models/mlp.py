"""Multi-layer perceptrons."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from torch import nn

from decentral.registry import Count, plugin


@plugin("model", inputs="numbers")
def mlp(
    input_shape: tuple[int, ...], outputs: int, *, hidden: tuple[Count, ...] = (128, 128)
) -> nn.Module:
    """Flatten the input, then fully connected layers of the widths ``hidden`` with ReLU between."""
    widths = [prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
