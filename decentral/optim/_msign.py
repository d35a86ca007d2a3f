"""The sign of a matrix: all singular values become 1, by Newton-Schulz, many matrices at once."""

from __future__ import annotations

from itertools import chain, islice, repeat
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["quintic", "polar"]
Precision = Literal["same", "bfloat16"]

#: One iteration X <- a X + (b A + c A A) X with A = X X^T, again and again (Jordan, "Muon", 2024);
#: X <- a X + X (b A + c A A) with A = X^T X where that is smaller.
_QUINTIC = (3.4445, -4.7750, 2.0315)

#: Coefficients that change from one iteration to the next ("polar express", Amsel et al., 2025), to
#: the digits of Zhu et al., "LITE", 2026. All but the last are damped, see below.
_POLAR = (
    (8.28721, -23.59589, 17.30039),
    (4.10706, -2.94785, 0.54484),
    (3.94869, -2.90890, 0.55182),
    (3.31842, -2.48849, 0.51005),
    (2.30065, -1.66890, 0.41881),
    (1.89130, -1.26800, 0.37680),
    (1.87500, -1.25000, 0.37500),
)
_POLAR_LAST = (1.875, -1.25, 0.375)
_DAMPING = 1.01

_Coefficients = tuple[float, float, float]


def msign(
    matrices: Tensor, steps: int, kind: Kind = "quintic", precision: Precision = "same"
) -> Tensor:
    """Return X Y^T for each of the matrices X diag(s) Y^T in [m, rows, cols].

    ``quintic`` comes near (singular values between about 0.7 and 1.2) in 5 steps, ``polar`` nearer
    in 6. What happens to one matrix does not depend on the others.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16) if precision == "bfloat16" else matrices
    norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    x = x / (norms.clamp(min=1e-7) if kind == "quintic" else _DAMPING * norms + 1e-8)
    for a, b, c in islice(_coefficients(kind), steps):
        gram = torch.bmm(x.transpose(1, 2), x) if tall else torch.bmm(x, x.transpose(1, 2))
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        left, right = (x, factor) if tall else (factor, x)
        x = torch.baddbmm(x, left, right, beta=a)
    return x.to(matrices.dtype)


def _coefficients(kind: Kind) -> chain[_Coefficients] | repeat[_Coefficients]:
    if kind == "quintic":
        return repeat(_QUINTIC)
    damped = ((a / _DAMPING, b / _DAMPING**3, c / _DAMPING**5) for a, b, c in _POLAR)
    return chain(damped, repeat(_POLAR_LAST))
