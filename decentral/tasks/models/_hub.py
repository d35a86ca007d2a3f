"""Language models of the transformers library, built from a configuration, never downloaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from decentral.errors import ConfigError

INSTALL = "pip install -c constraints.txt -e '.[lm]'"


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

    ``family`` is how transformers calls it: ``Llama`` for LlamaConfig and LlamaForCausalLM.
    """
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"this model comes from transformers: {INSTALL}.") from error
    settings: dict[str, Any] = {**given, "use_cache": False, **(config or {})}
    lowest = {k: None for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    chosen = getattr(transformers, f"{family}Config")(**lowest | settings)
    if (most := chosen.max_position_embeddings) < input_shape[0]:
        raise ConfigError(
            f"model: {family} of {most} positions cannot read {input_shape[0]} tokens; raise "
            "max_position_embeddings, or lower the task's context."
        )
    kind = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    return Scores(getattr(transformers, kind)(chosen))
