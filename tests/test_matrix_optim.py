"""Optimizers of matrices: Muon and SOAP against theory, oracles, and in a block of rows."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from matrices import (
    Optimizer,
    after,
    assert_same,
    drawn,
    gradients,
    matrices,
    model,
    with_spectrum,
)
from support import tiny_block
from torch import nn

from decentral import ConfigError
from decentral.layout import Layout, one_group
from decentral.optim import Lion, Muon, MuonLite, Soap, SoapLite
from decentral.optim.base import updater
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.optim.matrix import EXCLUDE, msign, output_layer
from decentral.registry import build

# --- the sign of a matrix -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (32, 32)])
def test_the_sign_of_a_matrix_has_its_directions_and_singular_values_of_one(
    shape: tuple[int, int],
) -> None:
    matrix = with_spectrum(torch.logspace(0, -2, min(shape)).double(), *shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = left @ right
    polar = msign(matrix[None], 6, "polar")[0]
    assert (polar - exact).norm() / sqrt(min(shape)) < 3e-3
    rough = torch.linalg.svdvals(msign(matrix[None], 5, "quintic")[0])
    assert 0.6 < rough.min() < rough.max() < 1.25
    better = torch.linalg.svdvals(msign(matrix[None], 12, "polar")[0])
    assert (better - 1).abs().max() < 1e-6


# --- Muon -----------------------------------------------------------------------------------------


def test_muon_is_torchs_muon() -> None:
    """Up to the order of operations in bfloat16, in which torch's runs; closer than that to SVD."""
    same = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
    for adjust in ("original", "rms"):
        fn = {"original": "original", "rms": "match_rms_adamw"}[adjust]
        theirs = after(
            lambda named, fn=fn: torch.optim.Muon(
                matrices(named), adjust_lr_fn=fn, **same
            ),
            dtype=torch.float32,
        )
        for precision, error in (("bfloat16", 0.01), ("same", 0.06)):
            ours = after(
                lambda named, a=adjust, p=precision: Muon(
                    named, adjust=a, precision=p, **same
                ),
                dtype=torch.float32,
            )
            start = dict(model(torch.float32))
            for name in ("mlp.fc1.weight", "mlp.fc2.weight", "q_proj.weight"):
                moved = theirs[name] - start[name]
                assert (ours[name] - theirs[name]).norm() < error * moved.norm(), (
                    name,
                    precision,
                )


