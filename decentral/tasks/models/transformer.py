"""Transformers: what they share, a language model and a vision transformer; and how
each of their parts is computed for all rows at once.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decentral.errors import ConfigError
from decentral.gradients.kernels import Op, Views, join, op_of, stacks
from decentral.registry import Count, plugin
from decentral.tasks.models.base import check_heads, check_images

#: Standard deviation of the first weights of embeddings.
INIT = 0.02


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v of every head, [B, Q, D], for keys and
    values [B, K, D].

    Args:
        q: Queries, [B, Q, D].
        k: Keys, [B, K, D].
        v: Values, [B, K, D].
        heads: Number of heads.
        causal: Whether a query sees no later key.
    """
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
        return self.o_proj(attend(q, k, v, self.heads, self.causal))


class Gated(nn.Module):
    """The feed-forward part with a gate: down(silu(gate(x)) up(x))."""

    def __init__(self, width: int) -> None:
        """Take 8/3 of ``width`` inside, which is as many weights as 4 without a
        gate.
        """
        super().__init__()
        # Three matrices of 8/3 weigh as much as two of 4.
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
        self,
        width: int,
        heads: int,
        norm: type[nn.Module],
        mlp: type[nn.Module],
        *,
        causal: bool,
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


class GPT(nn.Module):
    """Tokens [B, T] to the scores of what follows each, [B, T, V]."""

    def __init__(
        self, layers: list[Layer], norm: nn.Module, context: int, tokens: int
    ) -> None:
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
    """Decoder-only transformer of ``layers`` layers on the tokens of the task's
    context.

    Learned positions, no biases, weights drawn from N(0, 0.02^2); parameters are
    called as in LLaMA. ``tied`` lets the head share the weights of the embedding.
    (Radford et al., "Language models are unsupervised multitask learners", 2019;
    Touvron et al., "LLaMA", 2023.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        layers: Number of layers.
        width: Width of the model.
        heads: Heads of every attention.
        norm: Normalisation by name.
        activation: Activation of the feed-forward part.
        tied: Whether head and embedding share their weights.
    """
    check_heads("gpt", width, heads)
    context, kind = input_shape[0], _NORMS[norm]
    stack = [
        Layer(width, heads, kind, _MLPS[activation], causal=True) for _ in range(layers)
    ]
    model = GPT(stack, kind(width), context, outputs)
    if tied:
        # After both were drawn: the head takes the weights of the embedding.
        model.lm_head.weight = model.embed_tokens.weight
    return model


