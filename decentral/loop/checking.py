"""What a task makes of its model's predictions, tried once before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from decentral.blame import words_and_place
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


def check_evaluation(model: nn.Module, task: Task, label: str = "the model") -> None:
    """Evaluate a few samples; raises ConfigError where a run would only fail later, or not at all.

    Args:
        model: The module of the run.
        task: Its task.
        label: What messages call the model.
    """
    inputs, targets = example(task, model, SAMPLES)
    # A copy: the trial must leave buffers and mode of the run's module alone.
    evaluated = share_parameters(model).eval()
    with torch.no_grad(), fork_rng(0):
        what = f"{label}, in evaluation mode, fails on inputs {shapes(inputs, skip=1)}"
        outputs = _tried(evaluated, (inputs,), what)
        _refuse_missing_classes(task, outputs)
        on = f"fails on outputs {shapes(outputs, skip=1)} and targets {shapes(targets, skip=1)}"
        with RefuseBroadcasts(outputs, targets):
            _tried(task.loss, (outputs, targets), f"the loss {on}")
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
    """Refuse labels that have no output: torch says so only at the first batch that holds one."""
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

    Outputs [m, 1] against targets [m], or the reverse, become [m, m] by torch's broadcasting, so
    that each sample is compared with every other. Losses that compare number by number take no
    other shape than that of the outputs.
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
        """Call a function of torch, once its two tensors are found to belong together."""
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