def test_what_muon_does_not_take_is_adamws_bitwise() -> None:
    ours = after(lambda named: Muon(named, betas=(0.9, 0.95), weight_decay=0.1))
    rest = ("norm.weight", "embed.weight")

    def adamw(named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        params = [p for name, p in named if name in rest]
        return torch.optim.AdamW(params, betas=(0.9, 0.95), weight_decay=0.1)

    theirs = after(adamw)
    for name in rest:
        assert torch.equal(ours[name], theirs[name])
    assert not torch.equal(ours["q_proj.weight"], theirs["q_proj.weight"])


def test_who_is_left_to_adamw_is_a_setting() -> None:
    start = dict(model())

    def orthogonal(name: str, exclude: list[str]) -> bool:
        """Whether one step moved it by a multiple of an orthogonal matrix."""
        moved = after(lambda named: Muon(named, exclude=exclude, weight_decay=0.0), 1)
        values = torch.linalg.svdvals(moved[name] - start[name])
        return bool(values.max() < 2 * values.min())

    assert orthogonal("q_proj.weight", [])
    assert orthogonal("embed.weight", [])
    assert not orthogonal("embed.weight", ["embedding"])
    assert not orthogonal("q_proj.weight", ["qk"])
    assert not orthogonal("mlp.fc2.weight", ["*.fc2.*"])


def test_without_names_the_shape_alone_counts() -> None:
    """The embedding is then a matrix like any other."""
    named, bare = (
        after(lambda named: Muon(named, exclude=[])),
        after(lambda named: Muon([p for _, p in named])),
    )
    assert_same(named, bare, rtol=1e-12, atol=1e-14)


def test_experts_in_one_tensor_are_so_many_matrices() -> None:
    weights = drawn(3, 8, 6)
    together = nn.Parameter(weights.clone())
    apart = [nn.Parameter(weight.clone()) for weight in weights]
    first = Muon([("mlp.experts.down_proj", together)], lr=0.1)
    second = Muon(
        [(f"mlp.experts.{i}.down_proj", p) for i, p in enumerate(apart)], lr=0.1
    )
    for step in range(4):
        together.grad = drawn(3, 8, 6, seed=step)
        for index, parameter in enumerate(apart):
            parameter.grad = drawn(3, 8, 6, seed=step)[index]
        first.step()
        second.step()
    torch.testing.assert_close(
        together.detach(), torch.stack([p.detach() for p in apart])
    )


@pytest.mark.parametrize("kind", [Muon, Soap, MuonLite, SoapLite])
def test_a_model_without_matrices_is_refused(kind: type[Optimizer]) -> None:
    with pytest.raises(ConfigError, match="the model has none"):
        kind([("norm.weight", nn.Parameter(torch.ones(4)))])


@pytest.mark.parametrize("kind", [Muon, Soap, MuonLite, SoapLite, Lion])
def test_an_optimizer_of_ones_own_script_stops_and_goes_on_as_any_of_torch(
    kind: Callable[..., Optimizer],
) -> None:
    """Through state_dict, in the middle; parameters without a gradient are left alone."""
    through = after(lambda named: kind(named), 9)
    named = model()
    optimizer = kind(named)
    for step in range(9):
        if step == 4:
            saved = {k: v for k, v in optimizer.state_dict().items()}
            optimizer = kind(named)
            optimizer.load_state_dict(saved)
        for (_, parameter), grad in zip(named, gradients(step), strict=True):
            parameter.grad = grad
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5 ** (step / 9)
        optimizer.step()
    assert_same(dict(named), through, rtol=0, atol=0)
    for _, parameter in named:
        parameter.grad = None
    before = {name: parameter.detach().clone() for name, parameter in named}
    optimizer.step()
    assert_same(dict(named), before, rtol=0, atol=0)


# --- oracles of another package -------------------------------------------------------------------


def oracle(name: str) -> Any:
    library = pytest.importorskip(
        "pytorch_optimizer", reason="needs pytorch-optimizer: pip install '.[test]'"
    )
    return getattr(library, name)


@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize("max_dim", [10_000, 20])
def test_soap_is_that_of_pytorch_optimizer(frequency: int, max_dim: int) -> None:
    """Where a basis is not unique, both make the same choice; they decay after the step."""
    kind = oracle("SOAP")

    def theirs(named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        return kind(
            matrices(named), weight_decay=0.0, precondition_frequency=frequency,
            max_precondition_dim=max_dim,
        )  # fmt: skip

    def ours(named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        return Soap(named, weight_decay=0.0, frequency=frequency, max_dim=max_dim)

    found, wanted = after(ours, dtype=torch.float32), after(theirs, dtype=torch.float32)
    for name in ("mlp.fc1.weight", "mlp.fc2.weight", "q_proj.weight"):
        moved = (wanted[name] - dict(model(torch.float32))[name]).norm()
        assert (found[name] - wanted[name]).norm() < 2e-3 * moved, name


def test_lion_is_that_of_pytorch_optimizer() -> None:
    kind = oracle("Lion")

    def theirs(named: list[tuple[str, nn.Parameter]]) -> Optimizer:
        params = [p for _, p in named]
        return kind(params, betas=(0.9, 0.99), weight_decay=0.1, weight_decouple=True)

    assert_same(
        after(lambda named: Lion(named, betas=(0.9, 0.99), weight_decay=0.1)),
        after(theirs), rtol=1e-10, atol=1e-12,
    )  # fmt: skip


# --- in a block of rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["muon", "muon_lite", "soap", "soap_lite"])
def test_a_node_that_is_not_finite_does_not_harm_the_others(name: str) -> None:
    settings: dict[str, Any] = {
        "optimizer": name, "algorithm": "local", "dtype": "float64", "steps": 20,
        "on_nonfinite": "quarantine",
    }  # fmt: skip
    well, sick = tiny_block(**settings), tiny_block(**settings)
    for step in range(6):
        for block in (well, sick):
            block.gradient()
            if block is sick and step == 0:
                block.grads[1] = float("nan")
            block.adapt()
            block.check()
            block.finish_step()
    assert sick.quarantined == {1}
    others = [0, 2, 3]
    assert torch.equal(sick.rows[others], well.rows[others])


@pytest.mark.parametrize("replicas", ["vmap", "loop"])
def test_a_run_learns_with_matrices_of_all_nodes_at_once(replicas: str) -> None:
    for name in ("muon", "muon_lite", "soap", "soap_lite"):
        block = tiny_block(
            optimizer=name, replicas=replicas, steps=30, learning_rate=0.02
        )
        losses = []
        for _ in range(30):
            block.setup.algorithm(block, block.decide())
            block.finish_step()
            losses.append(block.losses.mean().item())
        assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), name


def test_what_is_exchanged_means_the_same_to_every_node() -> None:
    """Momenta of SOAP are, second moments in its own bases are not."""
    shapes: dict[str, int] = {}
    for name in ("muon", "soap"):
        block = tiny_block(optimizer=name, mix_state=True, steps=4)
        block.setup.algorithm(block, None)
        shapes[name] = sum(channel.shape[1] for channel in block.optimizer.channels())
    # the last matrix is the output layer, which AdamW updates
    *hidden, _ = (e for e in block.setup.layout.parameters if len(e.shape) == 2)
    weights = sum(e.stop - e.start for e in hidden)
    rest = block.setup.layout.parameter_count - weights
    assert shapes == {"muon": weights + 2 * rest, "soap": weights + 2 * rest}


# --- convolutions and the output layer ------------------------------------------------------------

RESNET = [
    ("conv1.weight", (64, 3, 7, 7)), ("bn1.weight", (64,)),
    ("layer1.0.conv1.weight", (64, 64, 3, 3)), ("layer1.0.downsample.0.weight", (64, 64, 1, 1)),
    ("fc.weight", (10, 64)), ("fc.bias", (10,)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("named", "output"),
    [
        (RESNET, "fc.weight"),
        ([("fc1.weight", (8, 4)), ("fc2.weight", (3, 8))], "fc2.weight"),
        ([("0.weight", (8, 4))], None),  # the only matrix
        ([("0.weight", (8, 4)), ("lm_head.weight", (9, 8))], None),  # told by its name
        (
            [("wte.weight", (9, 4)), ("h.0.c_proj.weight", (4, 8))],
            None,
        ),  # tied to an embedding
        (
            [("self_attn.in_proj_weight", (12, 4)), ("linear2.weight", (4, 8))],
            None,
        ),  # no head
        ([("", (8, 4)), ("", (3, 8))], None),  # no names
        (
            [("a.weight", (8, 4)), ("b.weight", (3, 8, 1, 1))],
            None,
        ),  # ends in a convolution
    ],
)
def test_the_output_layer_is_the_last_matrix_where_no_name_tells_a_head(
    named: list[tuple[str, tuple[int, ...]]], output: str | None
) -> None:
    assert output_layer(named) == output


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (EXCLUDE, {"bn1.weight", "fc.weight", "fc.bias"}),
        (("embedding", "head"), {"bn1.weight", "fc.bias"}),
        ((*EXCLUDE, "convolution"), {name for name, _ in RESNET}),
        ((*EXCLUDE, "conv1.*"), {"conv1.weight", "bn1.weight", "fc.weight", "fc.bias"}),
    ],
)
def test_filters_are_matrices_and_what_is_left_is_said(
    exclude: tuple[str, ...], left: set[str]
) -> None:
    rule = build("optimizer", {"name": "muon", "exclude": list(exclude)})
    output = output_layer(RESNET)
    by = {name: updater(rule, name, shape, output) for name, shape in RESNET}
    assert {name for name, who in by.items() if who == "adamw"} == left


@pytest.mark.parametrize("kind", [Muon, Soap, MuonLite, SoapLite])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_filters_move_as_the_matrix_that_they_are(
    kind: Callable[..., Optimizer], form: torch.memory_format
) -> None:
    start, bias = drawn(6, 3, 2, 2), nn.Parameter(torch.zeros(3))
    filters = nn.Parameter(start.clone().contiguous(memory_format=form))
    matrix = nn.Parameter(start.flatten(1).clone())
    named = {"conv": filters, "flat": matrix}
    made = {k: kind([(f"{k}.weight", p), ("b", bias)], lr=0.1) for k, p in named.items()}
    for step in range(4):
        grad = drawn(6, 3, 2, 2, seed=step)
        filters.grad = grad.clone().contiguous(memory_format=form)
        matrix.grad = grad.flatten(1).clone()
        for optimizer in made.values():
            optimizer.step()
    assert torch.equal(filters.detach().flatten(1), matrix.detach())
    assert not torch.equal(filters.detach(), start)
    shapes = {
        tuple(v.shape) for v in made["conv"].state[filters].values() if v.dim() == 4
    }
    assert shapes == {(6, 3, 2, 2)}


@pytest.mark.parametrize("kind", [Muon, Soap, MuonLite, SoapLite])
def test_filters_over_sequences_move_as_the_matrix_that_they_are(
    kind: Callable[..., Optimizer],
) -> None:
    net = nn.Sequential(nn.Conv1d(3, 6, 4), nn.Conv1d(6, 5, 2))
    flat = {
        name: nn.Parameter(p.detach().flatten(1) if p.dim() == 3 else p.detach().clone())
        for name, p in net.named_parameters()
    }
    made = kind(net.named_parameters(), lr=0.1), kind(flat.items(), lr=0.1)
    start = net[0].weight.detach().clone()
    for step in range(3):
        for name, p in net.named_parameters():
            p.grad = drawn(*p.shape, seed=step).to(p)
            flat[name].grad = p.grad.flatten(1) if p.dim() == 3 else p.grad.clone()
        for optimizer in made:
            optimizer.step()
    # The last matrix of the other is taken for an output layer; filters are none.
    assert torch.equal(net[0].weight.detach().flatten(1), flat["0.weight"].detach())
    assert not torch.equal(net[0].weight, start)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("conv.weight", True), ("0.weight", True), ("weight", True),
        ("encoder.pos_embedding.weight", False), ("norm.weight", False),
        ("blocks.scale", False), ("attn.bias_k", False),
    ],
)  # fmt: skip
def test_what_else_has_three_dimensions_is_no_matrix(name: str, taken: bool) -> None:
    rule = build("optimizer", "muon")
    assert updater(rule, name, (6, 3, 4)) == ("muon" if taken else "adamw")
    left = build("optimizer", {"name": "muon", "exclude": ["convolution"]})
    assert updater(left, name, (6, 3, 4)) == "adamw"


