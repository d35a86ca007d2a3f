"""What tells two dates apart in words: two images in, a caption out."""

from __future__ import annotations

from math import isqrt, log, pi
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu

from decentral.errors import ConfigError
from decentral.registry import Count, Location, plugin
from decentral.tasks.models.base import check_heads
from decentral.tasks.models.transformer import INIT, Layer, Plain, attend
from decentral.userfile import locate


class Attend(nn.Module):
    """Attention of queries to keys, with projections of their own."""

    def __init__(self, width: int, heads: int) -> None:
        """Divide ``width`` among ``heads``."""
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width) for _ in range(4)
        )
        # as torch's own attention does
        for project in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(project.weight)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool = False
    ) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v, projected, [B, Q, D], for keys [B, K,
        D].
        """
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        return self.o_proj(attend(q, k, v, self.heads, causal))


def sines(side: int, width: int) -> Tensor:
    """Return places on a grid of side x side as sines and cosines, [side^2, width]."""
    # Wavelengths from 2 pi to below 200 pi; 10,000, as for text, is more than a
    # grid needs.
    rate = torch.exp(-log(100.0) * torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * rate
    return _on_grid(torch.cat([angle.sin(), angle.cos()], 1))


def _on_grid(line: Tensor) -> Tensor:
    """Return the codes [S, width / 2] of a row and a column together, [S^2, width]."""
    y, x = line[:, None].expand(-1, len(line), -1), line.expand(len(line), -1, -1)
    return torch.cat([y, x], 2).flatten(0, 1)


class Difference(nn.Module):
    """The change feature dF = W' [A g(A,B); B g(B,A); A g(A,B) - B g(B,A)]."""

    def __init__(self, width: int) -> None:
        """Draw the gate g(X, Y) = sigmoid(W [X; Y] + c) and the projection W'."""
        super().__init__()
        self.gate, self.project = nn.Linear(2 * width, width), nn.Linear(3 * width, width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the change feature [B, N, D] of the features [B, N, D] of both
        dates.
        """
        one = a * self.gate(torch.cat([a, b], -1)).sigmoid()
        two = b * self.gate(torch.cat([b, a], -1)).sigmoid()
        return self.project(torch.cat([one, two, one - two], -1))


class TwoWay(nn.Module):
    """A change feature looks at itself and at both dates, and they look at it."""

    def __init__(self, width: int, heads: int, mlp: nn.Module | None = None) -> None:
        """Draw the block, with a feed-forward part of its own or one without biases."""
        super().__init__()
        self.own, self.across, self.back = (Attend(width, heads) for _ in range(3))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.mlp = Plain(width) if mlp is None else mlp

    def forward(
        self, q: Tensor, a: Tensor, b: Tensor, place: Tensor, flags: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the refined change and dates, [B, N, D] each; ``flags`` [3, D] of
        A, B, change.
        """
        spot = q + place
        # In each attention queries and keys bear places and flags, and values do
        # not: those say where to look, not what is seen.
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
    """The difference-aware module of CCExpert (arXiv 2411.11360, 2024), for one level of
    features.
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


def even_sines(side: int, width: int) -> Tensor:
    """Return places on a grid, [side^2, width], as CCExpert's code has them."""
    every = torch.arange(width // 2)
    rate = 10_000.0 ** -(2 * (every // 2) / (width // 2))
    spot = 2 * pi * (torch.arange(side) + 0.5) / side
    angle = spot[:, None] * rate
    return _on_grid(torch.where(every % 2 == 0, angle.sin(), angle.cos()))


def _mlp(inputs: int, inside: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, inside), nn.GELU(), nn.Linear(inside, outputs))


class CCExpert(nn.Module):
    """The same module as its authors' code has it (github.com/Meize0729/CCExpert).

    Features of several levels go through the same blocks, with flags of each block's
    own and biases throughout, and are weighed by a gate over levels; the raw features
    of the last are added.
    """

    def __init__(self, width: int, heads: int, side: int, depth: int = 2) -> None:
        """Draw ``depth`` blocks for grids of ``side``."""
        super().__init__()
        self.difference = Difference(width)
        wide = [(width, 4 * width, width) for _ in range(depth)]
        self.blocks = nn.ModuleList([TwoWay(width, heads, _mlp(*one)) for one in wide])
        self.flags = nn.Parameter(torch.randn(depth, 3, width))
        self.gate = _mlp(3 * width, width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT)
                nn.init.zeros_(module.bias)
        self.place: Tensor
        self.register_buffer("place", even_sines(side, width), persistent=False)

    def forward(self, a: Tensor, b: Tensor, place: Tensor) -> Tensor:
        """Return the refined features of both dates plus the raw ones, [B, 2 N, D], of
        features [B, levels N, D]; its places are its own.
        """
        # Levels are samples to the blocks: [B levels, N, D].
        size = len(self.place)
        x, y = (date.unflatten(-2, (-1, size)).flatten(0, 1) for date in (a, b))
        q = torch.zeros_like(x)
        for block, flags in zip(self.blocks, self.flags, strict=True):
            q, x, y = block(q + self.difference(x, y), x, y, self.place, flags)
        shape = (len(a), -1)
        weight = (
            self.gate(torch.cat([x, y, q], -1).mean(-2)).sigmoid().unflatten(0, shape)
        )
        weight = weight / (weight.sum(1, keepdim=True) + 1e-6)  # [B, levels, 1]
        x, y = ((z.unflatten(0, shape) * weight[..., None]).sum(1) for z in (x, y))
        return torch.cat([x + a[:, -size:], y + b[:, -size:]], -2)


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
        flagged = zip(parts, self.flags, strict=True)
        return torch.cat([p + place + flag for p, flag in flagged], -2)


#: Added to the spread of a colour: one that is the same everywhere stays small.
_FLAT = 0.05


@plugin(
    "model",
    inputs="image pairs with words",
    example="change_captioner(width=16, heads=2, layers=1)",
)
def change_captioner(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    fusion: Literal[
        "difference_aware", "difference", "concat", "ccexpert"
    ] = "difference_aware",
    levels: Count = 1,
    width: Count = 32,
    heads: Count = 4,
    layers: Count = 2,
    mixers: Annotated[int, Ge(0)] = 0,
    start: Location | None = None,
    train: Literal["all", "fusion"] = "all",
) -> nn.Module:
    """One small CNN for both images, a fusion of their features, and a transformer
    that speaks.

    Each colour of each image is standardised; three convolutions of stride 2 make
    (S/8)^2 tokens of ``width`` of each date. ``fusion``: ``difference_aware``
    (gated differences and two-way attention, after CCExpert), ``difference`` ([A;
    B; B - A]), ``concat`` ([A; B]) or ``ccexpert`` (the first as its authors' code
    has it, over ``levels`` of features), then ``mixers`` layers of self-attention, and
    a decoder of ``layers`` layers. It goes on from ``start``, the
    ``merged.safetensors`` of a run; a fusion of another kind or size is drawn anew.
    ``train: fusion`` leaves all else as it is. (Wang et al., "CCExpert: advancing
    MLLM capability in remote sensing change captioning", arXiv 2411.11360, 2024.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        fusion: How the features of both dates meet.
        levels: Levels of features, a convolution of stride 1 each after the first; all
            but ``ccexpert`` take the last.
        width: Width of tokens.
        heads: Heads of every attention.
        layers: Layers of the decoder.
        mixers: Layers of self-attention before it.
        start: File of weights to go on from.
        train: What is trained: ``all`` or ``fusion``.
    """
    check_heads("change_captioner", width, heads)
    if width % 4:
        raise ConfigError(
            f"model 'change_captioner': width = {width} is not a multiple of 4, as sines of places "
            f"need; use {4 * (width // 4 + 1)}."
        )
    side = isqrt(input_shape[0] // 6)  # of 6 S S + T with T below 6 (2 S + 1)
    if fusion == "ccexpert":
        fused: nn.Module = CCExpert(width, heads, -(-side // 8))
    elif fusion == "difference_aware":
        fused = DifferenceAware(width, heads)
    else:
        fused = Beside(width, fusion == "difference")
    mixed = [
        Layer(width, heads, nn.LayerNorm, Plain, causal=False) for _ in range(mixers)
    ]
    decoder = Decoder(width, heads, layers, input_shape[0] - 6 * side**2, outputs)
    model = Captioner(side, width, nn.ModuleList([fused, *mixed]), decoder, levels)
    if start is not None:
        _go_on(model, start)
    if train == "fusion":
        model.requires_grad_(False)
        model.fusion.requires_grad_(True)
    return model


def _go_on(model: Captioner, start: str) -> None:
    """Read what a file holds of the model: all of it, or all but a fusion that is
    another.
    """
    held, own = _read_tensors(start), model.state_dict()
    fusion, rest = (
        {name for name in own | held if name.startswith("fusion.") is inside}
        for inside in (True, False)
    )

    def same(names: set[str]) -> bool:
        both = own.keys() & held.keys()
        return all(n in both and own[n].shape == held[n].shape for n in names)

    if not same(rest):
        raise ConfigError(
            f"model 'change_captioner': start = {start} holds another encoder or decoder; give the "
            "merged.safetensors of a run with the same width, layers and size of images."
        )
    taken = rest | fusion if same(fusion) else rest
    # Not strict, as a fusion of another kind keeps the weights just drawn for it.
    model.load_state_dict({name: held[name] for name in taken}, strict=False, assign=True)


def _read_tensors(start: str) -> dict[str, Tensor]:
    """Return the tensors in a file."""
    try:
        return load_file(locate(start))
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"model 'change_captioner': start = {start} cannot be read as safetensors; give the "
            "merged.safetensors of a finished run."
        ) from error


class Captioner(nn.Module):
    """Pixels and words [B, 6 S S + T] to scores of the next words [B, T, V]."""

    def __init__(
        self, side: int, width: int, fusion: nn.ModuleList, decoder: Decoder, levels: int
    ) -> None:
        """Put the encoder below, with so many levels."""
        super().__init__()
        self.side = side
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, 2, 1), nn.GELU(),
            nn.Conv2d(width // 2, width, 3, 2, 1), nn.GELU(),
            nn.Conv2d(width, width, 3, 2, 1),
        )  # fmt: skip
        more = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(levels - 1))
        self.deeper = nn.ModuleList(more)
        self.norm = nn.LayerNorm(width)
        self.fusion, self.decoder = fusion, decoder
        self.place: Tensor
        # It follows from the size of images, so it is neither averaged nor saved.
        self.register_buffer("place", sines(-(-side // 8), width), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of every next word."""
        pixels = 6 * self.side**2
        images = inputs[..., :pixels].unflatten(-1, (2, 3, self.side, self.side))
        a, b = (self._tokens(images[:, date]) for date in range(2))
        fuse, *mixers = self.fusion
        memory = fuse(a, b, self.place)
        for layer in mixers:
            memory = layer(memory)
        return self.decoder(inputs[..., pixels:].long(), memory)

    def _tokens(self, images: Tensor) -> Tensor:
        """Return the features [B, N, D] of one date, every colour first standardised, or
        those of every level one after another.
        """
        middle = images.mean((-2, -1), keepdim=True)
        spread = images.std((-2, -1), keepdim=True)
        even = (images - middle) / (spread + _FLAT)
        maps = [self.encoder(even)]
        for convolve in self.deeper:
            maps.append(maps[-1] + convolve(gelu(maps[-1])))
        seen = maps if isinstance(self.fusion[0], CCExpert) else maps[-1:]
        levels = [self.norm(one.flatten(-2).transpose(-2, -1)) for one in seen]
        return torch.cat(levels, -2)


class Decoder(nn.Module):
    """Words see those before them and all that was fused."""

    def __init__(
        self, width: int, heads: int, layers: int, room: int, words: int
    ) -> None:
        """Draw embeddings for ``room`` places and ``words`` words."""
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.positions = nn.Parameter(INIT * torch.randn(room, width))
        self.layers = nn.ModuleList([_Speaking(width, heads) for _ in range(layers)])
        self.norm, self.memory_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, words)

    def forward(self, words: Tensor, memory: Tensor) -> Tensor:
        """Return scores [B, T, V] for words [B, T] and what was fused [B, M, D]."""
        memory = self.memory_norm(memory)
        h = self.embed(words) + self.positions
        for layer in self.layers:
            h = layer(h, memory)
        return self.head(self.norm(h))


class _Speaking(nn.Module):
    """Attention to the words before, to the memory, and a feed-forward part, each
    added.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.own, self.across = Attend(width, heads), Attend(width, heads)
        self.mlp = Plain(width)

    def forward(self, h: Tensor, memory: Tensor) -> Tensor:
        own = self.norms[0](h)
        h = h + self.own(own, own, own, causal=True)
        h = h + self.across(self.norms[1](h), memory, memory)
        return h + self.mlp(self.norms[2](h))
