"""Lines, planes, features, noise and spread against closed forms."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from decentral.layout import Layout
from decentral.metrics.geometry import (
    Features,
    Noise,
    agreement,
    along,
    around,
    barrier,
    cka,
    cosine,
    gram,
    layer_names,
    layer_spread,
    mean_cosine,
    noise_scale,
    positions,
    through,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(drawn(size, size, seed=9)).Q


# --- lines ----------------------------------------------------------------------------------------


def test_a_line_is_looked_at_at_forty_points_and_at_its_ends() -> None:
    places = positions()
    assert len(places) == 42
    assert (places[0].item(), places[-1].item()) == (-0.2, 1.2)
    assert {0.0, 1.0} <= set(places.tolist())


def test_the_barrier_between_two_known_minima() -> None:
    """L(x) = (x^2 - 1)^2 + x / 4 has minima near -1 and 1 and a barrier of known height."""
    places = positions(1001)
    ends = torch.tensor([-1.0, 0.5], dtype=torch.float64), torch.tensor([1.0, 0.5])
    x = torch.stack(list(along(ends[0], ends[1].double(), places)))[:, 0]
    losses = (x**2 - 1) ** 2 + x / 4
    # Above the chord x / 4 between the ends the rest is (x^2 - 1)^2, at most 1, in the middle.
    assert barrier(places, losses) == pytest.approx(1.0, abs=1e-5)


@given(curvature=st.floats(0.1, 10), minimum=st.floats(-2, 2))
def test_within_one_valley_there_is_no_barrier_but_a_depth(
    curvature: float, minimum: float
) -> None:
    """Of a parabola the middle lies a quarter of its curvature over two below the chord."""
    places = positions()
    losses = curvature / 2 * (places - minimum) ** 2
    assert barrier(places, losses) == pytest.approx(0.0, abs=1e-12)
    deepest = ((places * (1 - places)).clamp_min(0) * curvature / 2).max().item()
    assert barrier(places, -losses) == pytest.approx(deepest)
    assert deepest == pytest.approx(curvature / 8, rel=2e-3)


# --- planes ---------------------------------------------------------------------------------------


def test_the_plane_through_three_rows_holds_them_and_distances_are_kept() -> None:
    rows = drawn(3, 40)
    plane = through(*rows, points=5)
    assert plane is not None
    places = [plane.coordinates(row) for row in rows]
    for row, place in zip(rows, places, strict=True):
        torch.testing.assert_close(plane.at(*place), row)
    assert places[0] == (0.0, 0.0)
    assert places[1] == pytest.approx(((rows[1] - rows[0]).norm().item(), 0.0))
    apart = torch.tensor(places, dtype=torch.float64)
    torch.testing.assert_close(torch.pdist(apart), torch.pdist(rows))
    for axis, grid in enumerate((plane.u, plane.v)):
        values = [place[axis] for place in places]
        assert grid[0] < min(values)
        assert max(values) < grid[-1]


def test_three_rows_on_a_line_have_no_plane() -> None:
    one, two = drawn(2, 8)
    assert through(one, two, (one + two) / 2, points=3) is None
    assert through(one, one, two, points=3) is None


def test_the_grid_of_a_plane_is_read_row_by_row() -> None:
    plane = through(*drawn(3, 6), points=3)
    assert plane is not None
    lines = [list(line) for line in plane.lines()]
    assert [len(line) for line in lines] == [3, 3, 3]
    torch.testing.assert_close(
        lines[2][0], plane.at(plane.u[0].item(), plane.v[2].item())
    )


def test_random_directions_are_as_long_as_every_filter_and_leave_biases_alone() -> None:
    layout = Layout.of(nn.Linear(7, 4))
    row = drawn(layout.width)
    plane = around(row, layout, seed=3, points=5)
    views = layout.views(torch.stack([row, plane.first]))
    torch.testing.assert_close(*views["weight"].norm(dim=2))
    assert (views["bias"][1] == 0).all()
    assert (plane.first @ plane.second).item() == pytest.approx(0, abs=1e-9)
    assert plane.u.tolist() == [-1, -0.5, 0, 0.5, 1]
    again = around(row, layout, seed=3, points=5)
    assert torch.equal(again.second, plane.second)
    assert not torch.equal(around(row, layout, seed=4, points=5).first, plane.first)


# --- features -------------------------------------------------------------------------------------


def test_cka_of_the_same_rotated_scaled_and_shifted_features_is_one() -> None:
    features = drawn(50, 6)
    changed = 3 * features @ rotation(6) + 5
    assert cka(gram(features), gram(features)) == pytest.approx(1)
    assert cka(gram(features), gram(changed)) == pytest.approx(1)


def test_cka_of_orthogonal_features_is_zero_and_of_constant_ones_unknown() -> None:
    basis = torch.linalg.qr(drawn(20, 8) - drawn(20, 8).mean(0)).Q
    basis = torch.linalg.qr(basis - basis.mean(0)).Q
    assert cka(gram(basis[:, :4]), gram(basis[:, 4:])) == pytest.approx(0, abs=1e-12)
    assert cka(gram(torch.ones(5, 2)), gram(drawn(5, 2))) is None


def test_cka_is_that_of_covariances() -> None:
    """The definition in feature space: |Y^T X|^2 / (|X^T X| |Y^T Y|)."""
    x, y = drawn(30, 4), drawn(30, 7, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    wanted = (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert cka(gram(x), gram(y)) == pytest.approx(wanted.item())


def test_features_are_the_outputs_of_layers_and_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    layout, inputs = Layout.of(model), drawn(20, 5)
    row = drawn(layout.width)
    look = Features(model, layout, inputs)
    found = look(row)
    assert list(found) == layer_names(layout) == ["0", "2"]
    weight, bias = (
        layout.views(row.unsqueeze(0))[f"0.{name}"][0] for name in ("weight", "bias")
    )
    torch.testing.assert_close(found["0"], gram(inputs @ weight.T + bias))
    assert agreement(found, look(row)) == pytest.approx({"0": 1.0, "2": 1.0})
    assert all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )


def test_permuted_hidden_units_have_the_same_features() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    layout = Layout.of(model)
    row, changed = drawn(layout.width), torch.zeros(layout.width, dtype=torch.float64)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    new = layout.views(changed.unsqueeze(0))
    for name, value in layout.views(row.unsqueeze(0)).items():
        new[name].copy_(value[:, :, order] if name == "2.weight" else value)
    for name in ("0.weight", "0.bias"):
        new[name].copy_(layout.views(row.unsqueeze(0))[name][:, order])
    look = Features(model, layout, drawn(20, 5))
    assert agreement(look(row), look(changed)) == pytest.approx({"0": 1.0, "2": 1.0})


# --- noise ----------------------------------------------------------------------------------------


def test_the_noise_scale_of_a_known_gaussian() -> None:
    """Gradients of single samples are N(G, s^2 I): tr = P s^2, and b samples divide it by b."""
    width, batch, count = 500, 8, 4000
    gradient = torch.full((width,), 0.3, dtype=torch.float64)
    batches = gradient + 2.0 * drawn(count, width) / sqrt(batch)
    found = noise_scale(iter(batches), batch)
    assert found.signal == pytest.approx(width * 0.09, rel=0.02)
    assert found.noise == pytest.approx(width * 4.0, rel=0.02)
    assert found.scale == pytest.approx(4.0 / 0.09, rel=0.03)


def test_the_estimate_is_unbiased_where_few_batches_are_seen() -> None:
    tries = [noise_scale(1 + drawn(2, 20, seed=seed), 1) for seed in range(3000)]
    signal, noise = (
        sum(getattr(one, name) for one in tries) / len(tries)
        for name in ("signal", "noise")
    )
    assert signal == pytest.approx(20, rel=0.03)
    assert noise == pytest.approx(20, rel=0.03)


def test_a_signal_that_is_lost_has_no_scale() -> None:
    assert Noise(-0.1, 3.0).scale is None
    assert Noise(2.0, 3.0).scale == 1.5


# --- spread ---------------------------------------------------------------------------------------


def test_the_spread_of_layers_adds_up_to_the_consensus_distance() -> None:
    layout = Layout.of(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    rows = drawn(6, layout.width)
    for entry in (layout.parameters[-1],):
        rows[:, entry.stop :] = 0
    mean = rows.mean(0)
    layers = layer_spread(rows, mean, layout)
    assert [(layer.name, layer.parameters) for layer in layers] == [("0", 24), ("2", 10)]
    whole = sqrt(sum(layer.distance**2 for layer in layers))
    packed = torch.cat([rows[:, e.start : e.stop] for e in layout.parameters], 1)
    wanted = (packed - packed.mean(0)).square().sum(1).mean().sqrt().item()
    assert whole == pytest.approx(wanted)
    first = packed[:, :24].mean(0).norm().item()
    assert layers[0].relative == pytest.approx(layers[0].distance / first)


@given(seed=st.integers(0, 30), nodes=st.integers(2, 12))
def test_the_mean_cosine_is_that_over_all_pairs(seed: int, nodes: int) -> None:
    rows, origin = drawn(nodes, 7, seed=seed), drawn(7, seed=seed + 1)
    pairs = [cosine(rows[i], rows[j], origin) for i in range(nodes) for j in range(i)]
    known = [value for value in pairs if value is not None]
    assert mean_cosine(rows, origin) == pytest.approx(sum(known) / len(pairs))


def test_rows_that_did_not_move_have_no_angle() -> None:
    rows = torch.stack([torch.zeros(3), torch.ones(3), 2 * torch.ones(3)]).double()
    origin = torch.zeros(3, dtype=torch.float64)
    assert cosine(rows[0], rows[1], origin) is None
    assert mean_cosine(rows, origin) == pytest.approx(1)
    assert mean_cosine(rows[:2], origin) is None
