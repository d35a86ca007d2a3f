"""Laws of optimizers: our plug-ins, and torch's own by dotted name."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import example, in_turns
from torch import Tensor, nn

from decentral import ConfigError, rng
from decentral.layout import Layout
from decentral.optim.base import default_lr, is_elementwise
from decentral.optim.block_optimizer import BlockOptimizer, state_numbers
from decentral.optim.blocks import Blockwise
from decentral.registry import ConfiguredPlugin, build, find, names
from decentral.traits import OptimizerTraits, traits_of

PLUGINS = names("optimizer")
DOTTED = [
    f"torch.optim.{name}"
    for name in (
        "RAdam", "Adagrad", "NAdam", "RMSprop", "Rprop", "Adamax", "Adadelta", "ASGD", "Adafactor",
    )
]  # fmt: skip
#: Those that equal an optimizer of torch under some settings.
BASED = [
    name for name in PLUGINS if traits_of(find("optimizer", name), OptimizerTraits).base
]
NODES, STEPS = 3, 5

every = pytest.mark.parametrize("name", [*PLUGINS, *DOTTED, "in_test.coupled"])


class Coupled(torch.optim.Optimizer):
    """An optimizer that mixes up whatever it is given, and counts in plain numbers."""

    def __init__(self, params: Any, lr: float = 0.1, boost: float = 1.0) -> None:
        super().__init__(params, {"lr": lr, "boost": boost, "seen": 0})

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["seen"] += 1
            total = sum(float(p.grad.square().sum()) for p in group["params"])
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 2
                rate = group["lr"] / (1 + total) / state["count"] / group["seen"]
                p.data.add_(p.grad, alpha=-rate * group["boost"])


class Plain(nn.Module):
    """One group, no buffers: the whole block can be one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 7))
        self.bias = nn.Parameter(torch.zeros(5))


