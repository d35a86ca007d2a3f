"""What a task makes of its model's predictions, tried once before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from decentral.errors import ConfigError
from decentral.generator import fork_rng
from decentral.layout import share_parameters
from decentral.loop.adapting import example
from decentral.pytree import Tree, first_leaf, shapes
from decentral.tasks.base import Task
from decentral.tasks.filling import is_whole
from decentral.tasks.labels import takes_classes

#: Samples of the trial: at least two, so that a broadcast shows.
SAMPLES = 3


def check_evaluation(model: nn.Module, task: Task) -> None:
    """Evaluate a few samples; raises ConfigError where a run would only fail later, or not at all.

    Args:
        model: The module of the run.
        task: Its task.
    """
    inputs, targets = example(task, model, SAMPLES)
    evaluated = share_parameters(model).eval()
    with torch.no_grad(), fork_rng(0):
        what = f"the model fails in evaluation on inputs {shapes(inputs, skip=1)}"
        outputs = _tried(evaluated, (inputs,), what)
        _refuse_missing_classes(task, outputs)
        on = f"fails on outputs {shapes(outputs, skip=1)} and targets {shapes(targets, skip=1)}"
        with Broadcasts(outputs, targets) as seen:
            _tried(task.loss, (outputs, targets), f"the loss {on}")
        if seen.found:
            raise ConfigError(
                f"task: the loss compares outputs {list(outputs.shape)} with targets "
                f"{list(targets.shape)}, each with each; give both one shape, as by y.unsqueeze(1)."
            )
        judges = {} if task.accuracy is None else {"accuracy": task.accuracy}
        for name, judge in {**judges, **task.scores}.items():
            found = _tried(judge, (outputs, targets), f"{name} {on}")
            _check_scores(name, found, len(first_leaf(inputs)))


def _tried(run: Callable[..., Any], given: Sequence[Any], what: str) -> Any:
    try:
        return run(*given)
    except ConfigError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ConfigError(f"task: {what} ({said}); check shapes and types.") from error


def _check_scores(name: str, found: Any, count: int) -> None:
    if not isinstance(found, Tensor) or found.shape != (count,):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"task: {name} returns {what} for {count} samples; it must return one number for "
            "each of them."
        )


def _refuse_missing_classes(task: Task, outputs: Any) -> None:
    """Refuse labels that have no output: torch says so only at the first batch that holds one."""
    plain = isinstance(outputs, Tensor) and outputs.dim() > 1 and takes_classes(task.loss)
    parts = [one.targets for one in task.splits if one is not None]
    if not plain or not all(map(is_whole, parts)):
        return
    most = max(int(part.max()) for part in parts)
    if most >= outputs.shape[1]:
        raise ConfigError(
            f"task: labels go up to {most}, and the model has {outputs.shape[1]} outputs; give it "
            f"{most + 1}, or number the labels from 0."
        )


class Broadcasts(TorchFunctionMode):
    """Notices that outputs [m, 1] meet targets [m], or the reverse, of which torch makes [m, m]."""

    def __init__(self, outputs: Tree, targets: Tree) -> None:
        """Look for these two, and what shares their memory."""
        super().__init__()
        self.found = False
        plain = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
        self.places = {_place(outputs), _place(targets)} if plain else set[int]()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and look at what it is given."""
        tensors = [one for one in args[:2] if isinstance(one, Tensor)]
        if len(tensors) == 2 and {*map(_place, tensors)} == self.places:
            short, long = sorted((tuple(one.shape) for one in tensors), key=len)
            stretched = len(short) > 0 and short[-1] > 1 and long == (*short, 1)
            self.found = self.found or stretched
        return func(*args, **(kwargs or {}))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
