"""Cosine decay."""

from __future__ import annotations

from math import cos, pi

from decentral.registry import Share, plugin
from decentral.schedules import Progress


@plugin("learning_rate")
def cosine(progress: Progress, *, floor: Share = 0.0) -> float:
    """Decay to ``floor`` times the peak on half a cosine wave (Loshchilov & Hutter, 2017)."""
    return floor + (1 - floor) * (1 + cos(pi * progress.fraction)) / 2
