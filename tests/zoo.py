"""Small models as people write them, each with a task that it can learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from decentral import Task

M, CLASSES = 24, 4


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VECTORS = torch.randn(M, 6, generator=_draw(0))
IMAGES = torch.randn(M, 2, 6, 6, generator=_draw(1))
SERIES = torch.randn(M, 5, 3, generator=_draw(2))
TOKENS = torch.randint(1, 9, (M, 5), generator=_draw(3))
LABELS = 2 * (VECTORS[:, 0] > 0).long() + (VECTORS[:, 1] > 0).long()
TAGS = torch.where(torch.arange(M * 5).view(M, 5) % 3 > 0, TOKENS % CLASSES, -100)


class Flow(nn.Module):
    """Layers, and what is done with them, as a function of x."""

    def __init__(
        self, layers: dict[str, nn.Module], flow: Callable[[Any, Tensor], Any]
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.flow = flow

    def forward(self, x: Tensor) -> Any:
        return self.flow(self, x)


class Kind(NamedTuple):
    """A model with its data.

    ``vmap`` says whether torch can run its rows together, ``rescales`` that its forward pass
    changes its weights, so that nodes differ whose gradients were averaged.
    """

    make: Callable[[], nn.Module]
    inputs: Any
    targets: Any = LABELS
    loss: Callable[..., Tensor] = F.cross_entropy
    vmap: bool = True
    output: Any = None
    rescales: bool = False

    def task(self) -> Task:
        data = (self.inputs, self.targets)
        return Task(
            loss=self.loss, train=data, test=data, model=self.make, output=self.output
        )


def mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, CLASSES))


def cnn(*between: nn.Module) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    head = nn.Flatten(), nn.Linear(4, CLASSES)
    return nn.Sequential(nn.Conv2d(2, 4, 3), *between, nn.ReLU(), pool, *head)


def line(*between: nn.Module) -> nn.Module:
    """A convolution over time."""
    pool, head = nn.AdaptiveAvgPool1d(1), (nn.Flatten(), nn.Linear(4, CLASSES))
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 5)), nn.Conv1d(3, 4, 2), *between,
                         nn.ReLU(), pool, *head)  # fmt: skip


def recurrent(kind: Any) -> nn.Module:
    return Flow({"body": kind(3, 4, batch_first=True), "head": nn.Linear(4, CLASSES)},
                lambda self, x: self.head(self.body(x)[0][:, -1]))  # fmt: skip


def cell(kind: Any, states: int = 1) -> nn.Module:
    def flow(self: Any, x: Tensor) -> Tensor:
        state: Any = x.new_zeros(len(x), 4)
        state = (state, state) if states == 2 else state
        for moment in x.unbind(1):
            state = self.body(moment, state)
        return self.head(state[0] if states == 2 else state)

    return Flow({"body": kind(3, 4), "head": nn.Linear(4, CLASSES)}, flow)


def attention() -> nn.Module:
    return Flow({"body": nn.MultiheadAttention(4, 2, batch_first=True), "into": nn.Linear(3, 4),
                 "head": nn.Linear(4, CLASSES)}, lambda self, x: self.head(
        self.body(y := self.into(x), y, y, need_weights=False)[0].mean(1)))  # fmt: skip


def encoder(dropout: float = 0.0) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=dropout, batch_first=True)
    body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return Flow({"into": nn.Linear(3, 4), "body": body, "head": nn.Linear(4, CLASSES)},
                lambda self, x: self.head(self.body(self.into(x)).mean(1)))  # fmt: skip


def embedded(**settings: Any) -> nn.Module:
    return Flow({"words": nn.Embedding(9, 4, **settings), "head": nn.Linear(4, CLASSES)},
                lambda self, x: self.head(self.words(x).mean(1)))  # fmt: skip


def tagger() -> nn.Module:
    return Flow({"words": nn.Embedding(9, 4), "head": nn.Linear(4, CLASSES)},
                lambda self, x: self.head(self.words(x)).movedim(-1, 1))  # fmt: skip


class Tied(nn.Module):
    """Its last layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.words(x).mean(1))


def frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


def partly_unused() -> nn.Module:
    return Flow({"used": mlp(), "unused": nn.Linear(3, 3)}, lambda self, x: self.used(x))


