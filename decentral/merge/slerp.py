"""Spherical interpolation."""

from __future__ import annotations

import torch
from torch import Tensor

from decentral.merge import Models
from decentral.registry import Share, plugin

#: Sine of an angle below which an arc is a straight line, to the last bits of float32.
_STRAIGHT = 1e-4


@plugin("merge", sees="models", nodes=2, ordered=True)
def slerp(models: Models, *, t: Share = 0.5) -> Tensor:
    """Go from the first of two models to the second along a great circle.

    x = (sin((1 - t) w) x_0 + sin(t w) x_1) / sin w with the angle w between the models. Where it is
    next to nothing, or half a turn, the straight line is taken. (Shoemake, "Animating rotation with
    quaternion curves", SIGGRAPH 1985.)
    """
    one, other = models.rows.double()
    cosine = (one @ other / (one.norm() * other.norm())).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if not torch.sin(angle) > _STRAIGHT:
        return torch.lerp(one, other, t).to(models.rows)
    parts = torch.sin((1 - t) * angle) * one + torch.sin(t * angle) * other
    return (parts / torch.sin(angle)).to(models.rows)
