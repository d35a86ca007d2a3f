"""Optimizers: ``torch.optim``, in place, over a block of rows.

An optimizer plug-in is a function ``(params) -> torch.optim.Optimizer``, or such a
class; its keyword-only parameters are settings. One that has schedules of its own
is told the course of the run, see ``LrInfo``.

What it promises, and how it takes a block, stands in ``traits.OptimizerTraits``.
Any other optimizer of torch, or of an installed package, is found by its dotted
name, e.g. ``torch.optim.RAdam``.

In a script of your own, all of this works without the rest of the package:
``from decentral.optim import Lion, Muon, MuonLite, Soap, SoapLite, block_groups, grad_power``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite, prod
from typing import Any

import torch
from torch import Tensor, nn

from decentral.blame import library
from decentral.errors import ConfigError, nearest
from decentral.layout import ALIGNMENT, GroupRule, one_group
from decentral.optim.blocks import Blockwise
from decentral.optim.matrix import takes
from decentral.plugins import describe, is_users, wrong
from decentral.private import defer_compiler
from decentral.registry import ConfiguredPlugin, Plugin, Positive
from decentral.signature import Setting, signature_settings
from decentral.traits import OptimizerTraits, traits_of
from decentral.userfile import tell_waiting


def common(*, grad_power: Positive = 1.0, blockwise: Blockwise | None = None) -> None:
    """Settings of every optimizer: a power of the gradient, and learning rates by
    block.

    Args:
        grad_power: p; the optimizer sees sign(g) |g|^p, after averaging and
            clipping.
        blockwise: Ratios to the base rate by block; ``true`` for those published.
    """


def grouping(rule: ConfiguredPlugin, model: nn.Module) -> GroupRule:
    """Return how a model's parameters are grouped in a row: by block, if rates are
    blockwise.
    """
    blockwise: Blockwise | None = rule.common.get("blockwise")
    if blockwise is None:
        return one_group
    # Refused here, where the model is first known: a block that no parameter
    # belongs to would silently do nothing.
    blockwise.check(name for name, p in model.named_parameters() if p.requires_grad)
    return blockwise.group


def default_lr(rule: ConfiguredPlugin) -> float:
    """Return the peak learning rate to use when the user gives none.

    What a user's own function makes says it itself, if the trait does not.
    """
    declared = traits_of(rule, OptimizerTraits).default_lr
    if not is_users(rule) or declared != OptimizerTraits.default_lr:
        return declared
    try:
        made = rule.plugin.target([nn.Parameter(torch.ones(2, 2))], **rule.settings)
        found = made.param_groups[0]["lr"]
    except Exception:  # what is wrong with it, or that it wants names, shows later
        return declared
    return float(found) if _is_rate(found) else declared


def updater(
    rule: ConfiguredPlugin, name: str, shape: Sequence[int], output: str | None = None
) -> str:
    """Return what updates a parameter: optimizers of matrices leave some to
    another.

    Args:
        rule: The optimizer.
        name: Name of the parameter.
        shape: Its shape.
        output: Name of the model's output layer, see `matrix.output_layer`.

    >>> from decentral.registry import build
    >>> [
    ...     updater(build("optimizer", "muon"), "fc1.weight", shape)
    ...     for shape in ((8, 4), (8,))
    ... ]
    ['muon', 'adamw']
    """
    excluded = rule.settings.get("exclude")
    left = excluded is not None and not takes(name, shape, excluded, output)
    return traits_of(rule, OptimizerTraits).rest if left else rule.name


def resolve(name: str) -> Plugin | None:
    """Find an optimizer class by dotted name; its settings are the class's own
    parameters.
    """
    if "." not in name or name.endswith(".py"):
        return None
    module_name, _, attribute = name.rpartition(".")
    try:
        with tell_waiting(f"optimizer {name}"):
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"optimizer {name!r}: cannot import {module_name!r} ({error}); "
            "install it or check the name."
        ) from error
    found = getattr(module, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v)]
        raise ConfigError(
            f"optimizer {name!r} is not a torch optimizer.{nearest(attribute, classes)}"
        )
    # Such as LBFGS: each row would want its own number of evaluations in one step.
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"optimizer {name!r} evaluates the loss several times per step (a closure), which "
            "rows in lockstep cannot offer; choose a first-order one, such as torch.optim.RAdam."
        )
    traits = OptimizerTraits(
        default_lr=_class_lr(found),
        # Those of torch treat every parameter for itself; of others nothing is
        # known.
        isolated=found.__module__.startswith("torch.optim."),
        named=next(iter(inspect.signature(found).parameters), "") == "named_parameters",
    )
    settings = signature_settings(common)
    return Plugin(
        "optimizer", name, _maker(name, found), _settings(found), traits, settings
    )


def from_class(
    kind: type, given: Mapping[str, Any]
) -> tuple[Plugin | None, dict[str, Any]]:
    """Return an optimizer class of torch by its dotted name, and its settings.

    ``lr`` is no setting of an optimizer: it is the peak rate where the run says
    none.

    Args:
        kind: The class.
        given: What a partial holds of its parameters.
    """
    settings = {key: value for key, value in given.items() if key != "lr"}
    name = f"torch.optim.{kind.__name__}"
    if getattr(torch.optim, kind.__name__, None) is not kind or not all(
        map(_writable, settings.values())
    ):
        return None, settings
    found = resolve(name)
    if found is not None and _is_rate(given.get("lr")):
        traits = replace(traits_of(found, OptimizerTraits), default_lr=float(given["lr"]))
        found = replace(found, traits=traits)
    return found, settings


def _is_rate(lr: Any) -> bool:
    return isinstance(lr, int | float) and not isinstance(lr, bool) and 0 < lr < inf


def _maker(name: str, kind: Any) -> Callable[..., torch.optim.Optimizer]:
    parameters = inspect.signature(kind).parameters
    unwritten = {key for key, one in parameters.items() if not _writable(one.default)}

    def make(params: Any, /, **settings: Any) -> torch.optim.Optimizer:
        # A default that no configuration can hold stands there as None: the class
        # then takes its own.
        given = {k: v for k, v in settings.items() if v is not None or k not in unwritten}
        with library("optimizer", name):
            return kind(params, **given)

    make.__doc__ = inspect.getdoc(kind)
    return make


def _settings(kind: type[torch.optim.Optimizer]) -> dict[str, Setting]:
    parameters = inspect.signature(kind).parameters
    return {
        key: Setting(Any, parameter.default if _writable(parameter.default) else None)
        for key, parameter in parameters.items()
        if key not in ("params", "named_parameters", "lr")
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _writable(default: Any) -> bool:
    """Tell whether a default can be written into a configuration; any other is left
    to its class.

    Such are infinity, types of numbers, and functions.
    """
    if isinstance(default, tuple | list):
        return all(map(_writable, default))
    if isinstance(default, float):
        return isfinite(default)
    return default is inspect.Parameter.empty or isinstance(default, int | str | None)


def _class_lr(kind: type[torch.optim.Optimizer]) -> float:
    given = inspect.signature(kind).parameters.get("lr")
    if given is not None and isinstance(given.default, int | float):
        return float(given.default)
    return OptimizerTraits.default_lr


def fuse(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let torch update a parameter in one pass, where it has such a kernel and
    nobody objects.

    An optimizer that has made its state already has made it for the other kernel.
    """
    for group in optimizer.param_groups:
        # Only where nothing was asked for: who sets foreach or fused means it.
        free = "fused" in group and group["fused"] is None and group["foreach"] is None
        devices = {parameter.device.type for parameter in group["params"]}
        if free and devices <= {"cpu", "cuda"} and not optimizer.state:
            group["fused"] = True
    return optimizer


