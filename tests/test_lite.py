"""LITE: sharp subspaces, the valley, schedules, and its base optimizers where it is off."""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from typing import Any

import pytest
import torch
from matrices import Optimizer, after, assert_same, drawn, with_spectrum
from support import tiny_block
from torch import Tensor, nn

from decentral import ConfigError
from decentral.optim import Muon, MuonLite, Soap, SoapLite
from decentral.optim.lite import beta2_now, chi_now
from decentral.optim.matrix import Bucket, Member, msign
from decentral.schedules import Progress

#: LITE with everything off.
IDENTITY: dict[str, Any] = {
    "beta1": 0.0, "beta2": 0.0, "chi": {key: 1.0 for key in ("embedding", "norm", "qk", "ffn")},
}  # fmt: skip


def lite(rows: int, cols: int, **settings: Any) -> tuple[MuonLite, nn.Parameter]:
    parameter = nn.Parameter(torch.zeros(rows, cols, dtype=torch.float64))
    return MuonLite([("mlp.weight", parameter)], **settings), parameter


def isometry(optimizer: MuonLite, parameter: nn.Parameter, momentum: Tensor) -> Tensor:
    """Return P for one momentum, and let the threshold follow."""
    (group,) = optimizer.param_groups
    state: dict[str, Any] = optimizer.state[parameter]
    bucket = Bucket([Member("mlp.weight", "ffn", parameter, parameter, parameter, state)])
    sign = msign(momentum[None], 6, "polar")
    return optimizer._isometry(group, bucket, momentum[None], sign, 0.1)[0]


def test_the_sharp_subspace_is_that_of_the_largest_singular_values() -> None:
    """64x48, spectrum 1 to 0.01: P^T P is a projector on the first right singular vectors."""
    momentum = with_spectrum(torch.logspace(0, -2, 48).double(), 64, 48)
    optimizer, parameter = lite(64, 48)
    found = [isometry(optimizer, parameter, momentum) for _ in range(40)]
    sizes = [float(p.norm() ** 2) for p in found]
    wanted = floor(0.1 * 48) + 1
    assert sizes[0] > 2 * wanted
    assert all(wanted - 1.05 < size < wanted + 1.05 for size in sizes[12:])
    p = found[-1]
    rank = round(sizes[-1])
    _, _, right = torch.linalg.svd(momentum)
    captured = (p @ right[:rank].T).square().sum() / rank
    assert captured > 0.99
    values = torch.linalg.eigvalsh(p.T @ p)
    assert values[-rank + 1 :].min() > 0.95
    assert values[: -rank - 1].max() < 0.05


def test_the_controller_finds_the_rank_again_after_a_change() -> None:
    optimizer, parameter = lite(64, 48)
    for seed, decay in ((0, -2), (7, -0.5)):
        momentum = with_spectrum(torch.logspace(0, decay, 48).double(), 64, 48, seed)
        sizes = [
            float(isometry(optimizer, parameter, momentum).norm() ** 2) for _ in range(60)
        ]
        assert 3.5 < sum(sizes[-20:]) / 20 < 6.5


@pytest.mark.parametrize("off", ["identity", "no sharp directions"])
def test_lite_with_everything_off_is_muon(off: str) -> None:
    settings: dict[str, Any] = IDENTITY | {"total_steps": 20}
    if off == "no sharp directions":
        settings = {"sharp": {"qk": 0, "ffn": 0}, "chi": IDENTITY["chi"], "beta2": 2.0}
    # AdamW adds eps after correcting for the start, LITE before: next to nothing is added here.
    ours = after(lambda named: MuonLite(named, eps=1e-30, betas=(0.9, 0.95), **settings))
    muon = after(lambda named: Muon(named, newton_schulz="polar", steps=6, eps=1e-30))
    assert_same(ours, muon, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "change", [{"beta2": 1.0}, {"beta1": -0.25}, {"chi": {"ffn": 2.0}}]
)
def test_each_part_of_lite_does_something(change: dict[str, Any]) -> None:
    base: dict[str, Any] = IDENTITY | {"schedule": "wsd"}
    plain = after(lambda named: MuonLite(named, **base))
    changed = after(lambda named: MuonLite(named, **(base | change)))
    assert not torch.allclose(plain["mlp.fc1.weight"], changed["mlp.fc1.weight"])


