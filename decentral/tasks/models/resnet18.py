"""ResNet-18 for small images."""

from __future__ import annotations

from typing import Literal

from torch import nn

from decentral.registry import Count, plugin
from decentral.tasks.models._resnet import resnet


@plugin("model", inputs="numbers", example="resnet18(width=4)")
def resnet18(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 64,
    norm: Literal["batch", "group"] = "batch",
) -> nn.Module:
    """ResNet-18 with the stem for small images: four stages of two blocks, ``width`` x 1, 2, 4, 8.

    One 3x3 convolution and no pooling before the stages; group normalisation has 16 channels to a
    group. (He, Zhang, Ren & Sun, "Deep residual learning for image recognition", 2016.)
    """
    widths = [width, 2 * width, 4 * width, 8 * width]
    return resnet("resnet18", input_shape, outputs, widths, 2, norm)
