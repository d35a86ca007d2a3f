"""Models of images and of plain features: a perceptron, convolutions, residual
networks.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.gradients.kernels import Op, chain, join, stacks
from decentral.registry import Count, plugin
from decentral.tasks.models.base import check_images

Norm = Literal["none", "batch", "group"]


class Residual(nn.Module):
    """y = body(x) + shortcut(x); the shortcut passes x through unless one is given.

    >>> import torch
    >>> Residual(nn.Sequential(nn.ReLU()))(torch.tensor([-1.0, 2.0]))
    tensor([-1.,  4.])
    """

    def __init__(
        self, body: nn.Sequential, shortcut: nn.Sequential | None = None
    ) -> None:
        """Add what ``shortcut`` makes of x to what ``body`` makes of it."""
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x) + shortcut(x)."""
        return self.body(x) + self.shortcut(x)


@stacks(Residual)
def _stack_residual(name: str, module: Any) -> Op | None:
    body, shortcut = (
        chain(join(name, key), getattr(module, key)) for key in ("body", "shortcut")
    )
    if body is None or shortcut is None:
        return None
    return lambda x, values: body(x, values) + shortcut(x, values)


def normalisation(kind: Norm, channels: int, groups: int = 1) -> list[nn.Module]:
    """Return the layer that normalises ``channels``, if there is one.

    Args:
        kind: ``batch``, ``group`` or ``none``.
        channels: Number of channels.
        groups: Groups of them, under ``group``.
    """
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(groups, channels)] if kind == "group" else []


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
    """Return a stem of one 3x3 convolution, then a stage of ``blocks`` basic blocks
    per width.

    Every stage but the first halves height and width; where the shape changes, the
    shortcut is a 1x1 convolution.

    Args:
        name: Name of the model, for messages.
        input_shape: Shape of one image.
        outputs: Number of classes.
        widths: Channels of each stage.
        blocks: Blocks of a stage.
        norm: Normalisation.
    """
    check_images(name, input_shape)
    layers = [*_convolution(input_shape[0], widths[0], 3, 1, norm), nn.ReLU()]
    for stage, (before, after) in enumerate(pairwise([widths[0], *widths])):
        layers += _block(before, after, 2 if stage else 1, norm)
        for _ in range(blocks - 1):
            layers += _block(after, after, 1, norm)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs)]
    return nn.Sequential(*layers, *pooled)


def _convolution(
    before: int, after: int, size: int, stride: int, norm: Norm
) -> list[nn.Module]:
    # A normalisation takes a bias off again, so that only plain layers have one.
    convolution = nn.Conv2d(
        before, after, size, stride, padding=size // 2, bias=norm == "none"
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, *normalisation(norm, after, max(1, after // _GROUP))]


def _block(before: int, after: int, stride: int, norm: Norm) -> list[nn.Module]:
    first, second = (
        _convolution(before, after, 3, stride, norm),
        _convolution(after, after, 3, 1, norm),
    )
    body = nn.Sequential(*first, nn.ReLU(), *second)
    same = before == after and stride == 1
    shortcut = (
        None if same else nn.Sequential(*_convolution(before, after, 1, stride, norm))
    )
    return [Residual(body, shortcut), nn.ReLU()]


@plugin("model", inputs="numbers")
def mlp(
    input_shape: tuple[int, ...], outputs: int, *, hidden: tuple[Count, ...] = (128, 128)
) -> nn.Module:
    """Flatten the input, then fully connected layers of the widths ``hidden`` with
    ReLU between.

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        hidden: Widths of the hidden layers.
    """
    widths = [prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


@plugin("model", inputs="numbers")
def cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    channels: tuple[Count, ...] = (16, 32),
    norm: Norm = "none",
) -> nn.Module:
    """3x3 convolutions of the widths ``channels``, each followed by ReLU and 2x2
    max-pooling.

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        channels: Channels of the convolutions.
        norm: Normalisation by name.
    """
    check_images("cnn", input_shape)
    layers: list[nn.Module] = []
    for before, after in pairwise([input_shape[0], *channels]):
        layers += [
            nn.Conv2d(before, after, 3, padding=1),
            *normalisation(norm, after),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(2)]
    shrink = 2 ** len(channels)
    size = channels[-1] * (input_shape[1] // shrink) * (input_shape[2] // shrink)
    if size == 0:
        raise ConfigError(
            f"model 'cnn': {len(channels)} poolings leave nothing of {list(input_shape)} images; "
            "give fewer channels."
        )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, outputs))


@plugin("model", inputs="numbers", example="resnet18(width=4)")
def resnet18(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 64,
    norm: Literal["batch", "group"] = "batch",
) -> nn.Module:
    """ResNet-18 with the stem for small images: four stages of two blocks,
    ``width`` x 1, 2, 4, 8.

    One 3x3 convolution and no pooling before the stages; group normalisation has 16
    channels to a group. (He, Zhang, Ren & Sun, "Deep residual learning for image
    recognition", 2016.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        width: Channels of the first stage.
        norm: Normalisation by name.
    """
    widths = [width, 2 * width, 4 * width, 8 * width]
    return resnet("resnet18", input_shape, outputs, widths, 2, norm)


@plugin("model", inputs="numbers", example="resnet20(width=4)")
def resnet20(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    norm: Literal["batch", "group"] = "batch",
) -> nn.Module:
    """ResNet-20 for small images: three stages of three blocks, ``width`` x 1, 2,
    4.

    Where the shape changes the shortcut is a 1x1 convolution, not zeros as in
    section 4.2 of the paper. Group normalisation has 16 channels to a group. (He,
    Zhang, Ren & Sun, 2016.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        width: Channels of the first stage.
        norm: Normalisation by name.
    """
    return resnet(
        "resnet20", input_shape, outputs, [width, 2 * width, 4 * width], 3, norm
    )