class ViT(nn.Module):
    """Images [B, C, H, W] to class scores [B, outputs], from the mean over their
    patches.
    """

    def __init__(
        self, layers: list[Layer], channels: int, patch: int, patches: int, outputs: int
    ) -> None:
        """Put patches and places below the layers, and a head above."""
        super().__init__()
        width = layers[0].width
        self.embed_patches = nn.Conv2d(channels, width, patch, patch)
        self.embed_positions = nn.Parameter(INIT * torch.randn(patches, width))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return one score per class."""
        patches = self.embed_patches(images).flatten(-2).transpose(-2, -1)
        x = self.layers(patches + self.embed_positions)
        return self.lm_head(self.norm(x).mean(-2))


@plugin("model", inputs="numbers", example="vit(layers=1, width=16, heads=2)")
def vit(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 4,
    width: Count = 128,
    heads: Count = 4,
    patch: Count = 4,
) -> nn.Module:
    """Small vision transformer on patches of ``patch`` x ``patch`` pixels, learned
    positions.

    Classifies the mean over patches instead of a token of its own. (Dosovitskiy et
    al., "An image is worth 16x16 words", 2021; Beyer, Zhai & Kolesnikov, "Better
    plain ViT baselines", 2022.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        layers: Number of layers.
        width: Width of the model.
        heads: Heads of every attention.
        patch: Side of a patch in pixels.
    """
    check_images("vit", input_shape)
    check_heads("vit", width, heads)
    channels, height, breadth = input_shape
    if height % patch or breadth % patch:
        raise ConfigError(
            f"model 'vit': images of {height}x{breadth} are no whole number of patches of {patch}; "
            "give a patch that divides both."
        )
    stack = [
        Layer(width, heads, nn.LayerNorm, Plain, causal=False) for _ in range(layers)
    ]
    return ViT(stack, channels, patch, height * breadth // patch**2, outputs)


# --- all rows at once -------------------------------------------------------------
#
# The same, for x [n, B, ...] and parameters [n, ...]: a part that somebody has put
# in another's place is looked up by what it is, and what is not known is left to vmap.


def _parts(name: str, module: nn.Module, *parts: str) -> list[Op] | None:
    """Return what computes some parts of a module, None where one is not known."""
    found = [op_of(join(name, part), module.get_submodule(part)) for part in parts]
    known = [op for op in found if op is not None]
    return known if len(known) == len(found) else None


@stacks(Attention)
def _stack_attention(name: str, module: Any) -> Op | None:
    parts = _parts(name, module, "q_proj", "k_proj", "v_proj", "o_proj")
    if parts is None:
        return None
    *project, out = parts

    def op(x: Tensor, values: Views) -> Tensor:
        # Rows side by side are a longer batch: nobody looks at another sample.
        q, k, v = (part(x, values).flatten(0, 1) for part in project)
        seen = attend(q, k, v, module.heads, module.causal)
        return out(seen.unflatten(0, x.shape[:2]), values)

    return op


@stacks(Gated)
def _stack_gated(name: str, module: Any) -> Op | None:
    parts = _parts(name, module, "gate_proj", "up_proj", "down_proj")
    if parts is None:
        return None
    gate, up, down = parts
    return lambda x, values: down(F.silu(gate(x, values)) * up(x, values), values)


@stacks(Plain)
def _stack_plain(name: str, module: Any) -> Op | None:
    parts = _parts(name, module, "up_proj", "down_proj")
    if parts is None:
        return None
    up, down = parts
    return lambda x, values: down(F.gelu(up(x, values)), values)


@stacks(Layer)
def _stack_layer(name: str, module: Any) -> Op | None:
    before, after = "input_layernorm", "post_attention_layernorm"
    parts = _parts(name, module, before, "self_attn", after, "mlp")
    if parts is None:
        return None
    first, look, second, mlp = parts

    def op(x: Tensor, values: Views) -> Tensor:
        x = x + look(first(x, values), values)
        return x + mlp(second(x, values), values)

    return op


@stacks(GPT)
def _stack_gpt(name: str, module: Any) -> Op | None:
    stack = [f"layers.{place}" for place in range(len(module.layers))]
    embeddings = "embed_tokens", "embed_positions"
    parts = _parts(name, module, *embeddings, *stack, "norm", "lm_head")
    if parts is None:
        return None
    tokens_at, positions_at, *rest = parts

    def op(x: Tensor, values: Views) -> Tensor:
        places = torch.arange(x.shape[-1], device=x.device).expand(x.shape[0], -1)
        y = tokens_at(x, values) + positions_at(places, values).unsqueeze(1)
        for part in rest:
            y = part(y, values)
        return y

    return op


@stacks(ViT)
def _stack_vit(name: str, module: Any) -> Op | None:
    stack = [f"layers.{place}" for place in range(len(module.layers))]
    parts = _parts(name, module, *stack, "norm", "lm_head")
    embed = _patches(join(name, "embed_patches"), module.embed_patches)
    if parts is None or embed is None:
        return None
    *layers, norm, head = parts

    def op(x: Tensor, values: Views) -> Tensor:
        y = embed(x, values) + values[join(name, "embed_positions")].unsqueeze(1)
        for layer in layers:
            y = layer(y, values)
        return head(norm(y, values).mean(-2), values)

    return op


def _patches(name: str, module: Any) -> Op | None:
    """Return the convolution of patches side by side, [n, B, patches, D], as a product:
    of a grouped one, bits depend on how many rows there are.
    """
    if type(module) is not nn.Conv2d or module.bias is None:
        return None
    size = module.kernel_size
    found = module.stride, module.padding, module.dilation, module.groups
    if found != (size, (0, 0), (1, 1), 1) or module.padding_mode != "zeros":
        return None

    def op(x: Tensor, values: Views) -> Tensor:
        tall, wide = size
        cut = x.unflatten(-1, (-1, wide)).unflatten(-3, (-1, tall))
        # [n, B, C, down, tall, across, wide] -> [n, B, down across, C tall wide]
        cut = cut.movedim((-4, -2), (2, 3)).flatten(2, 3).flatten(3)
        weight = values[join(name, "weight")].flatten(2)
        bias = values[join(name, "bias")].unsqueeze(1)
        y = torch.baddbmm(bias, cut.flatten(1, 2), weight.transpose(1, 2))
        return y.unflatten(1, cut.shape[1:3])

    return op
