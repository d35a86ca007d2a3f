"""Gradients of a block of rows: three ways to compute them, one answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import tiny_block
from torch import Tensor, nn
from torch.nn import functional as F

from decentral import ConfigError
from decentral.gradients import (
    Batch,
    Gradient,
    LayerGradient,
    LoopGradient,
    Reduced,
    VmapGradient,
    choose,
    kernels_of,
    key_dropout,
    make_looped_forward,
    make_stacked_forward,
)
from decentral.gradients.base import (
    ROWS,
    count_saved_numbers,
    repeated_layers,
    rows_at_once,
)
from decentral.layout import Layout
from decentral.tasks.models.transformer import gpt, vit
from decentral.tasks.models.vision import cnn, mlp, resnet20
from decentral.tasks.text import next_token

NODES, BATCH, SHAPE, CLASSES = 16, 8, (1, 8, 8), 10


class Attention(nn.Module):
    """A transformer block over the rows of an image."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.normed = nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = images.squeeze(1)
        seen = self.normed(x)
        x = x + self.attend(seen, seen, seen, need_weights=False)[0]
        x = x + self.drop(self.narrow(F.gelu(self.wide(x))))
        return self.head(x.mean(1))


class Tied(nn.Module):
    """One matrix used twice, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(64, CLASSES).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.frozen(self.second(self.first(images.flatten(1)).relu()))


class Noisy(nn.Module):
    """Draws from torch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) + torch.randn(len(images), CLASSES)


def frozen_first() -> nn.Module:
    model = mlp(SHAPE, CLASSES, hidden=(12,))
    model[1].requires_grad_(False)  # pyright: ignore
    return model


def varied() -> nn.Module:
    """Layers that only some users need."""
    return nn.Sequential(
        nn.Identity(),
        nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding="valid", bias=False), nn.Tanh()
        ),
        nn.Conv2d(4, 6, 2, dilation=2, groups=2),
        nn.LeakyReLU(inplace=True),
        nn.AvgPool2d(1),
        nn.Flatten(2),
        nn.Linear(1, 3, bias=False),
        nn.ReLU(inplace=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(18, CLASSES),
    )


LAYERED: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(SHAPE, CLASSES, hidden=(12, 12)),
    "one layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)),
    "cnn": lambda: cnn(SHAPE, CLASSES, channels=(4, 8)),
    "cnn, group norm": lambda: cnn(SHAPE, CLASSES, channels=(4, 8), norm="group"),
    "cnn, batch norm": lambda: cnn(SHAPE, CLASSES, channels=(4, 8), norm="batch"),
    "resnet, batch norm": lambda: resnet20(SHAPE, CLASSES, width=2),
    "resnet, group norm": lambda: resnet20(SHAPE, CLASSES, width=2, norm="group"),
    "varied": varied,
    "vit": lambda: vit(SHAPE, CLASSES, layers=1, width=8, heads=2),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "attention, dropout": lambda: Attention(0.3),
    "mlp, dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Dropout(0.4), nn.Linear(64, CLASSES)
    ),
    "tied": Tied,
    "frozen": frozen_first,
}
every = pytest.mark.parametrize("name", [*LAYERED, *OTHERS])
layered = pytest.mark.parametrize("name", LAYERED)


class Case:
    """Rows of one model, all different, and a batch."""

    def __init__(
        self, name: str, dtype: torch.dtype = torch.float64, nodes: int = NODES
    ) -> None:
        torch.manual_seed(0)
        self.model = key_dropout((LAYERED | OTHERS)[name]()).to(dtype)
        self.layout = Layout.of(self.model)
        self.rows = torch.zeros(nodes, self.layout.width, dtype=dtype)
        for row in self.rows:
            self.layout.pack(self.model, row)
        for view in self.layout.views(self.rows).values():
            view += 0.1 * torch.randn_like(view)
        self.integers = {
            k: torch.stack([v] * nodes) for k, v in self.layout.integers.items()
        }
        targets = torch.randint(0, CLASSES, (nodes, BATCH))
        keys = torch.randint(0, 1 << 62, (nodes, BATCH))
        self.batch = Batch(torch.randn(nodes, BATCH, *SHAPE, dtype=dtype), targets, keys)

    def gradient(self, kind: str, loss: Any = F.cross_entropy) -> Gradient:
        if kind == "loop":
            return LoopGradient(self.model, self.layout, loss)
        kernels = kernels_of(self.model, self.layout)
        if kind == "layers":
            assert kernels
            return LayerGradient(kernels, self.layout, loss)
        return VmapGradient(self.model, self.layout, loss)

    def of(self, gradient: Gradient, some: slice = slice(None)) -> tuple[Tensor, ...]:
        """Return gradients, losses, and rows and integers after one call, for some of the rows."""
        rows = self.rows[some].clone()
        integers = {key: value[some].clone() for key, value in self.integers.items()}
        batch = self.batch
        part = Batch(batch.inputs[some], batch.targets[some], batch.keys[some])
        out = torch.zeros_like(rows)
        losses = gradient(rows, integers, part, out)
        return out, losses, rows, *integers.values()


