"""A residual connection as a module that gradients know how to compute for all rows."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """y = body(x) + shortcut(x); the shortcut passes x through unless one is given.

    >>> import torch
    >>> Residual(nn.Sequential(nn.ReLU()))(torch.tensor([-1.0, 2.0]))
    tensor([-1.,  4.])
    """

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential | None = None) -> None:
        """Add what ``shortcut`` makes of x to what ``body`` makes of it."""
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return body(x) + shortcut(x)."""
        return self.body(x) + self.shortcut(x)
