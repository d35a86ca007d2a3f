"""Residual networks for small images."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from decentral.gradients.residual import Residual
from decentral.tasks.models._images import Norm, check_images, normalisation

#: Channels of a group under ``norm: group``.
_GROUP = 16


def resnet(
    name: str,
    input_shape: tuple[int, ...],
    outputs: int,
    widths: list[int],
    blocks: int,
    norm: Norm,
) -> nn.Module:
    """Return a stem of one 3x3 convolution, then a stage of ``blocks`` basic blocks per width.

    Every stage but the first halves height and width; where the shape changes, the shortcut is a
    1x1 convolution.
    """
    check_images(name, input_shape)
    layers = [*_convolution(input_shape[0], widths[0], 3, 1, norm), nn.ReLU()]
    for stage, (before, after) in enumerate(pairwise([widths[0], *widths])):
        layers += _block(before, after, 2 if stage else 1, norm)
        for _ in range(blocks - 1):
            layers += _block(after, after, 1, norm)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs)]
    return nn.Sequential(*layers, *pooled)


def _convolution(before: int, after: int, size: int, stride: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=norm == "none")
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, *normalisation(norm, after, max(1, after // _GROUP))]


def _block(before: int, after: int, stride: int, norm: Norm) -> list[nn.Module]:
    first, second = (
        _convolution(before, after, 3, stride, norm),
        _convolution(after, after, 3, 1, norm),
    )
    body = nn.Sequential(*first, nn.ReLU(), *second)
    same = before == after and stride == 1
    shortcut = None if same else nn.Sequential(*_convolution(before, after, 1, stride, norm))
    return [Residual(body, shortcut), nn.ReLU()]
