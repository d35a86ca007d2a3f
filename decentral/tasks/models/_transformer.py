"""Layers of transformers; parameters are called as in LLaMA."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from decentral.errors import ConfigError

#: Standard deviation of the first weights of embeddings.
INIT = 0.02


def check_heads(model: str, width: int, heads: int) -> None:
    """Refuse a width that does not divide among the heads."""
    if width % heads:
        raise ConfigError(
            f"model {model!r}: width = {width} does not divide among heads = {heads}; "
            "make it a multiple."
        )


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v of every head, [B, Q, D], for keys and values [B, K, D]."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(-3, -2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(-3, -2).flatten(-2)


class Attention(nn.Module):
    """Self-attention with separate projections; causal: nobody looks ahead."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        """Divide ``width`` among ``heads``."""
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v, projected, for x [B, T, D]."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(attended(q, k, v, self.heads, self.causal))


class Gated(nn.Module):
    """The feed-forward part with a gate: down(silu(gate(x)) up(x))."""

    def __init__(self, width: int) -> None:
        """Take 8/3 of ``width`` inside, which is as many weights as 4 without a gate."""
        super().__init__()
        inside = 8 * width // 3
        self.gate_proj = nn.Linear(width, inside, bias=False)
        self.up_proj = nn.Linear(width, inside, bias=False)
        self.down_proj = nn.Linear(inside, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every position of x [B, T, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Plain(nn.Module):
    """The feed-forward part without a gate: down(gelu(up(x)))."""

    def __init__(self, width: int) -> None:
        """Take four times ``width`` inside."""
        super().__init__()
        self.up_proj = nn.Linear(width, 4 * width, bias=False)
        self.down_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every position of x [B, T, D]."""
        return self.down_proj(F.gelu(self.up_proj(x)))


class Layer(nn.Module):
    """Attention and a feed-forward part, each on normalised input and added to it."""

    def __init__(
        self, width: int, heads: int, norm: type[nn.Module], mlp: type[nn.Module], *, causal: bool
    ) -> None:
        """Build one layer."""
        super().__init__()
        self.width = width
        self.input_layernorm = norm(width)
        self.self_attn = Attention(width, heads, causal)
        self.post_attention_layernorm = norm(width)
        self.mlp = mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + attention + feed-forward, [B, T, D]."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))
