"""The row layout: where every tensor of a model lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from decentral import ConfigError
from decentral.layout import ALIGNMENT, Layout


class Tied(nn.Module):
    """An encoder and a decoder that share one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(5, 3, bias=False)
        self.decode = nn.Linear(3, 5)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.decode.weight = nn.Parameter(torch.randn(5, 3))
        self.again = nn.Linear(3, 5, bias=False)
        self.again.weight = self.decode.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.encode(x)
        return self.scale * (self.decode(hidden) + self.again(hidden))


class Rich(nn.Module):
    """Frozen parameters, float and integer buffers, persistent or not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
        self.body[0].weight.requires_grad_(False)
        self.register_buffer("places", torch.arange(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 2), "tied": Tied, "rich": Rich,
    "normed": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)),
}  # fmt: skip
every = pytest.mark.parametrize("name", list(MODELS))


def by_dimension(name: str, parameter: nn.Parameter) -> int:
    return int(parameter.dim() < 2)


@every
@pytest.mark.parametrize("rule", [None, by_dimension])
def test_columns_do_not_overlap_and_groups_and_buffers_are_aligned(
    name: str, rule
) -> None:  # type: ignore[no-untyped-def]
    model = MODELS[name]()
    layout = Layout.of(model, rule) if rule else Layout.of(model)
    entries = [*layout.parameters, *layout.buffers]
    taken = [column for entry in entries for column in range(entry.start, entry.stop)]
    assert len(taken) == len(set(taken))
    assert 0 <= layout.width - (max(taken) + 1) < ALIGNMENT
    assert layout.width % ALIGNMENT == layout.trainable % ALIGNMENT == 0
    assert all(start % ALIGNMENT == 0 for start, _ in layout.groups)
    if layout.buffers:
        assert layout.buffers[0].start % ALIGNMENT == 0
    for entry in layout.parameters:
        assert sum(a <= entry.start and entry.stop <= b for a, b in layout.groups) == 1
    for start, stop in layout.groups:  # no padding inside a group
        inside = [e for e in layout.parameters if start <= e.start < stop]
        assert sum(e.stop - e.start for e in inside) == stop - start
    assert 0 <= layout.trainable - layout.groups[-1][1] < ALIGNMENT


@every
def test_a_model_survives_being_packed_and_unpacked(name: str) -> None:
    torch.manual_seed(0)
    model, other = MODELS[name](), MODELS[name]()
    layout = Layout.of(model)
    row = torch.full((layout.width,), torch.nan)
    layout.pack(model, row)
    layout.unpack(row, other)
    for key, value in other.named_parameters():
        if value.requires_grad:
            assert torch.equal(value, dict(model.named_parameters())[key])
    for entry in layout.buffers:
        theirs = dict(model.named_buffers())[entry.name]
        assert torch.equal(dict(other.named_buffers())[entry.name], theirs)
    again = torch.full_like(row, torch.nan)
    layout.pack(other, again)
    torch.testing.assert_close(again, row, rtol=0, atol=0, equal_nan=True)


def test_tied_weights_appear_once_and_stay_tied() -> None:
    model = Tied()
    layout = Layout.of(model)
    assert layout.parameter_count == 15 + 15 + 5 + 1
    row = torch.zeros(layout.width)
    layout.pack(model, row)
    layout.unpack(row * 2, model)
    assert model.again.weight is model.decode.weight


def test_frozen_parameters_and_integers_stand_beside_the_row() -> None:
    layout = Layout.of(Rich())
    named = {entry.name for entry in layout.parameters}
    assert "body.0.weight" in layout.frozen
    assert named == {
        "body.0.bias",
        "body.1.weight",
        "body.1.bias",
        "body.2.weight",
        "body.2.bias",
    }
    assert {e.name for e in layout.buffers} == {
        "body.1.running_mean",
        "body.1.running_var",
    }
    assert set(layout.integers) == {"body.1.num_batches_tracked"}, (
        "constants are not kept"
    )
    assert layout.payload(buffers=True) == layout.payload(buffers=False) + 12


@given(nodes=st.integers(1, 5))
def test_views_share_memory_with_the_block(nodes: int) -> None:
    layout = Layout.of(Rich())
    block = torch.zeros(nodes, layout.width)
    for name, view in layout.views(block).items():
        shape = next(e.shape for e in layout.parameters if e.name == name)
        assert view.shape == (nodes, *shape)
        view += 1
    assert block.sum().item() == nodes * layout.parameter_count
    layout.trainable_view(block).zero_()
    assert block.abs().sum() == 0


def test_a_model_that_cannot_learn_is_refused() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    for useless in (model, nn.ReLU()):
        with pytest.raises(ConfigError, match="no trainable parameters"):
            Layout.of(useless)
