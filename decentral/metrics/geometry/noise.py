"""The gradient noise scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """``signal`` estimates |G|^2 of the true gradient G, ``noise`` the trace of its covariance.

    ``scale`` = noise / signal is the batch, in samples, at which both are equally large: larger
    batches mostly repeat what is known. None where the signal is lost in the noise.
    """

    signal: float
    noise: float

    @property
    def scale(self) -> float | None:
        """The simple noise scale tr(S) / |G|^2, in samples."""
        return self.noise / self.signal if self.signal > 0 else None


def noise_scale(gradients: Iterable[Tensor], batch: int) -> Noise:
    """Estimate signal and noise from the gradients [P] of k >= 2 independent batches of one size.

    With the small batch b, the large one B = k b whose gradient is the mean, and their mean squared
    norms s and S: |G|^2 = (B S - b s) / (B - b) and tr = (s - S) / (1/b - 1/B), both unbiased.
    (McCandlish et al., "An empirical model of large-batch training", 2018, appendix A.1.)
    """
    norms: list[float] = []
    total = torch.zeros((), dtype=torch.float64)
    for gradient in gradients:
        norms.append(gradient.square().sum(dtype=torch.float64).item())
        total = total.to(gradient.device) + gradient.double()
    small, large = batch, batch * len(norms)
    norm_small = sum(norms) / len(norms)
    norm_large = (total / len(norms)).square().sum().item()
    signal = (large * norm_large - small * norm_small) / (large - small)
    return Noise(signal, (norm_small - norm_large) / (1 / small - 1 / large))
