"""What makes the models of a run: the task's own, a user's function or module, or a
plug-in.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from decentral import rng
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.limits import require
from decentral.plugins import describe, is_users, wrong
from decentral.registry import ConfiguredPlugin, build, members
from decentral.rng import fork_rng
from decentral.signature import function_behind
from decentral.tasks.base import Task
from decentral.traits import ModelTraits, traits_of


def builder_of(
    config: Config, task: Task, parts: dict[str, ConfiguredPlugin]
) -> Callable[[], nn.Module]:
    """Return what makes a fresh model: the task's own, a user's function, or a
    model plug-in.

    Args:
        config: The configuration of the run.
        task: The task, which may bring a model of its own.
        parts: The plug-ins of the run by kind; the model is added to them, if it is
            one.
    """
    own = task.model or config.model
    if isinstance(own, nn.Module):
        return _copies(own, config)
    if task.model is not None:
        return task.model
    # One that takes nothing builds the model itself; others are plug-ins, which are
    # given the shape of inputs and the number of outputs.
    if callable(config.model) and _takes_nothing(config.model):
        return cast(Callable[[], nn.Module], config.model)
    rule = parts["model"] = build("model", config.model)
    _check_inputs(rule, task)
    shape, outputs = task.input_shape, task.outputs
    return lambda: _make_model(rule, shape, outputs)


def _takes_nothing(made: Callable[..., Any]) -> bool:
    """Whether a function or class of models is called without arguments.

    A class of modules is wherever that works: what it has defaults for is its own.
    """
    if isinstance(made, ConfiguredPlugin):
        return False
    signature, behind = inspect.signature(made), function_behind(made)
    module = inspect.isclass(behind) and issubclass(behind, nn.Module)
    try:
        signature.bind()
    except TypeError:
        return False
    return module or not any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
        for p in signature.parameters.values()
    )


def _make_model(
    rule: ConfiguredPlugin, shape: tuple[int, ...], outputs: int
) -> nn.Module:
    """Return the model that a plug-in makes, if it is one.

    Args:
        rule: The plug-in.
        shape: Shape of one input.
        outputs: Outputs of the model.
    """
    model = rule(shape, outputs)
    if not isinstance(model, nn.Module):
        raise wrong(rule, describe(model), "a torch.nn.Module")
    if is_users(rule):
        for name, value in model.named_parameters():
            if not is_lazy(value) and not torch.isfinite(value).all():
                raise wrong(
                    rule, f"a model whose {name} is NaN or infinite", "finite parameters"
                )
    return model


def _check_inputs(rule: ConfiguredPlugin, task: Task) -> None:
    """Refuse a model that says it takes something else than the task gives."""
    given = task.takes or task.gives
    takes = traits_of(rule, ModelTraits).inputs or given
    if takes != given:
        usable, _ = members("model")
        known = {found.name: traits_of(found, ModelTraits).inputs for found in usable}
        fitting = [name for name, inputs in known.items() if inputs == given]
        raise ConfigError(
            f"model {rule.name!r} takes {takes}; the task's inputs have shape "
            f"{list(task.input_shape)} and are {given}. Available: {', '.join(fitting)}."
        )


def check_size(
    builder: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype
) -> None:
    """Refuse a model that does not fit into memory, before it is built.

    Args:
        builder: What makes a model.
        device: Where its row will be.
        dtype: The type of the row's numbers.
    """
    # Parameters of the right shapes that hold no memory.
    with torch.device("meta"), _NoDraws():
        numbers = sum(p.numel() for p in builder().parameters())
    # One model as it is made, and one row.
    require(2.0 * numbers * dtype.itemsize, f"models of {numbers:,} parameters", device)


class _NoDraws(TorchFunctionMode):
    """Leaves tensors as they are that ``torch.nn.init`` would fill.

    On the meta device there is nothing to fill, and torch would import its compiler
    for that: 2 s.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def _copies(model: nn.Module, config: Config) -> Callable[[], nn.Module]:
    """Return what copies a module; independent first models need a function that
    draws anew.
    """
    if config.init == "independent":
        raise ConfigError(
            "init: independent needs a function that builds the model, not a built one; "
            "pass model=lambda: Net()."
        )
    return lambda: copy.deepcopy(model)


def build_seeded(builder: Callable[[], nn.Module], seed: int, purpose: str) -> nn.Module:
    """Return a model that was drawn for a purpose; nothing else depends on the
    draw.

    Args:
        builder: What makes a model.
        seed: The seed of the run.
        purpose: What the draw is for: other purposes draw other models.

    Raises:
        ConfigError: What it makes is no module.
    """
    # torch takes seeds of 63 bits without a sign.
    with fork_rng(rng.key(seed, purpose) >> 1):
        model: Any = builder()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: got {type(model).__name__}, not a torch.nn.Module.")
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ConfigError(
            "model: what torch.jit.script or torch.jit.trace made holds its parameters for itself; "
            "give the module that it was made from."
        )
    return model