def make_optimizer(
    rule: ConfiguredPlugin, presented: Any, params: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """Return the optimizer that a plug-in makes, if it is one of all the
    parameters.

    Args:
        rule: The plug-in.
        presented: The parameters as it takes them.
        params: The parameters.
    """
    defer_compiler()
    made = rule(presented)
    if not isinstance(made, torch.optim.Optimizer):
        raise wrong(
            rule, describe(made), "a torch.optim.Optimizer of the parameters given"
        )
    # By identity: two parameters of equal numbers are equal, and not the same.
    held = {id(each) for group in made.param_groups for each in group["params"]}
    if held != {id(each) for each in params}:
        raise wrong(
            rule, "an optimizer of other parameters", "one of all the parameters given"
        )
    return fuse(made)


def is_elementwise(rule: ConfiguredPlugin) -> bool:
    """Return whether a block may be one parameter: declared, and proved on two
    rows.
    """
    if not traits_of(rule, OptimizerTraits).elementwise:
        return False
    # To the bit, since a run is to be the same whichever way its rows are computed.
    # What is declared may be wrong, above all of a user's own.
    return all(torch.equal(*pair) for pair in _probe(rule))


def _probe(rule: ConfiguredPlugin) -> list[tuple[Tensor, Tensor]]:
    shape = (2, ALIGNMENT)
    start = torch.linspace(-1.0, 2.0, prod(shape), dtype=torch.float64).view(shape)
    # As wide as aligned rows are, so that both ways use the same vector
    # instructions.
    together, apart = start.clone(), start.clone()
    _three_steps(rule, [together])
    for row in apart:
        _three_steps(rule, [row])
    return list(zip(together, apart, strict=True))


def _three_steps(rule: ConfiguredPlugin, tensors: list[Tensor]) -> None:
    params = [nn.Parameter(t) for t in tensors]
    optimizer = make_optimizer(rule, params, params)
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    # Momentum shows at the second step, and what depends on the step at the third.
    for step in range(3):
        for parameter in params:
            parameter.grad = (parameter.detach() * (step + 1)).sin()
        optimizer.step()


@dataclass(frozen=True)
class LrInfo:
    """The course of the learning rate, for optimizers with schedules of their own.

    ``warmup`` is a share of the run, ``floor`` the least rate as a share of the
    peak. An optimizer that wants to know has a group setting ``course``, which is
    set to these values, as a dict, when a run begins. One that has a group setting
    ``progress`` is told before every step which share of the run is done, as every
    optimizer is told ``lr``.
    """

    cosine: bool = False
    warmup: float = 0.0
    floor: float = 0.0


#: A run without a plan.
FREE = LrInfo()
