"""What tells the features of two dates apart."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn

from decentral.tasks.models._transformer import INIT, Plain, attended


class Attend(nn.Module):
    """Attention of queries to keys, with projections of their own."""

    def __init__(self, width: int, heads: int) -> None:
        """Divide ``width`` among ``heads``."""
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width) for _ in range(4)
        )
        for project in (self.q_proj, self.k_proj, self.v_proj):  # as torch's own attention does
            nn.init.xavier_uniform_(project.weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v, projected, [B, Q, D], for keys [B, K, D]."""
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        return self.o_proj(attended(q, k, v, self.heads, causal))


def sines(side: int, width: int) -> Tensor:
    """Return places on a grid of side x side as sines and cosines, [side^2, width]."""
    rate = torch.exp(-log(100.0) * torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * rate
    line = torch.cat([angle.sin(), angle.cos()], 1)  # [side, width / 2]
    y, x = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([y, x], 2).flatten(0, 1)


class Difference(nn.Module):
    """The change feature dF = W' [A g(A,B); B g(B,A); A g(A,B) - B g(B,A)]."""

    def __init__(self, width: int) -> None:
        """Draw the gate g(X, Y) = sigmoid(W [X; Y] + c) and the projection W'."""
        super().__init__()
        self.gate, self.project = nn.Linear(2 * width, width), nn.Linear(3 * width, width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the change feature [B, N, D] of the features [B, N, D] of both dates."""
        one = a * self.gate(torch.cat([a, b], -1)).sigmoid()
        two = b * self.gate(torch.cat([b, a], -1)).sigmoid()
        return self.project(torch.cat([one, two, one - two], -1))


class TwoWay(nn.Module):
    """A change feature looks at itself and at both dates, and they look at it."""

    def __init__(self, width: int, heads: int) -> None:
        """Draw the block."""
        super().__init__()
        self.own, self.across, self.back = (Attend(width, heads) for _ in range(3))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.mlp = Plain(width)

    def forward(
        self, q: Tensor, a: Tensor, b: Tensor, place: Tensor, flags: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the refined change and dates, [B, N, D] each; ``flags`` [3, D] of A, B, change."""
        spot = q + place
        q = self.norms[0](q + self.own(spot, spot, q))
        marked = q + place + flags[2]
        seen = [a + place + flags[0], b + place + flags[1]]
        keys = torch.cat([*seen, marked], -2)
        q = self.norms[1](q + self.across(marked, keys, torch.cat([a, b, q], -2)))
        q = self.norms[2](q + self.mlp(q))
        told = q + place + flags[2]
        a, b = (
            look + self.back(look, torch.cat([look, told], -2), torch.cat([own, q], -2))
            for look, own in zip(seen, (a, b), strict=True)
        )
        return q, a, b


class DifferenceAware(nn.Module):
    """The difference-aware module of CCExpert (arXiv 2411.11360, 2024), for one level of features.

    Its gate over levels is 1 here.
    """

    def __init__(self, width: int, heads: int, depth: int = 2) -> None:
        """Draw ``depth`` two-way blocks and the extractor that they share."""
        super().__init__()
        self.difference = Difference(width)
        self.blocks = nn.ModuleList([TwoWay(width, heads) for _ in range(depth)])
        self.flags = nn.Parameter(INIT * torch.randn(3, width))

    def forward(self, a: Tensor, b: Tensor, place: Tensor) -> Tensor:
        """Return the refined features of both dates plus the raw ones, [B, 2 N, D]."""
        first, second = a, b
        q = torch.zeros_like(a)
        for block in self.blocks:
            q, a, b = block(q + self.difference(a, b), a, b, place, self.flags)
        return torch.cat([a + first, b + second], -2)


class Beside(nn.Module):
    """Both dates side by side, [A; B], and with ``difference`` B - A as well."""

    def __init__(self, width: int, difference: bool) -> None:
        """Draw a flag for each part."""
        super().__init__()
        self.difference = difference
        self.flags = nn.Parameter(INIT * torch.randn(3 if difference else 2, width))

    def forward(self, a: Tensor, b: Tensor, place: Tensor) -> Tensor:
        """Return features with places and flags, [B, 2 N or 3 N, D]."""
        parts = [a, b, b - a] if self.difference else [a, b]
        return torch.cat([p + place + flag for p, flag in zip(parts, self.flags, strict=True)], -2)