def together(name: str) -> list[str]:
    return ["vmap", "layers"] if name in LAYERED else ["vmap"]


@every
def test_all_ways_give_the_same_gradients_losses_and_buffers(name: str) -> None:
    case = Case(name)
    expected = case.of(case.gradient("loop"))
    assert expected[0].abs().sum() > 0
    for kind in together(name):
        for theirs, ours in zip(expected, case.of(case.gradient(kind)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@every
def test_float32_agrees_to_rounding(name: str) -> None:
    case = Case(name, torch.float32)
    expected = case.of(case.gradient("loop"))
    for kind in together(name):
        for theirs, ours in zip(expected, case.of(case.gradient(kind)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize(
    "size",
    [
        8,
        pytest.param(4, marks=pytest.mark.soak),
        2,
        pytest.param(1, marks=pytest.mark.soak),
    ],
)
def test_a_row_has_the_same_bits_in_a_block_of_any_size(name: str, size: int) -> None:
    case = Case(name)
    for kind in together(name):
        if kind == "vmap" and name == "varied":
            continue  # the bias of a grouped convolution is summed in another order
        whole = case.of(case.gradient(kind))
        for start in range(0, NODES, size):
            some = slice(start, start + size)
            parts = case.of(case.gradient(kind), some)
            assert all(torch.equal(a[some], b) for a, b in zip(whole, parts, strict=True))


@every
def test_rows_computed_a_few_at_a_time_are_the_same(name: str) -> None:
    case = Case(name)
    for kind in together(name):
        gradient: Any = case.gradient(kind)
        whole = case.of(gradient)
        gradient.at_once = 3
        parts = case.of(gradient)
        for few, all_ in zip(parts, whole, strict=True):
            torch.testing.assert_close(few, all_, rtol=1e-9, atol=1e-11)
            assert kind == "vmap" or torch.equal(few, all_)


@every
def test_a_gradient_that_is_called_again_sees_new_rows(name: str) -> None:
    """Views that are kept from step to step follow the block, and other blocks get their own."""
    case = Case(name)
    for kind in ["loop", *together(name)]:
        gradient, fresh = case.gradient(kind), case.gradient(kind)
        for some in (slice(None), slice(2, 5), slice(None)):
            pairs = zip(case.of(gradient, some), case.of(fresh, some), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        rows, integers = (
            case.rows[:1].clone(),
            {k: v[:1] for k, v in case.integers.items()},
        )
        part = Batch(case.batch.inputs[:1], case.batch.targets[:1], case.batch.keys[:1])
        out, again = torch.zeros_like(rows), torch.zeros_like(rows)
        gradient(rows, integers, part, out)
        case.layout.views(rows)[case.layout.parameters[-1].name].add_(1.0)
        gradient(rows, integers, part, out)
        case.gradient(kind)(rows, integers, part, again)
        torch.testing.assert_close(out, again, rtol=1e-9, atol=1e-11)


#: Batch normalisation sees its micro-batch only.
by_sample = pytest.mark.parametrize(
    "name", [name for name in (*LAYERED, *OTHERS) if "batch norm" not in name]
)


@by_sample
def test_micro_batches_average_to_the_whole(name: str) -> None:
    case = Case(name)
    whole_batch = (case.batch.inputs, case.batch.targets, case.batch.keys)
    parts = [
        Batch(*part)
        for part in zip(*(t.split(3, dim=1) for t in whole_batch), strict=True)
    ]
    assert [part.inputs.shape[1] for part in parts] == [3, 3, 2]
    for kind in ["loop", *together(name)]:
        whole = case.of(case.gradient(kind))[0]
        gradient, summed = case.gradient(kind), torch.zeros_like(whole)
        for part in parts:
            out = torch.zeros_like(whole)
            gradient(case.rows, case.integers, part, out)
            summed += out * part.inputs.shape[1] / BATCH
        torch.testing.assert_close(summed, whole, rtol=1e-9, atol=1e-11)


def test_running_statistics_move_once_per_forward_pass() -> None:
    """Also of rows that are views into a block, where vmap alone would leave them as they are."""
    case = Case("cnn, batch norm")
    module = cnn(SHAPE, CLASSES, channels=(4, 8), norm="batch").to(torch.float64)
    for kind in ("loop", "vmap", "layers"):
        _, _, rows, count, *_ = case.of(case.gradient(kind))
        assert (count == 1).all()
        case.layout.unpack(case.rows[3], module)
        module(case.batch.inputs[3])
        expected = torch.zeros(case.layout.width, dtype=torch.float64)
        case.layout.pack(module, expected)
        assert not torch.allclose(
            expected[case.layout.trainable :].std(), torch.tensor(0.0).double()
        )
        torch.testing.assert_close(rows[3], expected)


@every
def test_only_trainable_columns_are_written(name: str) -> None:
    case = Case(name)
    outside = torch.ones(case.layout.width, dtype=torch.bool)
    for entry in case.layout.parameters:
        outside[entry.start : entry.stop] = False
    for kind in ["loop", *together(name)]:
        assert not case.of(case.gradient(kind))[0][:, outside].any()


@every
def test_evaluation_runs_all_models_on_the_same_samples(name: str) -> None:
    case = Case(name)
    model = case.model.eval()
    inputs = torch.randn(5, *SHAPE, dtype=torch.float64)
    before = case.rows.clone()
    stacked = make_stacked_forward(model, case.layout)(case.rows, case.integers, inputs)
    looped = make_looped_forward(model, case.layout)(case.rows, case.integers, inputs)
    assert stacked.shape == (NODES, 5, CLASSES)
    torch.testing.assert_close(stacked, looped, rtol=1e-9, atol=1e-11)
    assert torch.equal(case.rows, before)


# --- losses ---------------------------------------------------------------------------------------


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - torch.eye(CLASSES, dtype=outputs.dtype)[targets]).square().mean()


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.2)


@pytest.mark.parametrize("loss", [mean_square, smoothed, F.cross_entropy])
def test_any_mean_loss_will_do(loss: Any) -> None:
    case = Case("mlp")
    expected = case.of(case.gradient("loop", loss))
    for kind in ("vmap", "layers"):
        for theirs, ours in zip(
            expected, case.of(case.gradient(kind, loss)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_cross_entropy_leaves_out_what_torch_leaves_out() -> None:
    case = Case("mlp")
    case.batch.targets[:, ::3] = -100
    expected = case.of(case.gradient("loop"))
    for theirs, ours in zip(expected, case.of(case.gradient("layers")), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_cross_entropy_with_probabilities_and_with_large_outputs() -> None:
    case = Case("mlp")
    case.rows *= 100
    soft = torch.rand(NODES, BATCH, CLASSES, dtype=torch.float64).softmax(-1)
    for targets in (case.batch.targets, soft):
        case.batch = Batch(case.batch.inputs, targets, case.batch.keys)
        expected = case.of(case.gradient("loop"))
        for theirs, ours in zip(expected, case.of(case.gradient("layers")), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


# --- transformers ---------------------------------------------------------------------------------


GPTS: dict[str, dict[str, Any]] = {
    "rms": {},
    "layer": {"norm": "layer", "activation": "gelu"},
    "tied": {"tied": True},
}


class Tokens:
    """Rows of one language model, all different, and a batch of tokens.

    Of 4 x 8 tokens, so that each row fills whole vectors in all activations: torch takes
    what is left over by other functions than the rest.
    """

    def __init__(self, dtype: torch.dtype, **how: Any) -> None:
        torch.manual_seed(0)
        self.model = gpt((8,), 11, layers=2, width=8, heads=2, **how).to(dtype)
        self.layout = Layout.of(self.model)
        self.rows = torch.zeros(5, self.layout.width, dtype=dtype)
        for row in self.rows:
            self.layout.pack(self.model, row)
        for view in self.layout.views(self.rows).values():
            view += 0.1 * torch.randn_like(view)
        tokens, after = torch.randint(0, 11, (2, 5, 4, 8))
        self.batch = Batch(tokens, after, torch.zeros(5, 4, dtype=torch.int64))

    def layers(self, at_once: int = ROWS) -> LayerGradient:
        kernels = kernels_of(self.model, self.layout)
        assert kernels
        return LayerGradient(kernels, self.layout, next_token, at_once)

    def of(self, gradient: Gradient) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(self.rows)
        return out, gradient(self.rows, {}, self.batch, out)


@pytest.mark.parametrize("how", GPTS)
def test_a_gpt_has_the_gradients_of_one_row_at_a_time(how: str) -> None:
    case = Tokens(torch.float64, **GPTS[how])
    expected = case.of(LoopGradient(case.model, case.layout, next_token))
    for theirs, ours in zip(expected, case.of(case.layers()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", GPTS)
def test_a_row_of_a_gpt_has_the_same_bits_in_a_block_of_any_size(how: str) -> None:
    case = Tokens(torch.float64, **GPTS[how])
    whole = case.of(case.layers())
    for at_once in (1, 2):
        parts = case.of(case.layers(at_once))
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_gpt_is_evaluated_together_as_one_row_at_a_time() -> None:
    case = Tokens(torch.float64)
    for own, tokens in ((False, case.batch.inputs[0]), (True, case.batch.inputs)):
        pair = (make_stacked_forward, make_looped_forward)
        ours, theirs = (
            make(case.model, case.layout, own)(case.rows, {}, tokens) for make in pair
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("token", [-1, 11])
def test_a_token_that_a_row_has_not_is_not_taken_from_another_row(token: int) -> None:
    case = Tokens(torch.float32)
    case.batch.inputs[0, 0, 0] = token
    with pytest.raises(IndexError, match="out of range"):
        case.of(case.layers())


def test_layers_that_are_one_and_the_same_add_up_their_gradients() -> None:
    case = Tokens(torch.float64)
    parts: Any = case.model
    parts.layers[1] = parts.layers[0]
    case.layout = Layout.of(case.model)
    case.rows = case.rows[:, : case.layout.width].contiguous()
    expected = case.of(LoopGradient(case.model, case.layout, next_token))
    torch.testing.assert_close(case.of(case.layers())[0], expected[0])


def test_a_part_that_somebody_put_into_a_gpt_leaves_it_to_vmap() -> None:
    class Other(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    for put in (Other(8, 8, bias=False), nn.Bilinear(8, 8, 8)):
        case = Tokens(torch.float32)
        parts: Any = case.model
        parts.layers[1].self_attn.q_proj = put
        assert kernels_of(case.model, Layout.of(case.model)) is None


# --- which way ------------------------------------------------------------------------------------


@layered
def test_shipped_models_run_layer_by_layer(name: str) -> None:
    model = LAYERED[name]()
    assert kernels_of(model, Layout.of(model))


def hooked() -> nn.Module:
    model = mlp(SHAPE, CLASSES)
    model.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


@pytest.mark.parametrize(
    "make",
    [
        *OTHERS.values(),
        hooked,
        lambda: nn.Sequential(
            nn.Flatten(), shared := nn.Linear(64, 64), nn.ReLU(), shared
        ),
        lambda: nn.Sequential(
            nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 9))
        ),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")),
        lambda: nn.Sequential(nn.Flatten(0), nn.Linear(64, 2)),
        lambda: nn.Sequential(nn.BatchNorm2d(1, momentum=None)),
        lambda: nn.Sequential(nn.Bilinear(2, 2, 2)),
    ],
)
def test_what_is_not_known_layer_by_layer_is_left_to_vmap(
    make: Callable[[], nn.Module],
) -> None:
    model = key_dropout(make())
    assert kernels_of(model, Layout.of(model)) is None


def chosen(
    model: nn.Module,
    replicas: str,
    nodes: int,
    precision: str = "same",
    mode: str | None = None,
) -> tuple[Gradient, str]:
    model = key_dropout(model)
    batch = Batch(
        torch.randn(nodes, 4, *SHAPE),
        torch.randint(0, CLASSES, (nodes, 4)),
        torch.zeros(nodes, 4, dtype=torch.int64),
    )
    layout = Layout.of(model)
    return choose(
        replicas, model, layout, F.cross_entropy, nodes, lambda: batch, precision, mode
    )


def test_auto_takes_what_the_table_says() -> None:
    small, large = (
        Attention(),
        nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 1 << 11)),
    )
    for model, nodes, kind, words in (
        (mlp(SHAPE, CLASSES), 2, LayerGradient, "all rows together, layer by layer"),
        (mlp(SHAPE, CLASSES), 1, LoopGradient, "one row at a time: there is one"),
        (small, 8, VmapGradient, "all rows together, by vmap"),
        (small, 7, LoopGradient, "faster than vmap for 7 rows"),
        (large, 64, LoopGradient, "faster than vmap for 64 rows of 133,120 parameters"),
    ):
        gradient, reason = chosen(model, "auto", nodes)
        assert type(gradient) is kind
        assert words in reason


def test_replicas_are_computed_as_asked() -> None:
    assert type(chosen(Attention(), "vmap", 2)[0]) is VmapGradient
    assert type(chosen(mlp(SHAPE, CLASSES), "vmap", 1)[0]) is LayerGradient
    gradient, reason = chosen(mlp(SHAPE, CLASSES), "loop", 8)
    assert type(gradient) is LoopGradient
    assert reason == "one row at a time: as asked"


def test_tune_takes_what_is_faster_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = LoopGradient.__call__
    gradient, _ = chosen(cnn(SHAPE, CLASSES), "tune", 32)
    assert gradient.kind in ("vmap", "loop")
    for kind, waits in ((LoopGradient, LayerGradient), (LayerGradient, LoopGradient)):
        with monkeypatch.context() as patch:
            patch.setattr(waits, "__call__", delayed(waits.__call__))
            gradient, reason = chosen(mlp(SHAPE, CLASSES), "tune", 4)
        assert type(gradient) is kind
        assert ("measured" in reason) == (kind is LoopGradient)
    assert LoopGradient.__call__ is slow
    assert chosen(mlp(SHAPE, CLASSES), "tune", 1)[1] == "one row at a time: there is one"


def delayed(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def slow(*args: Any) -> Tensor:
        time.sleep(0.1)
        return call(*args)

    return slow


# small rows stay in the cache by the thousand
def test_what_is_kept_for_the_backward_pass_is_counted() -> None:
    """A linear layer keeps its input, ReLU its output, convolution its input."""
    dense = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    for batch in (1, 7):
        assert count_saved_numbers(dense, torch.randn(batch, 6)) == batch * (6 + 5)
    images = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sigmoid())
    assert count_saved_numbers(images, torch.randn(3, 2, 5, 5)) == 3 * (2 * 25 + 4 * 9)
    cpu = torch.device("cpu")
    assert rows_at_once(1 << 16, 1 << 16, cpu) == ROWS
    assert rows_at_once(1 << 40, 1 << 16, cpu) == 1
    assert rows_at_once(54, 10, cpu) == 2048


def test_choosing_leaves_the_model_and_the_generator_alone() -> None:
    model = cnn(SHAPE, CLASSES, norm="batch").eval()
    before, state = (
        {k: v.clone() for k, v in model.state_dict().items()},
        torch.get_rng_state(),
    )
    for nodes in (1, 4):
        chosen(model, "auto", nodes)
    assert not torch.equal(torch.get_rng_state(), state), "the batch was drawn"
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_model_that_draws_random_numbers_runs_row_by_row_and_repeats() -> None:
    gradient, reason = chosen(Noisy(), "auto", 8)
    assert type(gradient) is LoopGradient
    assert gradient.draws
    assert "vmap cannot run this model" in reason
    assert "random" in reason
    layout = Layout.of(Noisy())
    rows = torch.zeros(2, layout.width)
    inputs, targets = torch.randn(2, 4, *SHAPE), torch.randint(0, CLASSES, (2, 4))
    batch = Batch(inputs, targets, torch.arange(8).view(2, 4))
    first = gradient(rows, {}, batch, torch.zeros_like(rows))
    assert torch.equal(gradient(rows, {}, batch, torch.zeros_like(rows)), first)
    with pytest.raises(ConfigError, match="use replicas=loop"):
        chosen(Noisy(), "vmap", 2)


@pytest.mark.slow
@pytest.mark.needs("compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_is_compiled_computes_what_it_computed_before() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, CLASSES))
    compiled, how = chosen(model, "auto", 3, mode="default")
    assert how == "all rows together, compiled"
    layout = Layout.of(model)
    rows, keys = torch.randn(3, layout.width) / 4, torch.arange(12).view(3, 4)
    batch = Batch(torch.randn(3, 4, *SHAPE), torch.randint(0, CLASSES, (3, 4)), keys)
    found, wanted = torch.zeros_like(rows), torch.zeros_like(rows)
    plain = VmapGradient(key_dropout(model), layout, F.cross_entropy)
    torch.testing.assert_close(
        compiled(rows, {}, batch, found), plain(rows, {}, batch, wanted)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert wanted.abs().amax() > 0.01


def test_a_model_that_does_not_fit_the_task_is_the_users_mistake() -> None:
    for replicas in ("auto", "loop"):
        with pytest.raises(ConfigError, match=r"fail on a batch \[4, 1, 8, 8\]"):
            chosen(nn.Sequential(nn.Flatten(), nn.Linear(3, CLASSES)), replicas, 4)


# --- dropout --------------------------------------------------------------------------------------


def test_masks_depend_on_sample_and_layer_only() -> None:
    model = key_dropout(nn.Sequential(nn.Dropout(0.4), nn.Dropout(0.4)))
    ones = torch.ones(3, 1000)
    keys = torch.tensor([5, 6, 5])
    masks = []
    for layer in model:
        layer.key = keys
        masks.append(layer(ones))
    for mask in masks:
        assert torch.equal(mask[0], mask[2])
        assert not torch.equal(mask[0], mask[1])
        assert mask.mean().item() == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(*masks)
    assert torch.equal(model.eval()(ones), ones)


# --- bfloat16 -------------------------------------------------------------------------------------

REDUCED: dict[str, dict[str, Any]] = {
    "layer by layer": {"task": "digits", "model": "mlp"},
    "layer by layer, batch norm": {
        "task": "digits",
        "model": "cnn(channels=[4, 8], norm=batch)",
    },
    "layer by layer, gpt": {
        "task": "text(context=16)",
        "model": "gpt(layers=1, width=8, heads=2)",
    },
    "by vmap": {"task": "induction"},
    "one row at a time": {"task": "digits", "model": "mlp", "replicas": "loop"},
}


@pytest.mark.parametrize("name", list(REDUCED))
def test_in_bfloat16_gradients_are_those_in_full_to_two_digits(name: str) -> None:
    settings = {"replicas": "vmap", "nodes": 3, "init": "independent", **REDUCED[name]}
    full, reduced = (tiny_block(**settings, precision=p) for p in ("same", "bfloat16"))
    for block in (full, reduced):
        block.gradient()
    assert type(reduced.pipeline.compute) is Reduced
    assert name.partition(",")[0] in reduced.pipeline.reason
    assert "in bfloat16" in reduced.pipeline.reason
    assert (
        reduced.rows.dtype == reduced.grads.dtype == reduced.losses.dtype == torch.float32
    )
    assert not torch.equal(reduced.grads, full.grads)
    apart = (reduced.grads - full.grads).norm(dim=1) / full.grads.norm(dim=1)
    assert apart.max() < 0.05
    torch.testing.assert_close(reduced.losses, full.losses, rtol=0.01, atol=0.01)


def test_in_bfloat16_a_row_trains_as_any_loop_under_autocast() -> None:
    """Also the second row: autocast would remember the weights of the first."""
    model = key_dropout(mlp(SHAPE, CLASSES))
    layout = Layout.of(model)
    rows = torch.randn(2, layout.width) / 8
    batch = Batch(
        torch.randn(2, 4, *SHAPE), torch.randint(0, CLASSES, (2, 4)), torch.zeros(2, 4)
    )
    grads = torch.zeros_like(rows)
    losses = Reduced(LoopGradient(model, layout, F.cross_entropy))(rows, {}, batch, grads)
    for row, grad, loss, inputs, targets in zip(
        rows, grads, losses, batch.inputs, batch.targets, strict=True
    ):
        layout.unpack(row, model)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            expected = F.cross_entropy(model(inputs), targets)
        expected.backward()
        torch.testing.assert_close(loss, expected.detach())
        found = layout.views(grad[None])
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(
                found[key][0], parameter.grad, rtol=0.02, atol=1e-3
            )


def test_what_vmap_cannot_do_in_bfloat16_is_done_in_a_loop_and_said() -> None:
    gradient, reason = chosen(Attention(), "auto", 8, "bfloat16")
    assert (gradient.kind, reason) == ("vmap", "all rows together, by vmap, in bfloat16")
    gradient, reason = chosen(Normalised(), "auto", 8, "bfloat16")
    assert gradient.kind == "loop"
    assert reason.startswith(
        "one row at a time, in bfloat16: vmap cannot run this model ("
    )
    with pytest.raises(ConfigError, match="vmap cannot run this model"):
        chosen(Normalised(), "vmap", 8, "bfloat16")


class Normalised(nn.Module):
    """BatchNorm in a module that is no plain sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.answer = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.norm(self.convolve(x)).mean((2, 3)))


# --- activations that are computed again ----------------------------------------------------------

TEXT = {"task": "text(context=16)", "replicas": "loop", "nodes": 2, "init": "independent"}
SMALL = "model_type=gpt2, n_layer=2, n_embd=16, n_head=2"
AGAIN: dict[str, dict[str, Any]] = {
    "gpt": {"model": "gpt(layers=2, width=16, heads=2)"},
    "in bfloat16": {"model": "gpt(layers=2, width=16, heads=2)", "precision": "bfloat16"},
    "in small batches": {"model": "gpt(layers=2, width=16, heads=2)", "micro_batch": 3},
    "moe": {"model": "qwen2_moe(layers=2, width=16, heads=2)"},
    "vit": {"model": "vit(layers=2, width=16, heads=2)", "task": "digits"},
    "transformers, with dropout": {"model": f"hf(config={{{SMALL}}})"},
    "adapters": {"model": f"lora(config={{{SMALL}}}, rank=2)"},
}


@pytest.mark.parametrize("name", list(AGAIN))
def test_layers_that_are_computed_again_change_no_bit(name: str) -> None:
    blocks = [
        tiny_block(**TEXT | AGAIN[name], activation_checkpointing=again)
        for again in (False, True)
    ]
    for block in blocks:
        for _ in range(2):
            block.gradient()
            block.adapt()
    plain, again = blocks
    assert "computed again" in again.pipeline.reason
    assert plain.grads.norm() > 0
    assert torch.equal(plain.grads, again.grads)
    assert torch.equal(plain.rows, again.rows)
    assert torch.equal(plain.losses, again.losses)


def most_held(block: Any) -> int:
    """Return the bytes that a gradient holds at most, beside what was there before."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as seen:
        block.gradient()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_layers_that_are_computed_again_hold_less_memory_as_the_estimate_says() -> None:
    deep = {"model": "gpt(layers=6, width=16, heads=2)", "nodes": 1, "batch": 32}
    blocks = [
        tiny_block(**TEXT | deep, activation_checkpointing=again)
        for again in (False, True)
    ]
    for block in blocks:
        block.gradient()  # what is made once is made
    plain, again = map(most_held, blocks)
    assert again < 0.6 * plain
    expected, less = (block.setup.activation_memory for block in blocks)
    assert less < 0.6 * expected


def test_what_is_repeated_are_layers_of_parts_in_lists() -> None:
    part = lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU())  # noqa: E731
    assert repeated_layers(part()) == []
    inside = [Attention(), Attention()]
    held = nn.ModuleDict({"layers": nn.ModuleList(inside), "head": nn.Linear(2, 2)})
    assert repeated_layers(held) == inside
    assert (
        repeated_layers(nn.Sequential(nn.Sequential(*inside), nn.Linear(2, 2))) == inside
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "digits", "model": "mlp"}, "has no layers of parts"),
        (
            {"task": "digits", "model": "resnet20(norm=batch)"},
            "does not come out the same",
        ),
        ({"replicas": "vmap"}, "leave replicas vmap out"),
        ({"compile": "default"}, "leave compile out"),
    ],
)
def test_models_that_cannot_be_computed_again_are_refused(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_block(**settings, activation_checkpointing=True)
