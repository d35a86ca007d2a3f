"""Sequences in which one answer is a fixed shift and the other needs an induction
head.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decentral import rng
from decentral.registry import Count, plugin
from decentral.tasks.base import Samples, Task

#: Marks a place without an answer.
_NONE = -1


@plugin(
    "task",
    example="induction(samples=600, test=64)",
    defaults={
        "split": {"name": "iid"},
        "optimizer": {"name": "adamw", "weight_decay": 0.0},
        "learning_rate": {"name": "constant", "lr": 0.001},
        "steps": 2600,
        "eval_samples": 256,
    },
)
def induction(
    seed: int,
    *,
    symbols: Count = 24,
    length: Count = 48,
    width: Count = 64,
    heads: Count = 2,
    layers: Count = 2,
    samples: Count = 65_536,
    test: Count = 512,
) -> Task:
    """Answer x_{t-2}, and the symbol after the latest earlier x_t, in sequences of
    random symbols.

    The loss is the mean of both cross-entropies. The model has ``layers`` layers of
    attention and nothing else; the first answer is a shift, the second needs two
    layers in concert (an induction head). ``accuracy`` is that of the second; the
    score ``gram`` that of the first. (Wang, Yu, E & Wu, "How transformers get rich:
    approximation and dynamics analysis", 2024.)

    Args:
        seed: Seed of the run.
        symbols: Size of the alphabet.
        length: Symbols of a sequence.
        width: Width of the model.
        heads: Heads of each layer.
        layers: Layers of attention.
        samples: Training samples.
        test: Test samples.
    """
    many = np.arange(samples + test)[:, None], np.arange(length)
    size = np.full((samples + test, length), symbols)
    tokens = rng.integers(size, seed, "induction/symbol", *many)
    inputs = torch.from_numpy(tokens)
    targets = torch.from_numpy(np.stack([shift_tokens(tokens), after_match(tokens)], -1))
    return Task(
        loss=both_losses,
        train=Samples(inputs[:samples], targets[:samples]),
        test=Samples(inputs[samples:], targets[samples:]),
        model=lambda: Attention(symbols, length, width, heads, layers),
        accuracy=lambda outputs, answers: _right(outputs, answers, 1),
        scores={"gram": lambda outputs, answers: _right(outputs, answers, 0)},
    )


def shift_tokens(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return x_{t-2}, -1 for the first two places.

    >>> shift_tokens(np.array([[5, 6, 7, 8]])).tolist()
    [[-1, -1, 5, 6]]
    """
    answer = np.full_like(tokens, _NONE)
    answer[:, 2:] = tokens[:, :-2]
    return answer


def after_match(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the symbol after the latest earlier occurrence of x_t, -1 where there
    is none.

    >>> after_match(np.array([[5, 6, 5, 7, 5]])).tolist()
    [[-1, -1, 6, -1, 7]]
    """
    answer = np.full_like(tokens, _NONE)
    every = np.arange(len(tokens))
    # What came after the latest occurrence of each symbol so far.
    after = np.full((len(tokens), tokens.max(initial=0) + 1), _NONE)
    for place in range(1, tokens.shape[1]):
        after[every, tokens[:, place - 1]] = tokens[:, place]
        answer[:, place] = after[every, tokens[:, place]]
    return answer


def both_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of both answers' cross-entropies: outputs [B, T, 2, V],
    targets [B, T, 2].
    """
    return 0.5 * sum(
        (
            cross_entropy(
                outputs[..., k, :].flatten(0, -2),
                targets[..., k].flatten(),
                ignore_index=_NONE,
            )
            for k in range(2)
        ),
        start=outputs.new_zeros(()),
    )


def _right(outputs: Tensor, targets: Tensor, answer: int) -> Tensor:
    """Return the share of a sequence's places that are answered right, [B]."""
    wanted = targets[..., answer]
    asked = (wanted != _NONE).double()
    right = (outputs[..., answer, :].argmax(-1) == wanted).double() * asked
    # Places without an answer count neither as right nor as wrong.
    return right.sum(-1) / asked.sum(-1).clamp_min(1)


class Attention(nn.Module):
    """Layers of causal attention by content and relative position, without anything
    else.
    """

    def __init__(
        self, symbols: int, length: int, width: int, heads: int, layers: int = 2
    ) -> None:
        """Draw the model.

        Args:
            symbols: Size of the alphabet.
            length: Symbols of a sequence.
            width: Width of the model.
            heads: Heads of each layer.
            layers: Layers of attention.
        """
        super().__init__()
        self.symbols = symbols
        self.embed = nn.Embedding(symbols, width)
        self.layers = nn.ModuleList([_Layer(length, width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.answers = nn.Linear(width, 2 * symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of both answers [B, T, 2, V] for symbols [B, T]."""
        h = self.embed(tokens)
        for layer in self.layers:
            h = h + layer(h)
        return self.answers(self.norm(h)).unflatten(-1, (2, self.symbols))


class _Layer(nn.Module):
    """Multi-head attention with scores q_t k_s / sqrt(d) + r_{t-s}."""

    def __init__(self, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.offset = nn.Parameter(torch.zeros(heads, length))
        place = torch.arange(length)
        self.distance: Tensor
        self.register_buffer("distance", place[:, None] - place, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        h = self.norm(h)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for part in (self.query, self.key, self.value)
        )
        ahead = self.distance < 0
        place = self.offset[:, self.distance.clamp_min(0)]
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + place
        # The own place is never masked, so that no row is all -inf, which would
        # give NaN.
        weights = scores.masked_fill(ahead, float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(-3, -2).flatten(-2))
