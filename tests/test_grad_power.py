"""GradPower: sign(g) |g|^p between clipping and the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import tiny_block
from torch import Tensor, nn

from decentral import ConfigError
from decentral.optim import Muon, first_order
from decentral.optim.first_order import grad_power, power_

Maker = Callable[[list[Any]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Maker] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
    "fused adamw": lambda params: torch.optim.AdamW(params, lr=0.01, fused=True),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01),
    "muon": lambda params: Muon(params, lr=0.01),
}
every = pytest.mark.parametrize("name", list(OPTIMIZERS))


def parameters() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = (4, 6), (6,)
    return [
        nn.Parameter(torch.randn(s, generator=draw, dtype=torch.float64)) for s in shapes
    ]


def trained(
    name: str, p: float | None, change: Callable[[Tensor], Tensor] = Tensor.clone
) -> Any:
    """Take five steps on the same gradients, changed first, with or without the hook."""
    params = parameters()
    optimizer = OPTIMIZERS[name](params)
    if p is not None:
        grad_power(optimizer, p)
    draw = torch.Generator().manual_seed(1)
    for _ in range(5):
        for parameter in params:
            grad = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            parameter.grad = change(grad)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in params])


@every
def test_power_one_is_the_base_optimizer_bitwise(name: str) -> None:
    assert torch.equal(trained(name, 1.0), trained(name, None))


@every
def test_the_optimizer_sees_the_powered_gradient_and_nothing_else_changes(
    name: str,
) -> None:
    by_hand = trained(name, None, lambda g: g.sign() * (g.abs() + 1e-8) ** 1.3)
    torch.testing.assert_close(trained(name, 1.3), by_hand, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(trained(name, 1.3), trained(name, None))


def test_decoupled_decay_is_not_touched_and_a_gradient_of_zero_stays_zero() -> None:
    (weight, _) = parameters()
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
    grad_power(optimizer, 1.2)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight.detach(), before * (1 - 0.1 * 0.5))


def test_a_closure_is_followed_by_the_power() -> None:
    params = [parameters()[0] for _ in range(3)]

    def closure(parameter: nn.Parameter) -> Callable[[], Tensor]:
        def run() -> Tensor:
            parameter.grad = None
            loss = parameter.sin().sum()
            loss.backward()
            return loss

        return run

    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in params]
    for optimizer in optimizers:
        grad_power(optimizer, 2.0)
    optimizers[0].step(closure(params[0]))
    optimizers[1].step(closure=closure(params[1]))
    closure(params[2])()
    optimizers[2].step()
    assert torch.equal(params[0], params[2])
    assert torch.equal(params[1], params[2])


def test_the_hook_can_be_removed() -> None:
    (weight, _) = parameters()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    grad_power(optimizer, 3.0).remove()
    before = weight.detach().clone()
    weight.grad = torch.full_like(weight, 2.0)
    optimizer.step()
    assert torch.equal(weight.detach(), before - 2.0)


@pytest.mark.parametrize("p", [0.0, -1.0, float("nan")])
def test_a_power_that_is_not_positive_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        grad_power(torch.optim.SGD(parameters(), lr=0.1), p)


def test_in_a_run_the_power_follows_the_clipping() -> None:
    """Power after clipping: the norm that the power sees is the limit, for every node alone."""
    block = tiny_block(
        task="quadratic(heterogeneity=5)", dtype="float64", algorithm="local", clip=0.5, nodes=5,
        optimizer="sgd(momentum=0, weight_decay=0, grad_power=1.5)", learning_rate=1.0,
    )  # fmt: skip
    start = block.rows.clone()
    block.setup.algorithm(block, None)
    moved = (start - block.rows).abs() ** (1 / 1.5)
    torch.testing.assert_close(
        moved.norm(dim=1), torch.full((5,), 0.5).double(), rtol=1e-5, atol=0
    )


# --- the power itself, in float32 on a CPU --------------------------------------------------------

wide = pytest.mark.parametrize("registers", ["wide", "narrow"])


@pytest.fixture
def power(
    registers: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Tensor, float], Tensor]:
    """Return the power with numpy's logarithms, or with torch's power."""
    monkeypatch.setattr(first_order, "_wide", lambda: registers == "wide")
    return power_


@wide
@given(
    st.lists(st.floats(-1e8, 1e8, width=32), min_size=1, max_size=70),
    st.floats(0.25, 3.5),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_both_ways_of_raising_agree_with_the_formula(
    power: Callable[[Tensor, float], Tensor], numbers: list[float], p: float
) -> None:
    grad = torch.tensor(numbers)
    exact = grad.double().sign() * (grad.double().abs() + 1e-8) ** p
    if p == 1:  # the gradient itself, so that the method is off
        exact = grad.double()
    torch.testing.assert_close(power(grad, p).double(), exact, rtol=2e-5, atol=1e-37)


@pytest.mark.parametrize("registers", ["wide"])
def test_what_becomes_of_a_number_does_not_depend_on_its_place(
    power: Callable[[Tensor, float], Tensor],
) -> None:
    """Torch's own power rounds the last few of a row otherwise."""
    grads = torch.randn(5, 77, generator=torch.Generator().manual_seed(2))
    whole = power(grads.clone(), 1.2)
    for width in (1, 3, 16, 77):
        alone = torch.cat(
            [power(part.clone(), 1.2) for part in grads.split(width, dim=1)], 1
        )
        assert torch.equal(alone, whole)
    assert torch.equal(power(grads.clone()[:, 5:40], 1.2), whole[:, 5:40])


