"""What models of images share."""

from __future__ import annotations

from typing import Literal

from torch import nn

from decentral.errors import ConfigError

Norm = Literal["none", "batch", "group"]


def check_images(name: str, input_shape: tuple[int, ...]) -> None:
    """Refuse inputs that are no images."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"model {name!r} needs images [channels, height, width]; the task's inputs have shape "
            f"{list(input_shape)}. Use model: mlp."
        )


def normalisation(kind: Norm, channels: int, groups: int = 1) -> list[nn.Module]:
    """Return the layer that normalises ``channels``, if there is one."""
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(groups, channels)] if kind == "group" else []
