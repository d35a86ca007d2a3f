"""Aligning hidden units: the best orders, symmetries, merges of permuted copies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decentral.layout import Layout
from decentral.merging.aligned import Hidden, align, hidden_units, permute
from decentral.merging.base import Models, merge_models
from decentral.registry import build

MODELS = {
    "mlp(hidden=[7, 6])": ((9,), 3, 2),
    "mlp(hidden=[12])": ((9,), 3, 1),
    "cnn(channels=[4, 6])": ((1, 8, 8), 3, 2),
    "cnn(channels=[4, 6], norm=batch)": ((1, 8, 8), 3, 2),
    "cnn(channels=[4, 6], norm=group)": ((1, 8, 8), 3, 2),
    "resnet20(norm=batch)": ((3, 8, 8), 3, 9),
    "vit(layers=2, width=16, heads=4)": ((1, 8, 8), 3, 4),
    "gpt(layers=2, width=16, heads=4)": ((8,), 11, 4),
    "gpt(layers=1, width=16, heads=2, activation=gelu, tied=true)": ((8,), 11, 2),
}
every = pytest.mark.parametrize("spec", MODELS)


def made(spec: str, seed: int = 0) -> tuple[nn.Module, Layout, Tensor, Tensor]:
    """Return a model in double precision, its layout, a row with random numbers, and inputs."""
    shape, outputs, _ = MODELS[spec]
    torch.manual_seed(seed)
    model = build("model", spec)(shape, outputs).double().eval()
    layout = Layout.of(model)
    row = torch.randn(layout.width, dtype=torch.float64) / 3
    for entry in layout.buffers:  # variances are positive
        row[entry.start : entry.stop] = row[entry.start : entry.stop].abs() + 0.5
    inputs = (
        torch.randint(0, outputs, (5, *shape))
        if spec[:3] == "gpt"
        else torch.randn(5, *shape)
    )
    return model, layout, row, inputs if spec[:3] == "gpt" else inputs.double()


def outputs_of(model: nn.Module, layout: Layout, row: Tensor, inputs: Tensor) -> Tensor:
    layout.unpack(row, model)
    with torch.no_grad():
        return model(inputs)


def shuffled(row: Tensor, layers: list[Hidden], seed: int) -> Tensor:
    copy, draw = row.clone(), torch.Generator().manual_seed(seed)
    for hidden in layers:
        permute(copy, hidden, torch.randperm(hidden.units, generator=draw))
    return copy


def models_of(spec: str, rows: Tensor, loss: Any = None) -> Models:
    model, layout, _, _ = made(spec)
    return Models(
        rows=rows, samples=torch.ones(len(rows)), start=torch.zeros_like(rows[0]), model=model,
        layout=layout, seed=0, loss=loss or (lambda row: row.square().sum().item()),
        fisher=torch.ones_like,
    )  # fmt: skip


def test_a_layer_is_put_into_the_best_of_all_orders() -> None:
    """All orders of six units are tried; whole numbers as weights make many of them equal."""
    shape, outputs = (3,), 2
    model = build("model", "mlp(hidden=[6])")(shape, outputs).double()
    layout = Layout.of(model)
    layers = hidden_units(model, layout)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        row, other = torch.randn(2, layout.width, dtype=torch.float64, generator=draw)
        if seed % 2:
            row, other = row.round(), other.round()
        best = max(
            (ordered(row, layers[0], order) @ other).item()
            for order in permutations(range(6))
        )
        moved = align(row, other, layers)
        assert (row @ other).item() == pytest.approx(best)
        assert moved
        assert not align(row, other, layers)


def ordered(row: Tensor, hidden: Hidden, order: Sequence[int]) -> Tensor:
    copy = row.clone()
    permute(copy, hidden, torch.tensor(order))
    return copy


@every
def test_permuted_units_change_nothing_but_the_row(spec: str) -> None:
    model, layout, row, inputs = made(spec)
    layers = hidden_units(model, layout)
    assert len(layers) == MODELS[spec][2]
    wanted = outputs_of(model, layout, row, inputs)
    for index, hidden in enumerate(layers):
        changed = shuffled(row, [hidden], index + 1)
        assert not torch.equal(changed, row)
        assert torch.equal(changed.sort().values, row.sort().values)
        torch.testing.assert_close(outputs_of(model, layout, changed, inputs), wanted)


@every
def test_permuted_copies_of_one_model_merge_to_it(spec: str) -> None:
    """To its function exactly, in the order of units of the best: the first, with a loss of 0."""
    model, layout, row, inputs = made(spec)
    layers = hidden_units(model, layout)
    rows = torch.stack([row, *(shuffled(row, layers, seed) for seed in range(1, 4))])
    models = models_of(spec, rows, lambda one: float(not torch.equal(one, row)))
    found = merge_models(build("merge", "aligned"), models)
    torch.testing.assert_close(found, row)
    wanted = outputs_of(model, layout, row, inputs)
    torch.testing.assert_close(outputs_of(model, layout, found, inputs), wanted)
    average = outputs_of(model, layout, rows.mean(0), inputs)
    assert (average - wanted).abs().max() > 0.01  # which a plain average is far from


@every
def test_equal_models_stay_and_the_order_of_nodes_is_irrelevant(spec: str) -> None:
    _, _, row, _ = made(spec)
    rule = build("merge", "aligned")
    torch.testing.assert_close(
        merge_models(rule, models_of(spec, row.expand(3, -1))), row
    )
    rows = torch.stack([made(spec, seed)[2] for seed in range(4)])
    wanted = merge_models(rule, models_of(spec, rows))
    torch.testing.assert_close(
        merge_models(rule, models_of(spec, rows[[2, 0, 3, 1]])), wanted
    )


def test_noisy_permuted_copies_come_together() -> None:
    """The average of three noisy copies has a third of the variance of the noise."""
    spec = "mlp(hidden=[12])"
    model, layout, row, _ = made(spec)
    layers = hidden_units(model, layout)
    noise = torch.stack([0.02 * made(spec, seed)[2] for seed in (1, 2, 3)])
    rows = torch.stack([shuffled(row + n, layers, k) for k, n in enumerate(noise)])
    found = merge_models(build("merge", "aligned"), models_of(spec, rows))
    nearest = min((found - shuffled(row, layers, k)).norm().item() for k in range(3))
    assert nearest == pytest.approx(noise.mean(0).norm().item())
    assert nearest < 0.02 * (rows.mean(0) - row).norm().item()


def test_what_is_not_known_is_left_alone() -> None:
    """Units within groups, across unknown layers, and of convolutions that are read as rows."""
    broken = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 3), nn.Softmax(1),
        nn.Conv2d(6, 6, 1), nn.Linear(6, 6),
    )  # fmt: skip
    assert hidden_units(broken, Layout.of(broken)) == []
    model = nn.Linear(4, 2)
    rows = torch.randn(3, Layout.of(model).width)
    models = Models(
        rows=rows, samples=torch.ones(3), start=rows[0], model=model, layout=Layout.of(model),
        seed=0, loss=lambda row: row.sum().item(), fisher=torch.ones_like,
    )  # fmt: skip
    torch.testing.assert_close(
        merge_models(build("merge", "aligned"), models), rows.mean(0)
    )
