"""SAM, adversarial inputs and label noise: formulas, row isolation, one result however computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import tiny_block, trained, vectors
from torch import Tensor, nn

from decentral.gradients import Batch, perturb
from decentral.gradients.perturb import Attack, sharpness_aware
from decentral.layout import Layout
from decentral.loop.block import Block
from decentral.sampling import Sampler
from decentral.schedules import Progress

PLAIN: dict[str, Any] = {
    "nodes": 3, "topology": "ring", "communication": "none", "dtype": "float64",
    "init": "independent", "optimizer": "sgd(momentum=0, weight_decay=0)",
}  # fmt: skip
HOW = {
    "layers": {"replicas": "vmap"},
    "vmap": {
        "replicas": "vmap",
        "model": "cnn(channels=[2], norm=batch)",
        "task": "digits",
    },
    "loop": {"replicas": "loop"},
}
#: Every method at once.
ALL: dict[str, Any] = {
    "sam": {"rho": 0.1, "every": 2}, "adversarial": {"eps": 0.2, "steps": 2, "start": "20%"},
    "label_noise": 0.3, "label_smoothing": 0.1, "clip": 0.5, "clip_value": 0.5,
}  # fmt: skip


def stepped(count: int = 1, **settings: Any) -> Block:
    block = tiny_block(**{**PLAIN, **settings})
    for _ in range(count):
        block.setup.algorithm(block, block.decide())
        block.finish_step()
    return block


def first_batch(block: Block) -> Batch:
    return block.sampler.batch(0, block.batch_size)


def gradients(block: Block, rows: Tensor, batch: Batch) -> Tensor:
    """Return the plain gradients at ``rows``, leaving the block as it is."""
    found, kept = torch.zeros_like(rows), block.rows.clone()
    block.rows.copy_(rows)
    block.pipeline.compute(block.rows, block.integers, batch, found)
    block.rows.copy_(kept)
    return found


# --- SAM ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_the_gradient_at_the_worst_point_of_each_row(adaptive: bool) -> None:
    block = tiny_block(**PLAIN, sam={"rho": 0.3, "adaptive": adaptive})
    batch, start = first_batch(block), block.rows.clone()
    plain = gradients(block, start, batch)
    push = plain * start.abs() if adaptive else plain
    ahead = push * (0.3 / push.norm(dim=1, keepdim=True))
    wanted = gradients(block, start + (ahead * start.abs() if adaptive else ahead), batch)
    block.gradient()
    torch.testing.assert_close(block.grads, wanted, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(block.grads, plain)
    assert torch.equal(block.rows, start)


def test_sam_on_a_quadratic_is_its_closed_form() -> None:
    """With A = 1 the gradient at x + rho g / |g| is g (1 + rho / |g|)."""
    task = "quadratic(condition=1, samples=1)"
    block = tiny_block(**PLAIN | {"task": task, "batch": 1}, sam=0.5)
    plain = tiny_block(**PLAIN | {"task": task, "batch": 1})
    block.gradient(), plain.gradient()
    norm = plain.grads.norm(dim=1, keepdim=True)
    torch.testing.assert_close(block.grads, plain.grads * (1 + 0.5 / norm))
    assert vectors(block).abs().max() == 0


@pytest.mark.parametrize(
    "off", [{"sam": 0.0}, {"sam": {"rho": 0.3, "start": "60%"}}], ids=str
)
def test_sam_that_is_off_changes_no_bit(off: dict[str, Any]) -> None:
    settings = {"optimizer": "sgd", "steps": 20}
    found, wanted = stepped(12, **settings, **off), stepped(12, **settings)
    assert torch.equal(found.rows, wanted.rows)
    if off["sam"]:
        assert not torch.equal(
            stepped(13, **settings, **off).rows, stepped(13, **settings).rows
        )


def test_statistics_see_every_batch_once() -> None:
    model = {"task": "digits", "model": "cnn(channels=[2], norm=batch)"}
    for how in ({"replicas": "vmap"}, {"replicas": "loop"}):
        found, wanted = stepped(**model, **how, sam=0.5), stepped(**model, **how)
        stats = found.setup.layout.buffers
        mine = found.setup.layout.views(found.rows, stats)
        its = wanted.setup.layout.views(wanted.rows, stats)
        assert all(torch.equal(mine[name], its[name]) for name in mine)
        assert found.integers.keys()
        for name, count in found.integers.items():
            assert torch.equal(count, wanted.integers[name])


@pytest.mark.parametrize("momentum", ["restart", "keep"])
@pytest.mark.parametrize(
    "optimizer", ["sgd", "adamw", "torch.optim.RMSprop(momentum=0.5)"]
)
def test_the_optimizer_restarts_where_sam_turns_on_and_off(
    momentum: str, optimizer: str
) -> None:
    """A tiny rho leaves the gradient as it is, so that only the state can make a difference."""
    sam = {"rho": 1e-13, "start": "25%", "stop": "50%", "momentum": momentum}
    settings = {"steps": 20, "optimizer": optimizer}
    found, wanted = stepped(12, **settings, sam=sam), tiny_block(**{**PLAIN, **settings})
    for step in range(12):
        if momentum == "restart" and step in (5, 10):
            wanted.optimizer.restart()
        wanted.setup.algorithm(wanted, None)
        wanted.finish_step()
    torch.testing.assert_close(found.rows, wanted.rows, rtol=1e-8, atol=1e-9)
    assert momentum == "keep" or not torch.allclose(
        found.rows, stepped(12, **settings).rows
    )


def test_under_all_reduce_every_node_moves_by_its_own_gradient_before_the_average() -> (
    None
):
    alone = tiny_block(**PLAIN, sam=0.3)
    settings = {k: v for k, v in PLAIN.items() if k not in ("topology", "communication")}
    block = tiny_block(**settings, algorithm="allreduce", sam=0.3)
    alone.gradient()
    block.gradient(), block.average_gradients()
    torch.testing.assert_close(block.grads, alone.grads.mean(0).expand_as(block.grads))


def test_clipping_comes_after_sam() -> None:
    block = tiny_block(**PLAIN, sam=0.3, clip=0.01)
    block.gradient()
    before = block.grads.clone()
    block.adapt()
    norms = block.grads.norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.01), rtol=1e-3, atol=0)
    cosine = (block.grads * before).sum(1) / (norms * before.norm(dim=1))
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("adaptive", [False, True])
def test_in_a_training_loop_sam_is_that_of_pytorch_optimizer(adaptive: bool) -> None:
    library = pytest.importorskip("pytorch_optimizer")
    mine, its = (
        nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)) for _ in range(2)
    )
    its.load_state_dict(mine.state_dict())
    sgd = torch.optim.SGD(mine.parameters(), lr=0.1, momentum=0.9)
    sam = library.SAM(
        its.parameters(),
        torch.optim.SGD,
        rho=0.2,
        adaptive=adaptive,
        lr=0.1,
        momentum=0.9,
    )
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        x, y = torch.randn(16, 5, generator=draw), torch.arange(16) % 3

        def loss(model: nn.Module, x: Tensor = x, y: Tensor = y) -> Tensor:
            return nn.functional.cross_entropy(model(x), y)

        sgd.zero_grad()
        loss(mine).backward()
        with sharpness_aware(mine, 0.2, adaptive=adaptive):
            loss(mine).backward()
        sgd.step()
        sam.zero_grad()
        loss(its).backward()
        sam.first_step(zero_grad=True)
        loss(its).backward()
        sam.second_step(zero_grad=True)
    for ours, theirs in zip(mine.parameters(), its.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_in_a_training_loop_sam_is_that_of_a_run_and_statistics_return() -> None:
    block = tiny_block(**PLAIN | {"nodes": 1}, sam=0.2)
    model = block.setup.builder().double()
    block.setup.layout.unpack(block.rows[0], model)
    batch = first_batch(block)

    def backward() -> None:
        block.setup.task.loss(model(batch.inputs[0]), batch.targets[0]).backward()

    backward()
    with sharpness_aware(model, 0.2):
        backward()
    block.gradient()
    found = block.setup.layout.views(block.grads)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, found[name][0])
        its = block.setup.layout.views(block.rows)[name][0]
        torch.testing.assert_close(parameter.detach(), its)
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(4, 2)).sum().backward()
    mean = norm.running_mean.clone()  # type: ignore[union-attr]
    with sharpness_aware(norm):
        norm(torch.randn(4, 2))
    assert torch.equal(norm.running_mean, mean)  # type: ignore[arg-type]


# --- adversarial inputs ---------------------------------------------------------------------------


def attack_of(block: Block) -> Callable[..., Tensor]:
    return lambda batch, **how: block.pipeline.attack(
        block.rows, block.integers, batch, **how
    )


@pytest.mark.parametrize("how", HOW, ids=str)
def test_attacked_inputs_stay_near_and_raise_the_loss_of_every_row(how: str) -> None:
    block = stepped(5, **HOW[how], adversarial=0.3)
    batch = first_batch(block)
    rows, integers = block.rows.clone(), {k: v.clone() for k, v in block.integers.items()}
    moved = attack_of(block)(batch, eps=0.3, steps=5, step_size=0.15)
    assert (moved - batch.inputs).abs().max() <= 0.3 + 1e-12
    inputs = block.setup.train.inputs
    assert moved.min() >= inputs.min()
    assert moved.max() <= inputs.max()
    assert torch.equal(block.rows, rows), "statistics are read only"
    assert all(torch.equal(block.integers[k], v) for k, v in integers.items())
    scratch = torch.zeros_like(block.grads)
    clean = block.pipeline.compute(block.rows.clone(), integers, batch, scratch)
    hard = block.pipeline.compute(
        block.rows.clone(), integers, replace(batch, inputs=moved), scratch
    )
    assert (hard > clean).all()


def test_the_start_of_an_attack_is_random_and_repeats_itself() -> None:
    block = tiny_block(**PLAIN, adversarial=0.3)
    batch = first_batch(block)
    tiny = {"eps": 0.3, "steps": 1, "step_size": 1e-12}
    once, again = (attack_of(block)(batch, **tiny) for _ in range(2))
    assert torch.equal(once, again)
    shift = (once - batch.inputs).flatten()
    assert shift.std() == pytest.approx(0.3 / 3**0.5, rel=0.15)


def test_an_attack_on_a_linear_model_goes_to_the_corner_that_hurts_most() -> None:
    """With f = w^T x and the loss (f + 1)^2, f > -1: x moves by eps sign(w)."""
    model = nn.Linear(2, 1, bias=False).double()
    layout = Layout.of(model)
    attack = Attack(model, layout, nn.functional.mse_loss, "loop", (-9.0, 9.0))
    rows = torch.zeros(1, layout.width, dtype=torch.float64)
    rows[0, :2] = torch.tensor([1.0, -2.0])
    clean, keys = torch.zeros(1, 3, 2).double(), torch.arange(3)[None]
    batch = Batch(clean, -torch.ones(1, 3, 1).double(), keys)
    moved = attack(rows, {}, batch, eps=0.1, steps=20, step_size=0.05)
    torch.testing.assert_close(moved, torch.tensor([0.1, -0.1]).double().expand(1, 3, 2))


# --- label noise ----------------------------------------------------------------------------------

KEYS = torch.arange(40_000).view(2, -1) * 0x1234567


def test_flipped_classes_are_uniform_at_the_rate_of_the_level() -> None:
    clean = torch.arange(40_000).view(2, -1) % 5
    found = perturb.flip_classes(clean, KEYS, 0.4, 5)
    assert (found != clean).double().mean().item() == pytest.approx(0.4 * 4 / 5, abs=0.01)
    counts = torch.bincount(found[found != clean], minlength=5)
    assert counts.double().div(counts.sum()).sub(0.2).abs().max() < 0.01
    assert torch.equal(perturb.flip_classes(clean, KEYS, 0.0, 5), clean)


@pytest.mark.parametrize("kind", ["gaussian", "sign"])
def test_noise_on_numbers_has_mean_zero_and_the_deviation_of_the_level(kind: str) -> None:
    clean = torch.linspace(-1, 1, 80_000, dtype=torch.float64).view(2, -1, 2)
    noise = perturb.add_noise(clean, KEYS, 4.0, kind) - clean
    assert noise.mean().item() == pytest.approx(0.0, abs=0.06)
    assert noise.std().item() == pytest.approx(4.0, rel=0.02)
    assert torch.corrcoef(noise.view(-1, 2).T)[0, 1].abs() < 0.02
    if kind == "sign":
        torch.testing.assert_close(noise.abs(), torch.full_like(noise, 4.0))


def test_noise_belongs_to_the_visit_of_a_sample_not_to_its_batch() -> None:
    sampler = tiny_block(**PLAIN).sampler
    whole = sampler.batch(0, 12)
    found = perturb.flip_classes(whole.targets, whole.keys, 0.5, 4)
    part = Sampler(sampler.samples, sampler.plan, [1, 2], sampler.seed).batch(3, 5)
    assert torch.equal(
        perturb.flip_classes(part.targets, part.keys, 0.5, 4), found[1:3, 3:8]
    )


def test_smoothing_is_that_of_torch() -> None:
    outputs, targets = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(1)),
        torch.arange(6) % 4,
    )
    soft = perturb.smooth_labels(targets, 0.1, 4, torch.float32)
    wanted = nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)
    torch.testing.assert_close(nn.functional.cross_entropy(outputs, soft), wanted)


def test_the_imbalance_of_two_layers_changes_by_the_squared_step_only() -> None:
    """|W|^2 - |a|^2 moves by eta^2 e^2 (|a|^2 |x|^2 - |W x|^2) in a step of batch 1."""
    eta = 0.005
    block = tiny_block(
        task="two_layer_linear", nodes=3, steps=200, local_steps=100, topology="ring",
        communication="none", dtype="float64", init="independent", batch=1, split="iid",
        optimizer="sgd(momentum=0, weight_decay=0)", learning_rate=eta, label_noise=4,
    )  # fmt: skip
    worst = 0.0
    for step in range(200):
        views = {k: v.clone() for k, v in block.setup.layout.views(block.rows).items()}
        first, second = views.values()
        batch = block.sampler.batch(step, 1)
        noisy = perturb.add_noise(batch.targets, batch.keys, 4.0, "sign")
        x = batch.inputs.transpose(1, 2)  # [n, d, 1]
        hidden = first @ x
        error = (second @ hidden).flatten() - noisy.flatten()
        size = [(t**2).sum((1, 2)) for t in (first, second, x, hidden)]
        wanted = (eta * error) ** 2 * (size[1] * size[2] - size[3])
        block.setup.algorithm(block, block.decide())
        block.finish_step()
        after = [
            (t**2).sum((1, 2)) for t in block.setup.layout.views(block.rows).values()
        ]
        found = (after[0] - after[1]) - (size[0] - size[1])
        worst = max(worst, ((found - wanted).abs() / wanted.abs()).max().item())
    assert worst < 1e-6


# --- together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp(hidden=[8])", "cnn(channels=[2], norm=batch)"])
def test_rows_together_and_one_by_one_agree_with_everything_on(model: str) -> None:
    settings = {"task": "digits", "model": model, **ALL}
    found = stepped(6, replicas="vmap", **settings)
    wanted = stepped(6, replicas="loop", **settings)
    assert found.pipeline.compute.kind != wanted.pipeline.compute.kind
    torch.testing.assert_close(found.rows, wanted.rows, rtol=1e-7, atol=1e-9)


def test_micro_batches_give_the_gradient_of_the_batch_with_everything_on() -> None:
    whole, parts = stepped(3, **ALL), stepped(3, **ALL, micro_batch=3)
    torch.testing.assert_close(parts.rows, whole.rows, rtol=1e-7, atol=1e-10)


def test_a_sick_row_disturbs_no_other() -> None:
    """Perturbation norms and attacks are a row's own."""
    well, sick = (tiny_block(**PLAIN, **ALL) for _ in range(2))
    sick.rows[1] = torch.nan
    for block in (well, sick):
        block.pipeline.gradient(Progress(4, 20), block.batch_size)
    assert torch.equal(sick.grads[[0, 2]], well.grads[[0, 2]])
    assert sick.grads[1].isnan().any()


def test_a_run_with_everything_on_learns() -> None:
    rows = trained(
        tiny_block(**ALL | {"label_noise": 0.1}, steps=120, nodes=2, topology="ring")
    )
    assert rows[-1]["accuracy/merged"] > 0.6


@pytest.mark.parametrize("limits", [(0.1, None), (None, 0.3), (0.1, 0.3)])
def test_clipping_is_that_of_torch_every_number_before_the_norm(
    limits: tuple[float | None, float | None],
) -> None:
    value, norm = limits
    settings: dict[str, Any] = {"task": "quadratic(heterogeneity=5)", "nodes": 5}
    block = tiny_block(**PLAIN | settings, clip_value=value, clip=norm)
    block.gradient()
    copies = [nn.Parameter(torch.zeros_like(row)) for row in block.g]
    for copy, gradient in zip(copies, block.g, strict=True):
        copy.grad = gradient.clone()
        if value is not None:
            nn.utils.clip_grad_value_([copy], value)
        if norm is not None:
            nn.utils.clip_grad_norm_([copy], norm)
    block.pipeline.clip()
    wanted = torch.stack([copy.grad for copy in copies if copy.grad is not None])
    torch.testing.assert_close(block.g, wanted, rtol=1e-14, atol=0)
