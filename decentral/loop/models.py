"""What makes the models of a run, the task's own, a user's function or module, or a
plug-in; and whether one fits its task.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from decentral import rng
from decentral.blame import words_and_place
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.layout import share_parameters
from decentral.limits import require
from decentral.loop.adapting import example
from decentral.plugins import describe, is_users, wrong
from decentral.pytree import Tree, first_leaf, shapes, types
from decentral.registry import ConfiguredPlugin, build, members
from decentral.rng import fork_rng
from decentral.signature import function_behind
from decentral.tasks.base import Task
from decentral.tasks.labels import takes_classes
from decentral.tasks.samples import is_whole
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
        if not callable(task.model):
            raise ConfigError(
                f"task: model is {type(task.model).__name__}; give a module, or a function or "
                "class that makes one. A built-in one stands beside the task: model='mlp'."
            )
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
            return kwargs["tensor"]  # torch.nn.init hands its arguments on by name
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
    _refuse_computed(model)
    return lambda: copy.deepcopy(model)


def _refuse_computed(model: nn.Module) -> None:
    """Refuse tensors that are computed from parameters and kept beside them: no
    module that holds one can be copied.
    """
    for place, part in model.named_modules():
        for key, value in vars(part).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                name = f"{place}.{key}" if place else key
                raise ConfigError(
                    f"model: {name} is computed from parameters and kept, so that the model cannot "
                    "be copied; use torch.nn.utils.parametrizations, such as its weight_norm, or "
                    "compute it in forward."
                )


#: Modules that share one model out among devices.
_SPREADING = nn.DataParallel, nn.parallel.DistributedDataParallel


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
    if any(isinstance(part, _SPREADING) for part in model.modules()):
        raise ConfigError(
            "model: DataParallel spreads the batches of one model over devices, and a run has a "
            "model for each node; give its .module."
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(
            "model: its parameters are on device meta and hold no numbers; build it on the CPU, or "
            "load its weights first."
        )
    _refuse_computed(model)
    return model


# --- whether it fits its task -----------------------------------------------------

#: Samples of the trial: at least two, so that a broadcast shows.
SAMPLES = 3


def check_evaluation(model: nn.Module, task: Task, label: str = "the model") -> None:
    """Evaluate a few samples of every split that differs in shape or type from that for
    training; raises ConfigError where a run would only fail later, or not at all.

    Args:
        model: The module of the run.
        task: Its task.
        label: What messages call the model.
    """
    # A copy: the trial must leave buffers and mode of the run's module alone.
    evaluated = share_parameters(model).eval()
    train, val, test = task.splits
    known: set[str] = set()
    for split, samples in (("", train), ("val", val), ("test", test)):
        if samples is None:
            continue
        given = example(task, model, SAMPLES, samples)
        form = " ".join(f"{shapes(one, skip=1)} {types(one)}" for one in given)
        if form not in known:
            _evaluate(evaluated, task, given, label, split)
        known.add(form)


def _evaluate(
    model: nn.Module, task: Task, given: tuple[Tree, Tree], label: str, split: str
) -> None:
    """Evaluate a few samples.

    Args:
        model: The module, in evaluation mode.
        task: Its task.
        given: Inputs and targets.
        label: What messages call the model.
        split: What they call the samples; empty: those for training.
    """
    inputs, targets = given
    of = f"{split} " if split else ""
    with torch.no_grad(), fork_rng(0):
        on = f"{of}inputs {shapes(inputs, skip=1)}"
        if split:
            there = example(task, model, 1)
            on += f" of {types(inputs)}, where those of train are "
            on += f"{shapes(there[0], skip=1)} of {types(there[0])}"
        outputs = _try(model, (inputs,), f"{label}, in evaluation mode, fails on {on}")
        _refuse_missing_classes(task, outputs)
        on = (
            f"outputs {shapes(outputs, skip=1)} and {of}targets {shapes(targets, skip=1)}"
        )
        with RefuseBroadcasts(outputs, targets):
            _try(task.loss, (outputs, targets), f"the loss fails on {on}")
        judges = {} if task.accuracy is None else {"accuracy": task.accuracy}
        for name, judge in {**judges, **task.scores}.items():
            found = _try(judge, (outputs, targets), f"{name} fails on {on}")
            _check_scores(name, found, len(first_leaf(inputs)))


def _try(run: Callable[..., Any], given: Sequence[Any], what: str) -> Any:
    try:
        return run(*given)
    except ConfigError:
        raise
    except Exception as error:
        said = words_and_place(error, 120)
        raise ConfigError(f"task: {what} ({said}); check shapes and types.") from error


def _check_scores(name: str, found: Any, count: int) -> None:
    if not isinstance(found, Tensor) or found.shape != (count,):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"task: {name} returns {what} for {count} samples; it must return one number for "
            "each of them."
        )


def _refuse_missing_classes(task: Task, outputs: Any) -> None:
    """Refuse labels that have no output: torch says so only at the first batch that
    holds one.
    """
    plain = isinstance(outputs, Tensor) and outputs.dim() > 1 and takes_classes(task.loss)
    parts = [one.targets for one in task.splits if one is not None]
    if not plain or not all(map(is_whole, parts)):
        return
    counted = [part if task.ignore_index is None else part[part != task.ignore_index]
               for part in parts]  # fmt: skip
    most = max(int(part.max()) for part in counted if part.numel())
    if most >= outputs.shape[1]:
        raise ConfigError(
            f"task: labels go up to {most}, and the model has {outputs.shape[1]} outputs; give it "
            f"{most + 1}, or number the labels from 0."
        )


#: Losses that compare number by number: torch itself warns where shapes differ.
_PAIRING = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)


class RefuseBroadcasts(TorchFunctionMode):
    """Refuses a loss that stretches its outputs or targets.

    Outputs [m, 1] against targets [m], or the reverse, become [m, m] by torch's
    broadcasting, so that each sample is compared with every other. Losses that
    compare number by number take no other shape than that of the outputs.
    """

    def __init__(self, outputs: Tree, targets: Tree) -> None:
        """Look for these two, and what shares their memory."""
        super().__init__()
        plain = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
        self.places = {_place(outputs), _place(targets)} if plain else set[int]()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, once its two tensors are found to belong
        together.
        """
        # Told by storage, not by identity: a loss may have cast or viewed both
        # before.
        tensors = [one for one in args[:2] if isinstance(one, Tensor)]
        if len(tensors) == 2 and {*map(_place, tensors)} == self.places:
            first, second = (tuple(one.shape) for one in tensors)
            short, long = sorted((first, second), key=len)
            # [m] against [m, 1]; with m = 1 both ways of pairing are the same.
            stretched = len(short) > 0 and short[-1] > 1 and long == (*short, 1)
            if stretched or (func in _PAIRING and first != second):
                raise ConfigError(
                    f"task: the loss compares {list(first)} with {list(second)}, outputs with "
                    "targets, each with each; give both one shape, as by y.unsqueeze(1)."
                )
        return func(*args, **(kwargs or {}))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
