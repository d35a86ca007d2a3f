"""Qwen2-MoE of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from decentral.registry import Count, plugin
from decentral.tasks.models._hub import causal_model


@plugin(
    "model",
    inputs="tokens",
    single=True,
    example="qwen2_moe(layers=1, width=16, heads=2, inside=8)",
)
def qwen2_moe(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 4,
    width: Count = 256,
    heads: Count = 4,
    inside: Count | None = None,
    experts: Count = 4,
    chosen: Count = 2,
    config: dict[str, Any] | None = None,
) -> nn.Module:
    """Qwen2-MoE as in transformers (``[lm]`` extra): every token goes to ``chosen`` of ``experts``.

    ``inside`` is the width of an expert (none: that of the model); ``config`` holds further keys of
    ``Qwen2MoeConfig``. The loss has no term that balances the load of the experts. (Yang et al.,
    "Qwen2 technical report", 2024.)
    """
    wide = inside or width
    return causal_model(
        "Qwen2Moe", config, input_shape, vocab_size=outputs, num_hidden_layers=layers,
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads,
        intermediate_size=wide, moe_intermediate_size=wide, shared_expert_intermediate_size=wide,
        num_experts=experts, num_experts_per_tok=min(chosen, experts),
        max_position_embeddings=input_shape[0], experts_implementation="batched_mm",
    )  # fmt: skip
