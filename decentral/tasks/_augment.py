"""What a model sees of stored images: standardised pixels, cropped and flipped in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from decentral.gradients.draws import hashed


@dataclass(frozen=True)
class Pixels:
    """Bytes [..., C, H, W] as floats of mean 0 and deviation 1 in every channel.

    In training every image is moved by up to ``shift`` pixels in both directions, what enters being
    black, and mirrored with probability 1/2 if ``flip``: pure functions of its key, for the images
    of all nodes at once.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shift: int = 0
    flip: bool = False

    def __call__(self, inputs: Tensor, keys: Tensor | None) -> Tensor:
        """Return (x / 255 - mean) / deviation of the images, augmented if keys [...] are given."""
        if keys is not None and (self.shift or self.flip):
            images = self._augmented(inputs.flatten(0, -4), keys.flatten())
            inputs = images.view(inputs.shape)
        mean, deviation = (
            torch.tensor(part, device=inputs.device).mul(255).view(-1, 1, 1)
            for part in (self.mean, self.deviation)
        )
        return (inputs - mean) / deviation

    def _augmented(self, images: Tensor, keys: Tensor) -> Tensor:
        """Move and mirror images [M, C, H, W]."""
        height, width = images.shape[-2:]
        bits, moves = hashed(keys), 2 * self.shift + 1
        down, right = (bits >> 1) % moves, (bits >> 32) % moves
        rows = down.unsqueeze(1) + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(len(keys), width)
        if self.flip:
            columns = torch.where((bits & 1).bool().unsqueeze(1), columns.flip(1), columns)
        columns = columns + right.unsqueeze(1)
        padded = pad(images, [self.shift] * 4).permute(0, 2, 3, 1)
        each = torch.arange(len(keys), device=images.device).view(-1, 1, 1)
        return padded[each, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
