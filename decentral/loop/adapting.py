"""A model as it comes, so that it takes inputs as samples hold them and returns its
prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from decentral.blame import words_and_place
from decentral.errors import ConfigError
from decentral.layout import share_parameters
from decentral.pytree import Tree, leaves, shapes, tree_map
from decentral.rng import fork_rng
from decentral.tasks.base import Agreement, Task
from decentral.tasks.samples import Samples

#: How a task picks the prediction: a key or field, a place, or a function.
Output = str | int | Callable[[Any], Any] | None

#: What models that return several things call their prediction.
LOGITS = "logits"


def adapt_model(model: nn.Module, task: Task) -> tuple[nn.Module, Task]:
    """Return a model that is called with one tree of inputs and returns the
    prediction alone.

    The task has no accuracy by default where predictions have no dimension of
    classes.

    A module whose inputs and output are single tensors is returned as it is. Others
    get hooks; what the user gets back of a run, and what is exported, has none.

    Args:
        model: The module of the run, on its device.
        task: The task: its inputs, and how it picks the prediction.

    Raises:
        ConfigError: It is not clear which of several outputs is the prediction.
    """
    layer: Any
    for layer in model.modules():
        if getattr(layer, "sparse", None) is True:  # gradients are rows, which are dense
            layer.sparse = False
    inputs, targets = example(task, model, 2)
    whole = tree_map(torch.clone, inputs)
    if not isinstance(inputs, Tensor):
        model.register_forward_pre_hook(_spread_arguments, with_kwargs=True)
    try:
        with torch.no_grad(), fork_rng(0):
            returned = share_parameters(model).eval()(inputs)
    except Exception:  # the check of the first batch says what fails, and on what
        return model, task
    if not all(map(torch.equal, leaves(inputs), leaves(whole))):
        # Before what spreads them: it sees the whole tree, too.
        model.register_forward_pre_hook(_copy_inputs, prepend=True)
        note = "the model changes its inputs in place, and is given copies of them."
        task = copy.copy(task)
        task.notes = (*task.notes, note)
    if task.output is not None or not isinstance(returned, Tensor):
        how = choose_output(returned, task.output)
        model.register_forward_hook(Prediction(how))
        returned = pick_output(returned, how)
    return model, _without_classes(task, returned, targets)


def _without_classes(task: Task, outputs: Tree, targets: Tree) -> Task:
    """Return the task without the accuracy that no user asked for, where it means
    nothing.
    """
    plain = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not plain or not isinstance(task.accuracy, Agreement):
        return task
    # One number per target is a regression, not scores of a single class.
    single = outputs.shape in (targets.shape, (*targets.shape, 1))
    # Classes stand last, as in transformers, or second, as torch's cross_entropy
    # has them.
    last, second = outputs.shape[:-1], outputs.shape[:1] + outputs.shape[2:]
    if targets.shape in (last, second) and not single:
        return task
    note = (
        f"no accuracy: outputs {list(outputs.shape[1:])} are no scores of classes for targets "
        f"{list(targets.shape[1:])}; Task(accuracy=...) says what is right."
    )
    made = copy.copy(task)
    made.accuracy, made.notes = None, (*task.notes, note)
    return made


def example(
    task: Task, model: nn.Module, count: int, samples: Samples | None = None
) -> tuple[Tree, Tree]:
    """Return the first inputs and targets as a model takes them: on its device, of
    its type.

    Args:
        task: The task.
        model: The module of the run.
        count: How many there are, at most.
        samples: Of which; None: those for training.
    """
    weight = next(model.parameters(), torch.empty(0))
    samples = task.splits[0] if samples is None else samples
    some = samples.between(0, min(count, len(samples))).to(weight.device, weight.dtype)
    return some.take(torch.arange(len(some)))


def ready(builder: Callable[[], nn.Module], task: Task) -> Callable[[], nn.Module]:
    """Return a builder whose modules have all their parameters: lazy ones see an
    input first.

    Args:
        builder: What makes a model.
        task: The task, whose first samples say what lazy layers are asked for.
    """

    def build() -> nn.Module:
        model: Any = builder()
        if not isinstance(model, nn.Module) or not any(map(is_lazy, model.parameters())):
            return model
        train = task.splits[0]
        inputs, _ = train.take(torch.arange(min(2, len(train))))
        args, named = spread_inputs(inputs)
        try:
            with torch.no_grad():
                # Parameters are drawn by this call; in evaluation mode no statistic
                # moves with it.
                model.eval()(*args, **named)
        except Exception as error:
            raise ConfigError(
                f"model: its lazy layers fail on inputs {shapes(inputs, skip=1)} of the task "
                f"({words_and_place(error, 120)}); check shapes and types."
            ) from error
        return model.train()

    return build


def spread_inputs(inputs: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a model, in order and by name."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})


def _copy_inputs(module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Give a model inputs of its own, which it may change."""
    return (tree_map(torch.clone, args[0]),)


