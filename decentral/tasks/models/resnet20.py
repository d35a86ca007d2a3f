"""ResNet-20, the small one for CIFAR."""

from __future__ import annotations

from typing import Literal

from torch import nn

from decentral.registry import Count, plugin
from decentral.tasks.models._resnet import resnet


@plugin("model", inputs="numbers", example="resnet20(width=4)")
def resnet20(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    norm: Literal["batch", "group"] = "batch",
) -> nn.Module:
    """ResNet-20 for small images: three stages of three blocks, ``width`` x 1, 2, 4.

    Where the shape changes the shortcut is a 1x1 convolution, not zeros as in section 4.2 of the
    paper. Group normalisation has 16 channels to a group. (He, Zhang, Ren & Sun, 2016.)
    """
    return resnet("resnet20", input_shape, outputs, [width, 2 * width, 4 * width], 3, norm)