class Buffered(Plain):
    """With float buffers, which no optimizer may touch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((4,), 3.0))


def grouped(name: str, parameter: nn.Parameter) -> int:
    return int(name == "bias")


LAYOUTS = {
    "one group": lambda: Layout.of(Plain()),
    "buffers": lambda: Layout.of(Buffered()),
    "two groups": lambda: Layout.of(Buffered(), grouped),
}
#: Our own on every layout, others on one of them.
ON_LAYOUTS = [pytest.param(name, shape) for name in PLUGINS for shape in LAYOUTS]
ON_LAYOUTS += in_turns([[name] for name in (*DOTTED, "in_test.coupled")], list(LAYOUTS))
every_on_layouts = pytest.mark.parametrize(("name", "shape"), ON_LAYOUTS)
every_with_stops = pytest.mark.parametrize(
    ("name", "shape", "stop"),
    [
        pytest.param(
            *case.values,
            stop,
            marks=[*case.marks, *[pytest.mark.soak] * ((place + place // 3) % 3 != turn)],
        )
        for place, case in enumerate(ON_LAYOUTS)
        for turn, stop in enumerate((0, 1, 3))
    ],
)


def rule_of(name: str, monkeypatch: pytest.MonkeyPatch | None = None) -> ConfiguredPlugin:
    if name == "in_test.coupled":
        return build("optimizer", f"{__name__}.Coupled")
    return example("optimizer", name)


def with_common(rule: ConfiguredPlugin, **common: Any) -> ConfiguredPlugin:
    return ConfiguredPlugin(rule.plugin, rule.settings, {**rule.common, **common})


def drawn(layout: Layout, nodes: int, purpose: str, step: int = 0) -> Tensor:
    values = rng.normal(
        1, purpose, step, torch.arange(nodes)[:, None], torch.arange(layout.width)
    )
    return torch.from_numpy(values)


def gradients(layout: Layout, nodes: int, step: int) -> Tensor:
    found = drawn(layout, nodes, "grad", step)
    inside = torch.zeros(layout.width, dtype=torch.bool)
    for entry in layout.parameters:
        inside[entry.start : entry.stop] = True
    return found * inside


class Trial:
    """A block of rows on its way through a few optimizer steps."""

    def __init__(self, rule: ConfiguredPlugin, layout: Layout, rows: Tensor) -> None:
        self.layout, self.rows, self.grads = (
            layout,
            rows.clone(),
            torch.zeros_like(rows),
        )
        self.optimizer = BlockOptimizer(rule, layout, self.rows, self.grads)

    def go(self, steps: range, hosted: slice = slice(None)) -> Trial:
        for step in steps:
            self.grads.copy_(gradients(self.layout, NODES, step)[hosted])
            self.optimizer.step(0.05 / (step + 1))
        return self


@every_on_layouts
def test_a_block_of_rows_equals_each_row_alone_bitwise(name: str, shape: str) -> None:
    layout = LAYOUTS[shape]()
    start = drawn(layout, NODES, "start")
    block = Trial(rule_of(name), layout, start).go(range(STEPS))
    assert not torch.equal(block.rows, start)
    for node in range(NODES):
        hosted = slice(node, node + 1)
        alone = Trial(rule_of(name), layout, start[hosted]).go(range(STEPS), hosted)
        assert torch.equal(block.rows[hosted], alone.rows)
        mine, its = block.optimizer.states()[node], alone.optimizer.states()[0]
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)


@every_with_stops
def test_saving_and_loading_equals_no_interruption_bitwise(
    name: str, shape: str, stop: int
) -> None:
    layout = LAYOUTS[shape]()
    start = drawn(layout, NODES, "start")
    through = Trial(rule_of(name), layout, start).go(range(STEPS))
    before = Trial(rule_of(name), layout, start).go(range(stop))
    after = Trial(rule_of(name), layout, before.rows)
    after.optimizer.load_state(before.optimizer.states())
    after.go(range(stop, STEPS))
    assert torch.equal(after.rows, through.rows)


@every_on_layouts
def test_state_moves_between_blocks_of_any_size(name: str, shape: str) -> None:
    """What one worker of three rows saved, three workers of one row load, and back."""
    layout = LAYOUTS[shape]()
    start = drawn(layout, NODES, "start")
    through = Trial(rule_of(name), layout, start).go(range(STEPS))
    before = Trial(rule_of(name), layout, start).go(range(2))
    states = before.optimizer.states()
    for node in range(NODES):
        hosted = slice(node, node + 1)
        alone = Trial(rule_of(name), layout, before.rows[hosted])
        alone.optimizer.load_state([states[node]])
        alone.go(range(2, STEPS), hosted)
        assert torch.equal(alone.rows, through.rows[hosted])


@every_on_layouts
def test_buffers_and_padding_stay_as_they_are(name: str, shape: str) -> None:
    layout = LAYOUTS[shape]()
    start = drawn(layout, NODES, "start")
    outside = torch.ones(layout.width, dtype=torch.bool)
    for entry in layout.parameters:
        outside[entry.start : entry.stop] = False
    # as in any run
    start[:, : layout.trainable].masked_fill_(outside[: layout.trainable], 0.0)
    trained = Trial(rule_of(name), layout, start).go(range(STEPS)).rows
    assert torch.equal(trained[:, outside], start[:, outside])
    assert not torch.isclose(
        trained[:, ~outside], start[:, ~outside], atol=0, rtol=1e-12
    ).any()


@every_on_layouts
def test_a_strided_view_never_reaches_a_fused_kernel(name: str, shape: str) -> None:
    layout = LAYOUTS[shape]()
    trial = Trial(rule_of(name), layout, drawn(layout, NODES, "start"))
    wide = torch.zeros(NODES, 2 * layout.width, dtype=torch.float64)
    strided = wide[:, : layout.width]
    assert not strided.is_contiguous()
    views = BlockOptimizer(rule_of(name), layout, strided, torch.zeros_like(strided))
    for optimizer in (trial.optimizer, views):
        groups = [
            group for instance in optimizer.instances for group in instance.param_groups
        ]
        if optimizer.mode == "stacked":
            assert not any(group.get("fused") or group.get("foreach") for group in groups)
            continue
        for parameter in optimizer.params:
            assert parameter.is_contiguous()
            assert parameter.grad is not None
            assert parameter.grad.is_contiguous()


@every
def test_the_mode_follows_from_what_is_declared_and_from_the_layout(name: str) -> None:
    rule = rule_of(name)
    for shape, make in LAYOUTS.items():
        layout = make()
        mode = Trial(rule, layout, drawn(layout, NODES, "start")).optimizer.mode
        traits = traits_of(rule, OptimizerTraits)
        whole = {"one group": "block"}.get(shape, "rows")
        other = "stacked" if traits.stacked else "tensors"
        assert mode == (whole if traits.elementwise else other)


@every_on_layouts
def test_channels_are_what_one_row_pays_for_and_are_absorbed_again(
    name: str, shape: str
) -> None:
    layout = LAYOUTS[shape]()
    trial = Trial(rule_of(name), layout, drawn(layout, NODES, "start")).go(range(2))
    channels = trial.optimizer.channels()
    assert sum(channel.shape[1] for channel in channels) == state_numbers(
        rule_of(name), layout
    )
    for channel in channels:
        channel.copy_(channel.mean(0).expand_as(channel))
    trial.optimizer.absorb(channels)
    for again, mixed in zip(trial.optimizer.channels(), channels, strict=True):
        assert torch.equal(again, mixed)


def base_of(name: str) -> Any:
    """Return the optimizer of torch that a plug-in equals under some settings."""
    module, _, kind = traits_of(find("optimizer", name), OptimizerTraits).base.rpartition(
        "."
    )
    return getattr(importlib.import_module(module), kind)


#: By default only those that pass their settings on equal their base; others add something to it.
AS_BASE = [(name, "identity") for name in BASED] + [
    (name, "default")
    for name in BASED
    if build("optimizer", name).settings.keys()
    <= inspect.signature(base_of(name)).parameters.keys()
]


@pytest.mark.parametrize(("name", "asked"), AS_BASE)
def test_identity_settings_equal_the_torch_base_bitwise(name: str, asked: str) -> None:
    """And so do the defaults of those that only pass their settings on."""
    traits = traits_of(find("optimizer", name), OptimizerTraits)
    base = base_of(name)
    identity = asked == "identity"
    rule = build("optimizer", {"name": name, **(traits.identity if identity else {})})
    given = {} if identity else dict(rule.settings)
    layout = LAYOUTS["two groups"]()
    start = drawn(layout, NODES, "start")
    block = Trial(rule, layout, start).go(range(STEPS))
    for node in range(NODES):
        params = [nn.Parameter(start[node, a:b].clone()) for a, b in layout.groups]
        theirs = base(params, lr=0.05, **given)
        kernel = block.optimizer.instances[0].param_groups[0].get("fused")
        theirs.param_groups[0]["fused"] = kernel
        for step in range(STEPS):
            theirs.param_groups[0]["lr"] = 0.05 / (step + 1)
            for parameter, (a, b) in zip(params, layout.groups, strict=True):
                parameter.grad = gradients(layout, NODES, step)[node, a:b].clone()
            theirs.step()
        for parameter, (a, b) in zip(params, layout.groups, strict=True):
            assert torch.equal(parameter.detach(), block.rows[node, a:b])


@pytest.mark.parametrize("name", PLUGINS)
def test_every_default_differs_from_the_identity_only_where_it_says(name: str) -> None:
    rule = example("optimizer", name)
    identity = traits_of(find("optimizer", name), OptimizerTraits).identity
    assert identity.keys() <= rule.settings.keys()
    assert default_lr(rule) > 0


# --- what every optimizer takes: a power of the gradient, and rates by block ---------------------


@every_on_layouts
def test_power_one_is_the_optimizer_itself_and_another_is_not(
    name: str, shape: str
) -> None:
    layout = LAYOUTS[shape]()
    start = drawn(layout, NODES, "start")
    plain = rule_of(name)
    rules = [with_common(plain, grad_power=power) for power in (1.0, 1.2)]
    rows = [Trial(rule, layout, start).go(range(STEPS)).rows for rule in (plain, *rules)]
    assert torch.equal(rows[1], rows[0])
    blind = name == "torch.optim.Rprop"  # it looks at signs only
    assert torch.equal(rows[2], rows[0]) == blind


@every_on_layouts
def test_the_power_comes_before_the_moments_and_changes_no_row_but_its_own(
    name: str, shape: str
) -> None:
    """A step on g with power p is a step on sign(g) (|g| + 1e-8)^p without."""
    layout = LAYOUTS[shape]()
    start = drawn(layout, NODES, "start")
    powered = Trial(with_common(rule_of(name), grad_power=1.5), layout, start)
    plain = Trial(rule_of(name), layout, start)
    for step in range(3):
        grads = gradients(layout, NODES, step)
        powered.grads.copy_(grads)
        plain.grads.copy_(grads.sign() * (grads.abs() + 1e-8) ** 1.5)
        for trial in (powered, plain):
            trial.optimizer.step(0.01)
    torch.testing.assert_close(powered.rows, plain.rows, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*PLUGINS, *DOTTED])
def test_rates_by_block_are_those_of_each_group_alone(name: str) -> None:
    """A ratio of r at lr is a ratio of 1 at r lr, for the parameters that it concerns."""
    ratios = Blockwise({"weight*": 3.0, "bias*": 1.0})
    start = drawn(Layout.of(Plain(), ratios.group), NODES, "start")
    layout = Layout.of(Plain(), ratios.group)
    assert len(layout.groups) == 2
    both = Trial(with_common(rule_of(name), blockwise=ratios), layout, start)
    single = {key: Trial(rule_of(name), layout, start) for key in ("weight", "bias")}
    for step in range(STEPS):
        for trial in (both, *single.values()):
            trial.grads.copy_(gradients(layout, NODES, step))
        both.optimizer.step(0.01)
        single["weight"].optimizer.step(0.01 * 3.0)
        single["bias"].optimizer.step(0.01)
    for entry in layout.parameters:
        here = slice(entry.start, entry.stop)
        torch.testing.assert_close(both.rows[:, here], single[entry.name].rows[:, here])


@every
def test_who_is_elementwise_passes_the_probe(name: str) -> None:
    rule = rule_of(name)
    assert is_elementwise(rule) == traits_of(rule, OptimizerTraits).elementwise


def test_the_probe_finds_out_a_false_declaration() -> None:
    rule = build("optimizer", f"{__name__}.Coupled")
    liar = ConfiguredPlugin(
        replace(rule.plugin, traits=OptimizerTraits(elementwise=True)), rule.settings
    )
    assert not is_elementwise(liar)


@every
def test_with_rates_by_block_saving_and_loading_equals_no_interruption_bitwise(
    name: str,
) -> None:
    ratios = Blockwise({"weight*": 3.0, "bias*": 1.0})
    layout = Layout.of(Buffered(), ratios.group)
    start, rule = (
        drawn(layout, NODES, "start"),
        with_common(rule_of(name), blockwise=ratios),
    )
    through = Trial(rule, layout, start).go(range(STEPS))
    before = Trial(rule, layout, start).go(range(2))
    after = Trial(rule, layout, before.rows)
    after.optimizer.load_state(before.optimizer.states())
    assert torch.equal(after.go(range(2, STEPS)).rows, through.rows)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torch.optim.LBFGS", "closure"),
        ("sgd(momentum=0, nesterov=true)", "Nesterov"),
        ("torch.optim.RAdam(betas=5)", "RAdam"),
        ("torch.optim.Adamw", "AdamW"),
        ("torch.optimizers.Adam", "cannot import"),
        ("torch.nn.Linear", "not a torch optimizer"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    spec: str, message: str
) -> None:
    layout = LAYOUTS["one group"]()
    with pytest.raises(ConfigError, match=message):
        Trial(build("optimizer", spec), layout, drawn(layout, NODES, "start"))