def _spread_arguments(
    module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, Any]:
    """Give a model its inputs one by one: a tuple in order, others by name."""
    return spread_inputs(args[0])


class Prediction:
    """A hook that makes a model return its prediction instead of all it returns."""

    def __init__(self, how: Output) -> None:
        """Pick by a key or field, a place, or a function."""
        self.how = how

    def __call__(self, module: nn.Module, args: Any, returned: Any) -> Tree:
        """Return the prediction."""
        return pick_output(returned, self.how)


def pick_output(returned: Any, how: Output) -> Any:
    """Return what a model returned at a key or field, at a place, or as a function
    sees it.
    """
    if callable(how):
        return how(returned)
    if isinstance(how, str) and not isinstance(returned, Mapping):
        return getattr(returned, how)
    return returned[how]


def choose_output(returned: Any, how: Output) -> Output:
    """Return how to pick the prediction from what a model returned.

    It is what the task says, else ``logits``, else the only floating tensor.

    >>> (
    ...     choose_output({"logits": torch.ones(2), "loss": torch.ones(())}, None),
    ...     choose_output((torch.ones(1),), None),
    ... )
    ('logits', 0)
    """
    if how is not None:
        _check(returned, how)
        return how
    parts = _parts(returned)
    # Models of transformers return a loss, hidden states and caches beside it.
    if LOGITS in parts:
        return LOGITS
    floats = [
        k for k, v in parts.items() if isinstance(v, Tensor) and v.is_floating_point()
    ]
    if len(floats) == 1:
        return floats[0]
    raise ConfigError(
        f"the model returns {_describe(returned)}, and which is the prediction is not clear; say "
        "so by Task(output=...): a key, a place, or a function."
    )


def _check(returned: Any, how: Output) -> None:
    try:
        found = pick_output(returned, how)
    except Exception as error:
        raise ConfigError(
            f"output = {how!r}: the model returns {_describe(returned)}, which has none such "
            f"({words_and_place(error)})."
        ) from error
    try:
        shapes(found)
    except (TypeError, AttributeError) as error:
        name = getattr(how, "__name__", how)
        raise ConfigError(
            f"output = {name!r} picks {type(found).__name__}; it must be a tensor, or several in "
            "a tuple or a mapping."
        ) from error


def _parts(returned: Any) -> dict[Any, Any]:
    """Return what a model returned, part by part."""
    if isinstance(returned, Mapping):
        return dict(cast("Mapping[str, Any]", returned))
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        named: Any = returned
        return dict(zip(named._fields, returned, strict=True))
    if isinstance(returned, tuple | list):
        return dict(enumerate(cast("list[Any]", returned)))
    if is_dataclass(returned):
        return {field.name: getattr(returned, field.name) for field in fields(returned)}
    return {}


def _describe(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return "a tensor"
    parts = ", ".join(
        f"{key} {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
        for key, part in _parts(returned).items()
    )
    return f"{type(returned).__name__}: {parts}" if parts else type(returned).__name__