@wide
def test_the_ends_of_the_numbers_stay_what_they_are(
    power: Callable[[Tensor, float], Tensor],
) -> None:
    grads = torch.tensor([0.0, inf, -inf, 3e38, nan])
    expected = torch.tensor([0.0, inf, -inf, inf, nan])
    torch.testing.assert_close(
        power(grads, 1.2), expected, rtol=0, atol=0, equal_nan=True
    )


# --- the toy: E[phi(g)] / sqrt(E[phi(g)^2]) for g = mu + sigma noise, over its value at p = 1 -----

DRAWS = 1 << 20


def drift(noise: Tensor, ratio: float, p: float) -> float:
    """Return the normalised drift; every draw comes with its mirror image."""
    grads = 1.0 + ratio * torch.cat([noise, -noise])
    powered = power_(grads, p)
    return float(powered.mean() / powered.square().mean().sqrt())


def noises() -> dict[str, Tensor]:
    """Return noise of variance 1 of four shapes."""
    level = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    centred = 2 * level - 1
    return {
        "rademacher": torch.ones(1, dtype=torch.float64),
        "uniform": centred * 3**0.5,
        "gaussian": torch.special.ndtri(level),
        "laplace": -centred.sign() * (1 - centred.abs()).log() / 2**0.5,
    }


@pytest.mark.parametrize(
    ("kind", "ratio", "wanted"),
    [
        ("rademacher", 10, {0.8: 0.802, 1.2: 1.196, 1.5: 1.485, 2.0: 1.952}),
        ("rademacher", 1, {0.8: 1.0, 1.2: 1.0, 2.0: 1.0}),
        ("uniform", 10, {0.8: 0.933, 1.2: 1.063, 1.5: 1.149, 2.0: 1.277}),
        ("gaussian", 10, {0.8: 0.996, 1.2: 0.995, 1.5: 0.974, 2.0: 0.918}),
        ("laplace", 10, {0.8: 1.098, 1.2: 0.904, 1.5: 0.770, 2.0: 0.580}),
        *(
            (kind, 0.1, {0.8: 1.002, 1.2: 0.998, 2.0: 0.986})
            for kind in ("gaussian", "uniform")
        ),
    ],
)
def test_what_a_power_gains_depends_on_the_noise(
    kind: str, ratio: float, wanted: dict[float, float]
) -> None:
    """Much under bounded noise, where it grows like p; nothing under Gaussian; a loss beyond."""
    noise = noises()[kind]
    plain = drift(noise, ratio, 1.0)
    for p, gain in wanted.items():
        assert drift(noise, ratio, p) / plain == pytest.approx(gain, abs=1.5e-3)