def test_what_lite_does_on_flat_directions_it_does_not_do_on_sharp_ones() -> None:
    """One step from the same state: D changes by chi - 1 times D Q only."""
    grad = with_spectrum(torch.logspace(0, -3, 24).double(), 32, 24)
    moved = []
    for chi in (1.0, 3.0):
        settings = {"beta1": 0.0, "beta2": 0.0, "chi": {"ffn": chi}, "schedule": "wsd"}
        optimizer, parameter = lite(32, 24, lr=1.0, weight_decay=0.0, **settings)
        for _ in range(30):  # lets the threshold settle
            before = parameter.detach().clone()
            parameter.grad = grad.clone()
            optimizer.step()
        moved.append(before - parameter.detach())
    _, _, right = torch.linalg.svd(grad)
    ratios = (moved[1] @ right.T).norm(dim=0) / (moved[0] @ right.T).norm(dim=0)
    torch.testing.assert_close(ratios[:2], torch.ones(2).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(
        ratios[6:], torch.full((18,), 3.0).double(), rtol=0.02, atol=0
    )


class Valley:
    """f(W) = tr(W H W^T) / 2 with 4 steep directions, and noise shaped like the Hessian."""

    def __init__(self) -> None:
        self.curvature = torch.cat([torch.full((4,), 1e3), torch.ones(36)]).double()

    def losses(
        self, make: Callable[..., Optimizer], lr: float, **settings: Any
    ) -> list[float]:
        """Return the loss on flat and on steep directions after 400 steps of cosine decay."""
        weight = nn.Parameter(drawn(64, 40))
        optimizer = make([("mlp.weight", weight)], weight_decay=0.0, **settings)
        for step in range(400):
            noise = 3 * drawn(64, 40, seed=step + 1) * self.curvature.sqrt()
            weight.grad = weight.detach() * self.curvature + noise
            wave = (1 + torch.cos(torch.tensor(torch.pi * step / 400)).item()) / 2
            for group in optimizer.param_groups:
                group["lr"] = lr * (0.1 + 0.9 * wave)
            optimizer.step()
        terms = 0.5 * self.curvature * weight.detach().square().sum(0)
        return [terms[4:].sum().item(), terms[:4].sum().item()]


def test_lite_descends_along_the_valley_and_is_no_worse_across() -> None:
    """With beta1 = 0 at a small rate: less than half of Muon's flat loss, the same steep loss."""
    valley = Valley()
    polar = {"newton_schulz": "polar", "steps": 6}
    settings = {
        "beta1": 0.0,
        "beta2": 1.0,
        "chi": {"ffn": 2.0},
        "total_steps": 400,
        "floor": 0.1,
    }
    flat, steep = valley.losses(Muon, 0.02, **polar)
    ours_flat, ours_steep = valley.losses(MuonLite, 0.02, schedule="cosine", **settings)
    assert ours_flat < 0.5 * flat
    assert ours_steep < 1.05 * steep


def cosine_group(**changes: float) -> dict[str, Any]:
    base = {"schedule": "cosine", "warmup": 0.2, "floor": None, "flat_warmup": None}
    told = {"cosine": False, "warmup": 0.9, "floor": 0.1}
    return base | {"course": told, "beta1": -0.25, "beta2": 1.0} | changes


def test_beta2_rises_from_beta1_after_the_warm_up_and_stays() -> None:
    group = cosine_group()
    # Half of the 80 % that follow the warm-up, so up to 60 %.
    wanted = {0.0: -0.25, 0.2: -0.25, 0.4: 0.375, 0.6: 1.0, 0.9: 1.0}
    assert {at: beta2_now(group, at) for at in wanted} == pytest.approx(wanted)
    assert beta2_now(cosine_group(flat_warmup=0.25), 0.4) == pytest.approx(1.0)
    wsd = cosine_group() | {"schedule": "wsd"}  # twice the warm-up
    assert beta2_now(wsd, 0.2 + 0.8 * 0.2) == pytest.approx(0.375)


def test_chi_rises_then_lets_all_rates_end_alike() -> None:
    group = cosine_group()
    chi = {at: chi_now(group, 2.0, at, hidden=True) for at in (0.0, 0.2, 0.4, 1.0)}
    assert chi == pytest.approx({0.0: 1.0, 0.2: 1.0, 0.4: 1.5, 1.0: 1.0})
    others = {at: chi_now(group, 4.0, at, hidden=False) for at in (0.0, 0.2, 0.6, 1.0)}
    middle = (0.1 + 3.9 * 0.5) / (0.1 + 0.9 * 0.5)
    assert others == pytest.approx({0.0: 4.0, 0.2: 4.0, 0.6: middle, 1.0: 1.0})
    assert chi_now(cosine_group() | {"schedule": "wsd"}, 4.0, 0.0, hidden=True) == 4.0


def test_the_mask_of_adam_lets_the_asked_share_of_coordinates_be_sharp() -> None:
    parameter = nn.Parameter(torch.ones(500, dtype=torch.float64))
    scale = torch.logspace(0, -2, 500).double()
    settings: dict[str, Any] = {
        "weight_decay": 0.0,
        "schedule": "wsd",
        "chi": {"norm": 4.0},
    }
    dummy = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    optimizer = MuonLite(
        [("norm.weight", parameter), ("mlp.weight", dummy)], lr=1e-6, **settings
    )
    for step in range(60):
        before = parameter.detach().clone()
        parameter.grad = scale * (1 if step % 2 else -1)
        optimizer.step()
    moved = (parameter.detach() - before).abs()
    bold = moved / moved[0]  # Adam moves all alike; the first is sharp
    assert 0.07 < (bold < 1.5).double().mean() < 0.13
    assert 0.75 < (bold > 3.9).double().mean() < 0.85


def test_the_run_tells_lite_its_course_and_its_progress() -> None:
    block = tiny_block(
        optimizer="muon_lite", steps=20, algorithm="local", model="mlp(hidden=[8])",
        learning_rate="cosine(lr=0.01, floor=0.2, warmup=25%)",
    )  # fmt: skip
    (group,) = block.optimizer.instances[0].param_groups
    assert group["course"] == {"cosine": True, "warmup": 0.25, "floor": 0.2}
    for done in range(3):
        block.setup.algorithm(block, None)
        assert group["progress"] == done / 20
        block.finish_step()
    # One clock: where the rate is, what chi divides by is, too.
    for step in (3, 5, 12, 20):
        group["progress"] = step / 20
        rate = block.setup.learning_rate(Progress(step, 20)) / 0.01
        wave = (rate - 0.2) / 0.8 if step > 4 else 1.0
        falling = (0.2 + 3.8 * wave) / (0.2 + 0.8 * wave)
        chi = chi_now(group, 4.0, step / 20, hidden=False)
        assert chi == pytest.approx(falling)
    other = tiny_block(
        optimizer="muon_lite", learning_rate="wsd(floor=0.5)", algorithm="local"
    )
    (group,) = other.optimizer.instances[0].param_groups
    assert group["course"] == {"cosine": False, "warmup": 0.0, "floor": 0.5}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"chi": {"kq": 2}}, "unknown block 'kq'.*Did you mean 'qk'"),
        ({"chi": {"qk": 0.5}}, "at least 1"),
        ({"sharp": {"qk": 1.5}}, "between 0 and 1"),
    ],
)
def test_lite_refuses_what_makes_no_sense(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_block(optimizer={"name": "muon_lite", **spec})


def test_soap_lite_with_everything_off_is_soap() -> None:
    settings: dict[str, Any] = IDENTITY | {"eps": 1e-30, "schedule": "wsd"}
    assert_same(
        after(lambda named: SoapLite(named, **settings)),
        after(lambda named: Soap(named, eps=1e-30)), rtol=1e-7, atol=1e-10,
    )  # fmt: skip


def test_the_two_presentations_of_a_network_agree() -> None:
    """A block of rows against an ordinary script with the same names."""
    block = tiny_block(
        nodes=2, optimizer="muon_lite", algorithm="local", dtype="float64", steps=9
    )
    layout = block.setup.layout
    start = block.rows.clone()
    grads = []
    for _ in range(9):
        block.setup.algorithm(block, None)
        grads.append(block.grads.clone())
        block.finish_step()
    named = [
        (name, nn.Parameter(v[1].clone())) for name, v in layout.views(start).items()
    ]
    script = MuonLite(named, total_steps=9, lr=1e-3)
    for grad in grads:
        for (_, parameter), view in zip(named, layout.views(grad).values(), strict=True):
            parameter.grad = view[1].clone()
        script.step()
    for name, parameter in named:
        torch.testing.assert_close(parameter.detach(), layout.views(block.rows)[name][1])