def test_jordans_factor_for_filters_is_that_of_their_height_and_width() -> None:
    """In the reference the factor is taken from the gradient [out, in, height, width]."""
    start, grad = drawn(40, 1, 2, 2), drawn(40, 1, 2, 2, seed=1)
    p = nn.Parameter(start.clone())
    optimizer = Muon(
        [("conv.weight", p)], lr=1.0, adjust="original", weight_decay=0.0, nesterov=False
    )
    p.grad = grad.clone()
    optimizer.step()
    expected = msign(grad.flatten(1)[None], 5)[0].view(40, 1, 2, 2)
    torch.testing.assert_close(start - p.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["muon", "soap", "muon_lite", "soap_lite"])
def test_filters_of_a_block_are_those_of_each_row_alone(name: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 3)
    )
    rule, layout = build("optimizer", name), Layout.of(net, one_group)
    start = drawn(3, layout.width)

    def moved(rows: torch.Tensor, first: int) -> torch.Tensor:
        grads = torch.zeros_like(rows)
        optimizer = BlockOptimizer(rule, layout, rows, grads)
        for step in range(4):
            grads.copy_(drawn(3, layout.width, seed=step)[first : first + len(rows)])
            optimizer.step(0.01)
        assert optimizer.channels()[0].shape[0] == len(rows)
        return rows

    together = moved(start.clone(), 0)
    alone = [moved(start[node : node + 1].clone(), node) for node in range(3)]
    assert torch.equal(together, torch.cat(alone))
    filters = layout.views(together)["1.weight"] - layout.views(start)["1.weight"]
    assert filters.abs().min() > 0
