"""A small decoder-only transformer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from decentral.registry import Count, plugin
from decentral.tasks.models._transformer import INIT, Gated, Layer, Plain, check_heads


class GPT(nn.Module):
    """Tokens [B, T] to the scores of what follows each, [B, T, V]."""

    def __init__(self, layers: list[Layer], norm: nn.Module, context: int, tokens: int) -> None:
        """Put embeddings below the layers and a head above."""
        super().__init__()
        width = layers[0].width
        self.embed_tokens = nn.Embedding(tokens, width)
        self.embed_positions = nn.Embedding(context, width)
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.lm_head = nn.Linear(width, tokens, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of the next token at every position."""
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.embed_tokens(tokens) + self.embed_positions(places)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


_NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}
_MLPS = {"swiglu": Gated, "gelu": Plain}


@plugin("model", inputs="tokens", example="gpt(layers=1, width=16, heads=2)")
def gpt(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 2,
    width: Count = 64,
    heads: Count = 4,
    norm: Literal["rms", "layer"] = "rms",
    activation: Literal["swiglu", "gelu"] = "swiglu",
    tied: bool = False,
) -> nn.Module:
    """Decoder-only transformer of ``layers`` layers on the tokens of the task's context.

    Learned positions, no biases, weights drawn from N(0, 0.02^2); parameters are called as in
    LLaMA. ``tied`` lets the head share the weights of the embedding. (Radford et al., "Language
    models are unsupervised multitask learners", 2019; Touvron et al., "LLaMA", 2023.)
    """
    check_heads("gpt", width, heads)
    context, kind = input_shape[0], _NORMS[norm]
    stack = [Layer(width, heads, kind, _MLPS[activation], causal=True) for _ in range(layers)]
    model = GPT(stack, kind(width), context, outputs)
    if tied:
        model.lm_head.weight = model.embed_tokens.weight
    return model
