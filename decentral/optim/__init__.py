"""Optimizers: ``torch.optim``, in place, over a block of rows.

An optimizer plug-in is a function ``(params) -> torch.optim.Optimizer``; its keyword-only
parameters are settings. Traits: ``elementwise`` (row i of a block is updated as if it were alone,
so a whole contiguous block may be one parameter), ``isolated`` (parameters never depend on each
other, so the rows may share an instance), ``default_lr``, and ``base`` with ``identity``: the
dotted name of the optimizer that it equals bit by bit under those settings. Any other optimizer of
torch, or of an installed package, is found by its dotted name, e.g. ``torch.optim.RAdam``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from decentral.errors import ConfigError, nearest
from decentral.optim._block import BlockOptimizer, is_elementwise, state_numbers
from decentral.registry import Bound, Plugin, Setting

__all__ = ["BlockOptimizer", "default_lr", "is_elementwise", "resolve", "state_numbers"]

_DEFAULT_LR = 1e-3


def default_lr(rule: Bound) -> float:
    """Return the peak learning rate to use when the user gives none."""
    if "default_lr" in rule.plugin.traits:
        return float(rule.plugin.traits["default_lr"])
    return _DEFAULT_LR


def resolve(name: str) -> Plugin | None:
    """Find an optimizer class by dotted name; its settings are the class's own parameters."""
    if "." not in name or name.endswith(".py"):
        return None
    module_name, _, attribute = name.rpartition(".")
    try:
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
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"optimizer {name!r} evaluates the loss several times per step (a closure), which "
            "rows in lockstep cannot offer; choose a first-order one, such as torch.optim.RAdam."
        )
    traits = {
        "default_lr": _class_lr(found),
        "isolated": found.__module__.startswith("torch.optim."),
    }
    return Plugin("optimizer", name, _maker(found), _settings(found), traits)


def _maker(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    def make(params: Any, /, **settings: Any) -> torch.optim.Optimizer:
        return kind(params, **settings)

    make.__doc__ = inspect.getdoc(kind)
    return make


def _settings(kind: type[torch.optim.Optimizer]) -> dict[str, Setting]:
    parameters = inspect.signature(kind).parameters
    return {
        key: Setting(Any, parameter.default)
        for key, parameter in parameters.items()
        if key not in ("params", "lr") and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _class_lr(kind: type[torch.optim.Optimizer]) -> float:
    default = inspect.signature(kind).parameters.get("lr")
    is_number = default is not None and isinstance(default.default, int | float)
    return float(default.default) if default is not None and is_number else _DEFAULT_LR
