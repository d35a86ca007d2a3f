"""LLaMA of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from decentral.registry import Count, plugin
from decentral.tasks.models._hub import causal_model


@plugin(
    "model",
    inputs="tokens",
    single=True,
    example="llama(layers=1, width=16, heads=2)",
)
def llama(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 12,
    width: Count = 768,
    heads: Count = 12,
    inside: Count | None = None,
    config: dict[str, Any] | None = None,
) -> nn.Module:
    """LLaMA as in transformers (``[lm]`` extra), weights drawn anew.

    ``inside`` is the width of the feed-forward part (none: 8/3 of ``width``); ``config`` holds
    further keys of ``LlamaConfig``. (Touvron et al., "LLaMA", 2023.)
    """
    return causal_model(
        "Llama", config, input_shape, vocab_size=outputs, num_hidden_layers=layers,
        hidden_size=width, num_attention_heads=heads, intermediate_size=inside or 8 * width // 3,
        max_position_embeddings=input_shape[0],
    )  # fmt: skip
