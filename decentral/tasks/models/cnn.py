"""Small convolutional networks."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from decentral.errors import ConfigError
from decentral.registry import Count, plugin
from decentral.tasks.models._images import Norm, check_images, normalisation


@plugin("model", inputs="numbers")
def cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    channels: tuple[Count, ...] = (16, 32),
    norm: Norm = "none",
) -> nn.Module:
    """3x3 convolutions of the widths ``channels``, each followed by ReLU and 2x2 max-pooling."""
    check_images("cnn", input_shape)
    layers: list[nn.Module] = []
    for before, after in pairwise([input_shape[0], *channels]):
        layers += [nn.Conv2d(before, after, 3, padding=1), *normalisation(norm, after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    shrink = 2 ** len(channels)
    size = channels[-1] * (input_shape[1] // shrink) * (input_shape[2] // shrink)
    if size == 0:
        raise ConfigError(
            f"model 'cnn': {len(channels)} poolings leave nothing of {list(input_shape)} images; "
            "give fewer channels."
        )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, outputs))
