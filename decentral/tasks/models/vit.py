"""A small vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.registry import Count, plugin
from decentral.tasks.models._images import check_images
from decentral.tasks.models._transformer import INIT, Layer, Plain, check_heads


class ViT(nn.Module):
    """Images [B, C, H, W] to class scores [B, outputs], from the mean over their patches."""

    def __init__(
        self, layers: list[Layer], channels: int, patch: int, patches: int, outputs: int
    ) -> None:
        """Put patches and places below the layers, and a head above."""
        super().__init__()
        width = layers[0].width
        self.embed_patches = nn.Conv2d(channels, width, patch, patch)
        self.embed_positions = nn.Parameter(INIT * torch.randn(patches, width))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return one score per class."""
        patches = self.embed_patches(images).flatten(-2).transpose(-2, -1)
        x = self.layers(patches + self.embed_positions)
        return self.lm_head(self.norm(x).mean(-2))


@plugin("model", inputs="numbers", example="vit(layers=1, width=16, heads=2)")
def vit(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 4,
    width: Count = 128,
    heads: Count = 4,
    patch: Count = 4,
) -> nn.Module:
    """Small vision transformer on patches of ``patch`` x ``patch`` pixels, learned positions.

    Classifies the mean over patches instead of a token of its own. (Dosovitskiy et al., "An image
    is worth 16x16 words", 2021; Beyer, Zhai & Kolesnikov, "Better plain ViT baselines", 2022.)
    """
    check_images("vit", input_shape)
    check_heads("vit", width, heads)
    channels, height, breadth = input_shape
    if height % patch or breadth % patch:
        raise ConfigError(
            f"model 'vit': images of {height}x{breadth} are no whole number of patches of {patch}; "
            "give a patch that divides both."
        )
    stack = [Layer(width, heads, nn.LayerNorm, Plain, causal=False) for _ in range(layers)]
    return ViT(stack, channels, patch, height * breadth // patch**2, outputs)
