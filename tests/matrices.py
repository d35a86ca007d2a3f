"""What the tests of matrix optimizers share: a small model of matrices, and drawn gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Optimizer = torch.optim.Optimizer
Maker = Callable[[list[tuple[str, nn.Parameter]]], Optimizer]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_spectrum(values: Tensor, rows: int, cols: int, seed: int = 0) -> Tensor:
    """Return a matrix of random directions with these singular values."""
    left, _ = torch.linalg.qr(drawn(rows, len(values), seed=seed))
    right, _ = torch.linalg.qr(drawn(cols, len(values), seed=seed + 1))
    return left @ values.diag() @ right.T


SHAPES = {
    "mlp.fc1.weight": (24, 16), "mlp.fc2.weight": (16, 24), "norm.weight": (16,),
    "embed.weight": (20, 16), "q_proj.weight": (16, 16), "k_proj.weight": (16, 16),
}  # fmt: skip


def model(dtype: torch.dtype = torch.float64) -> list[tuple[str, nn.Parameter]]:
    return [
        (name, nn.Parameter(0.1 * drawn(*shape, seed=place, dtype=dtype)))
        for place, (name, shape) in enumerate(SHAPES.items())
    ]


def gradients(step: int, dtype: torch.dtype = torch.float64) -> Iterator[Tensor]:
    for place, shape in enumerate(SHAPES.values()):
        yield drawn(*shape, seed=1000 * step + place + 1, dtype=dtype)


def after(
    make: Maker, steps: int = 20, dtype: torch.dtype = torch.float64
) -> dict[str, nn.Parameter]:
    """Train the model on drawn gradients, the learning rate halving on the way."""
    named = model(dtype)
    optimizer = make(named)
    for step in range(steps):
        for (_, parameter), grad in zip(named, gradients(step, dtype), strict=True):
            parameter.grad = grad
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5 ** (step / steps)
        optimizer.step()
    return dict(named)


def matrices(named: list[tuple[str, nn.Parameter]]) -> list[nn.Parameter]:
    return [p for name, p in named if p.dim() == 2 and "embed" not in name]


def assert_same(
    found: dict[str, Any], wanted: dict[str, Any], **tolerance: float
) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], **tolerance, msg=name)
