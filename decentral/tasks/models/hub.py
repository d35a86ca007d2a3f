"""Language models of the transformers library, built from their configurations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decentral.blame import library
from decentral.errors import ConfigError, install_command
from decentral.private import is_transformed
from decentral.registry import Count, plugin


class Scores(nn.Module):
    """A causal language model of transformers as a function from tokens to scores."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap ``model``; its parameters keep their names behind ``model.``."""
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of the next token, [B, T, V]."""
        return self.model(input_ids=tokens, use_cache=False).logits


def causal_model(
    family: str, config: dict[str, Any] | None, input_shape: tuple[int, ...], **given: Any
) -> nn.Module:
    """Build a model with weights drawn anew; ``config`` wins over ``given``.

    ``family`` is how transformers calls it: ``Llama`` for LlamaConfig and
    LlamaForCausalLM.
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"this model comes from transformers: {install_command('lm')}."
        ) from error
    settings: dict[str, Any] = {**given, "use_cache": False, **(config or {})}
    # Their defaults are tokens of a large vocabulary, which the task's may not
    # have.
    lowest = {k: None for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with library("model", family):
        chosen = getattr(transformers, f"{family}Config")(**lowest | settings)
    if (most := chosen.max_position_embeddings) < input_shape[0]:
        raise ConfigError(
            f"model: {family} of {most} positions cannot read {input_shape[0]} tokens; raise "
            "max_position_embeddings, or lower the task's context."
        )
    kind = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    with library("model", family):
        return Scores(getattr(transformers, kind)(chosen))


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
    """GPT-2 as in transformers (``[lm]`` extra), by default the small one; weights
    drawn anew.

    ``config`` holds further keys of ``GPT2Config``; dropout is 0 unless it says
    otherwise. (Radford et al., "Language models are unsupervised multitask
    learners", 2019.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        layers: Number of layers.
        width: Width of the model.
        heads: Heads of every attention.
        config: Further keys of the configuration of transformers.
    """
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return causal_model(
        "GPT2", config, input_shape, vocab_size=outputs, n_layer=layers, n_embd=width,
        n_head=heads, n_positions=input_shape[0], **still,
    )  # fmt: skip


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

    ``inside`` is the width of the feed-forward part (none: 8/3 of ``width``);
    ``config`` holds further keys of ``LlamaConfig``. (Touvron et al., "LLaMA",
    2023.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        layers: Number of layers.
        width: Width of the model.
        heads: Heads of every attention.
        inside: Width of the feed-forward part; none: 8/3 of ``width``.
        config: Further keys of the configuration of transformers.
    """
    return causal_model(
        "Llama", config, input_shape, vocab_size=outputs, num_hidden_layers=layers,
        hidden_size=width, num_attention_heads=heads, intermediate_size=inside or 8 * width // 3,
        max_position_embeddings=input_shape[0],
    )  # fmt: skip


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
    """Qwen2-MoE as in transformers (``[lm]`` extra): every token goes to ``chosen``
    of ``experts``.

    ``inside`` is the width of an expert (none: that of the model); ``config`` holds
    further keys of ``Qwen2MoeConfig``. The loss has no term that balances the load
    of the experts. (Yang et al., "Qwen2 technical report", 2024.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        layers: Number of layers.
        width: Width of the model.
        heads: Heads of every attention.
        inside: Width of an expert; none: ``width``.
        experts: Experts of a layer.
        chosen: Experts that a token goes to.
        config: Further keys of the configuration of transformers.
    """
    wide = inside or width
    return causal_model(
        "Qwen2Moe", config, input_shape, vocab_size=outputs, num_hidden_layers=layers,
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads,
        intermediate_size=wide, moe_intermediate_size=wide, shared_expert_intermediate_size=wide,
        num_experts=experts, num_experts_per_tok=min(chosen, experts),
        max_position_embeddings=input_shape[0], experts_implementation=_by_rows(),
    )  # fmt: skip


def _by_rows() -> str:
    """Return what transformers is to call the product of experts that suits how rows
    are computed.
    """
    try:
        from transformers.integrations import (  # pyright: ignore[reportMissingImports]
            moe,
        )
    except ImportError:  # said by whoever builds the model
        return "batched_mm"
    name = "decentral"
    if name not in moe.ALL_EXPERTS_FUNCTIONS:

        def experts(module: Any, hidden: Tensor, *chosen: Any) -> Tensor:
            # The second sorts tokens by their experts and is sixteen times as fast on
            # a CPU, but vmap does not know it, nor it double precision.
            slow = is_transformed() or hidden.dtype == torch.float64
            rule = (
                moe.batched_mm_experts_forward if slow else moe.grouped_mm_experts_forward
            )
            return rule(module, hidden, *chosen)

        moe.ALL_EXPERTS_FUNCTIONS.register(name, experts)
    return name