class Buffered(nn.Module):
    """Buffers of every type: updated in place or assigned, constant, not kept, infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("assigned", torch.zeros(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(6, dtype=torch.bool))
        self.register_buffer("low", torch.full((), torch.inf))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("none", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            now = x.detach().mean(0)
            self.mean.mul_(0.9).add_(now, alpha=0.1)
            self.assigned = 0.9 * self.assigned + 0.1 * now
            self.count.add_(1)
            self.seen.logical_or_((x > 1).any(0))
            self.low.copy_(torch.minimum(self.low, x.detach().min()))
        return (
            self.body((x - self.mean) * self.scale)
            + self.assigned.sum() * self.mask.exp()[1]
        )


def quantised() -> nn.Module:
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

    fake = FakeQuantize(observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    return mlp(fake)


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6))


def ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    """CTC of outputs [B, T, C] at targets [B, S], each of full length."""
    lengths = torch.full((len(outputs),), outputs.shape[1])
    ends = torch.full((len(outputs),), targets.shape[1])
    return F.ctc_loss(outputs.log_softmax(-1).movedim(1, 0), targets, lengths, ends)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.words = mlp(), nn.Embedding(9, CLASSES)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return self.body(x) + self.words(words).mean(1)


def wrapping(wrap: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Flow({"body": mlp()}, lambda self, x: wrap(self.body(x)))


def model_output(y: Tensor) -> Any:
    from transformers.modeling_outputs import SequenceClassifierOutput

    return SequenceClassifierOutput(logits=y)


NORMS: dict[str, Kind] = {
    "batch norm 1d": Kind(lambda: mlp(nn.BatchNorm1d(8)), VECTORS),
    "batch norm 1d without statistics": Kind(
        lambda: mlp(nn.BatchNorm1d(8, track_running_stats=False)), VECTORS
    ),
    "batch norm 1d, cumulative": Kind(lambda: mlp(nn.BatchNorm1d(8, momentum=None)), VECTORS,
                                      vmap=False),
    "batch norm 2d": Kind(lambda: cnn(nn.BatchNorm2d(4)), IMAGES),
    "layer norm": Kind(lambda: mlp(nn.LayerNorm(8)), VECTORS),
    "rms norm": Kind(lambda: mlp(nn.RMSNorm(8)), VECTORS),
    "group norm": Kind(lambda: cnn(nn.GroupNorm(2, 4)), IMAGES),
    "instance norm 1d": Kind(lambda: line(nn.InstanceNorm1d(4, affine=True)), SERIES),
    "instance norm 2d": Kind(
        lambda: cnn(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), IMAGES
    ),
    "local response norm": Kind(lambda: cnn(nn.LocalResponseNorm(2)), IMAGES),
    "weight norm": Kind(
        lambda: nn.Sequential(weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4)), VECTORS
    ),
    "spectral norm": Kind(
        lambda: nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4)), VECTORS,
        vmap=False,
    ),
}  # fmt: skip

DROPOUTS: dict[str, Kind] = {
    "dropout": Kind(lambda: mlp(nn.Dropout(0.3)), VECTORS),
    "dropout 1d": Kind(lambda: line(nn.Dropout1d(0.3)), SERIES, vmap=False),
    "dropout 2d": Kind(lambda: cnn(nn.Dropout2d(0.3)), IMAGES, vmap=False),
    "alpha dropout": Kind(lambda: mlp(nn.AlphaDropout(0.3)), VECTORS, vmap=False),
    "functional dropout": Kind(
        lambda: Flow({"body": mlp()}, lambda self, x: self.body(F.dropout(x, 0.2, self.training))),
        VECTORS, vmap=False,
    ),
}  # fmt: skip

SEQUENCES: dict[str, Kind] = {
    "rnn": Kind(lambda: recurrent(nn.RNN), SERIES, vmap=False),
    "lstm": Kind(lambda: recurrent(nn.LSTM), SERIES, vmap=False),
    "gru": Kind(lambda: recurrent(nn.GRU), SERIES, vmap=False),
    "rnn cell": Kind(lambda: cell(nn.RNNCell), SERIES),
    "lstm cell": Kind(lambda: cell(nn.LSTMCell, 2), SERIES, vmap=False),
    "gru cell": Kind(lambda: cell(nn.GRUCell), SERIES),
    "attention": Kind(attention, SERIES),
    "encoder": Kind(encoder, SERIES),
    "encoder with dropout": Kind(lambda: encoder(0.2), SERIES, vmap=False),
    "embedding": Kind(embedded, TOKENS),
    "embedding with padding": Kind(lambda: embedded(padding_idx=1), TOKENS),
    "embedding of a largest norm": Kind(
        lambda: embedded(max_norm=0.5), TOKENS, rescales=True
    ),
    "sparse embedding": Kind(lambda: embedded(sparse=True), TOKENS),
    "tags, some ignored": Kind(tagger, TOKENS, TAGS),
    "tied weights": Kind(Tied, TOKENS, TOKENS[:, 0]),
    "ctc": Kind(lambda: nn.Linear(3, 5), SERIES, 1 + TOKENS[:, :2] % 3, ctc),
}

OTHERS: dict[str, Kind] = {
    "mlp": Kind(mlp, VECTORS),
    "cnn": Kind(cnn, IMAGES),
    "residual": Kind(
        lambda: Flow({"one": nn.Linear(6, 6), "head": mlp()},
                     lambda self, x: self.head(x + self.one(x).relu())), VECTORS
    ),
    "frozen": Kind(frozen, VECTORS),
    "partly unused": Kind(partly_unused, VECTORS),
    "lazy": Kind(lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4)), VECTORS),
    "buffers of every type": Kind(Buffered, VECTORS),
    "fake-quantised": Kind(quantised, VECTORS, vmap=False),
    "mapping": Kind(wrapping(lambda y: {"logits": y}), VECTORS),
    "tuple": Kind(wrapping(lambda y: (y, None)), VECTORS),
    "model output": Kind(wrapping(model_output), VECTORS),
    "two inputs": Kind(TwoInputs, (VECTORS, TOKENS)),
    "inputs by name": Kind(TwoInputs, {"words": TOKENS, "x": VECTORS}),
    "labels that are smoothed": Kind(mlp, VECTORS,
                                     loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "several labels": Kind(mlp, VECTORS, F.one_hot(LABELS, 4).float(),
                           F.binary_cross_entropy_with_logits),
    "regression": Kind(lambda: nn.Linear(6, 1), VECTORS, VECTORS[:, :1], F.mse_loss),
    "autoencoder": Kind(autoencoder, VECTORS, VECTORS, F.mse_loss),
}  # fmt: skip

ZOO: dict[str, Kind] = {**NORMS, **DROPOUTS, **SEQUENCES, **OTHERS}
