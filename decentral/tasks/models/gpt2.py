"""GPT-2 of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from decentral.registry import Count, plugin
from decentral.tasks.models._hub import causal_model


@plugin("model", inputs="tokens", example="gpt2(layers=1, width=16, heads=2)")
def gpt2(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 12,
    width: Count = 768,
    heads: Count = 12,
    config: dict[str, Any] | None = None,
) -> nn.Module:
    """GPT-2 as in transformers (``[lm]`` extra), by default the small one; weights drawn anew.

    ``config`` holds further keys of ``GPT2Config``; dropout is 0 unless it says otherwise.
    (Radford et al., "Language models are unsupervised multitask learners", 2019.)
    """
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return causal_model(
        "GPT2", config, input_shape, vocab_size=outputs, n_layer=layers, n_embd=width,
        n_head=heads, n_positions=input_shape[0], **still,
    )  # fmt: skip
