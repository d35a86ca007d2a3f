"""Whether the parts of a run go together: found out, and refused, before anything
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from decentral.algorithms.base import CONDITIONS
from decentral.blame import words_and_place
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.faults.base import Faults
from decentral.layout import share_parameters
from decentral.loop.adapting import example
from decentral.mixing.base import Mixer
from decentral.network.planning import RoundPlanner
from decentral.plugins import label_of
from decentral.pytree import Tree, first_leaf, shapes
from decentral.registry import ConfiguredPlugin, build
from decentral.rng import fork_rng
from decentral.schedules.progress import communication_steps
from decentral.tasks.base import Task
from decentral.tasks.labels import takes_classes
from decentral.tasks.samples import is_whole
from decentral.traits import (
    AggregationTraits,
    AlgorithmTraits,
    AttackTraits,
    CodecTraits,
    OptimizerTraits,
    Refusing,
    SplitTraits,
    traits_of,
)

# --- an algorithm and the rest ----------------------------------------------------


def refuse_unsound(
    config: Config, parts: Mapping[str, ConfiguredPlugin], planner: RoundPlanner
) -> None:
    """Raise ConfigError, with a remedy, where a part does not do what it promises.

    Args:
        config: The configuration.
        parts: Plug-ins of the run, by kind.
        planner: What is sent when.
    """
    _refuse_weights(parts["algorithm"], planner.mixer)
    _refuse_biased(parts["codec"])
    mixer = planner.mixer
    # Functions, since only what a part refuses is looked at: some ask every step.
    holds: dict[str, Callable[[], bool]] = {
        "directed": lambda: mixer.topology.links(0).directed,
        "unbalanced": lambda: not planner.doubly_stochastic,
        "time_varying": lambda: _varies(planner),
        "local_steps": lambda: config.local_steps > 1,
        # A connected graph is a tree where it has N - 1 links, counted both ways.
        "cycles": lambda: len(mixer.topology.links(0)) != 2 * (config.nodes - 1),
        "momentum": lambda: not _plain(parts["optimizer"]),
        "mix_state": lambda: config.mix_state,
        "node_lr": lambda: bool(config.node_lr),
        "compression": lambda: not traits_of(parts["codec"], CodecTraits).uncoded,
        "losses": lambda: bool(planner.faults.strikes("messages")),
        "robust": lambda: not traits_of(parts["aggregation"], AggregationTraits).linear,
    }
    for part in (parts["algorithm"], parts["codec"]):
        for condition, remedy in traits_of(part, Refusing).refuses.items():
            if holds[condition]():
                raise ConfigError(
                    f"{part.plugin.kind} {part.name!r} is not sound {CONDITIONS[condition]}; "
                    f"{_because_of_faults(condition, planner) or remedy}."
                )


def _because_of_faults(condition: str, planner: RoundPlanner) -> str:
    """Return the remedy where only faults make a condition hold, else nothing."""
    if condition == "unbalanced" and planner.mixer.keeps_balance:
        return "let faults take both directions, such as lost(both=true)"
    # Asked without faults: if the graph changes anyway, leaving them out is no
    # remedy.
    steady = not _varies(replace(planner, faults=Faults()))
    return "leave faults out" if condition == "time_varying" and steady else ""


def _refuse_biased(codec: ConfiguredPlugin) -> None:
    if traits_of(codec, CodecTraits).biased:
        raise ConfigError(
            f"codec {codec.name!r} loses too much for models to be averaged; send differences, by "
            f"codec='choco({codec.name})'."
        )


def refuse_rounds(parts: Mapping[str, ConfiguredPlugin], faults: Faults) -> None:
    """Raise ConfigError for parts that change a gossip which the algorithm does not
    have.
    """
    algorithm = parts["algorithm"].name
    if faults.any:
        raise ConfigError(
            f"faults: {faults.rules[0].name} strikes gossip, and algorithm {algorithm!r} has none; "
            "leave it out, or use algorithm dsgd."
        )
    if not traits_of(parts["codec"], CodecTraits).uncoded:
        raise ConfigError(
            f"algorithm {algorithm!r} takes no codec: only gossip is coded; leave codec out."
        )
    if not traits_of(parts["aggregation"], AggregationTraits).linear:
        raise ConfigError(
            f"algorithm {algorithm!r} takes no aggregation: nothing is received from neighbours; "
            "leave aggregation out."
        )
    attack = parts.get("attack")
    if attack is not None and not traits_of(attack, AttackTraits).data:
        raise ConfigError(
            f"attack {attack.name!r} changes what nodes send each other, and algorithm "
            f"{algorithm!r} sends no models; use attack label_flip."
        )


def refuse_idle(algorithm: ConfiguredPlugin, called: Collection[str]) -> None:
    """Raise ConfigError unless the first step of an algorithm trained as its traits
    say.

    Args:
        algorithm: The algorithm.
        called: Those of ``gradient`` and ``adapt`` that it called.
    """
    traits = traits_of(algorithm, AlgorithmTraits)
    label = label_of(algorithm)
    if traits.gradient == "samples" and "gradient" not in called:
        raise ConfigError(
            f"{label} took its first step without block.gradient(), and learns nothing from data; "
            'call it before block.adapt(), or declare @plugin("algorithm", gradient="none").'
        )
    if traits.update == "optimizer" and "adapt" not in called:
        raise ConfigError(
            f"{label} took its first step without block.adapt(), and no optimizer moves the rows; "
            'call it after block.gradient(), or declare @plugin("algorithm", update="own").'
        )


def _refuse_weights(algorithm: ConfiguredPlugin, mixer: Mixer) -> None:
    needed = traits_of(algorithm, AlgorithmTraits).weights
    if (needed or mixer.keeps != "rest") and mixer.weights_name != needed:
        raise ConfigError(
            f"algorithm {algorithm.name!r} does not work with weights {mixer.weights_name!r}; "
            "leave weights out."
        )


def _plain(optimizer: ConfiguredPlugin) -> bool:
    """Whether an optimizer is x <- x - lr g, weight decay apart."""
    plain = traits_of(optimizer, OptimizerTraits).plain
    return plain is not None and plain(optimizer.settings)


def _varies(planner: RoundPlanner) -> bool:
    """Whether links change from round to round."""
    return (
        planner.mixer.topology.time_varying
        or planner.faults.any
        or _activates_some_links(planner)
    )


def _activates_some_links(planner: RoundPlanner) -> bool:
    """Whether some round activates only some of the links."""
    if planner.mixer.topology.activation == "round":
        return False
    # What it will ask for is not known, so that any intensity may come.
    if planner.schedule.closed_loop:
        return True
    steps = communication_steps(planner.steps, planner.local_steps)
    actions = (planner.schedule.action(planner.progress(s, 0)) for s in steps)
    return any(isinstance(action, float) and 0 < action < 1 for action in actions)


# --- splits -----------------------------------------------------------------------


def split_of(config: Config, task: Task) -> ConfiguredPlugin:
    """Return the split as asked; by default iid, where a task lacks the classes it
    needs.

    Raises ConfigError where the user asked for a split that cannot be.
    """
    split = build("split", config.split)
    if not _lacks_classes(split, task):
        return split
    if "split" in config.model_fields_set:
        raise ConfigError(
            f"split {split.name!r} divides by classes, and this task's targets are none; use "
            "split=iid or split=quantity, or name a class of every sample by Task(labels=...)."
        )
    return build("split", "iid")


def split_notes(config: Config, task: Task) -> tuple[str, ...]:
    """Say where the default split gives way."""
    if task.owners is not None:
        return ()
    split = build("split", config.split)
    if not _lacks_classes(split, task):
        return ()
    return (
        f"the task has no classes: split iid, not {split.name}, which is the default.",
    )


def _lacks_classes(split: ConfiguredPlugin, task: Task) -> bool:
    return task.labels is None and traits_of(split, SplitTraits).needs_classes


# --- a task and its model ---------------------------------------------------------


#: Samples of the trial: at least two, so that a broadcast shows.
SAMPLES = 3


def check_evaluation(model: nn.Module, task: Task, label: str = "the model") -> None:
    """Evaluate a few samples; raises ConfigError where a run would only fail later,
    or not at all.

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
        outputs = _try(evaluated, (inputs,), what)
        _refuse_missing_classes(task, outputs)
        on = f"fails on outputs {shapes(outputs, skip=1)} and targets {shapes(targets, skip=1)}"
        with RefuseBroadcasts(outputs, targets):
            _try(task.loss, (outputs, targets), f"the loss {on}")
        judges = {} if task.accuracy is None else {"accuracy": task.accuracy}
        for name, judge in {**judges, **task.scores}.items():
            found = _try(judge, (outputs, targets), f"{name} {on}")
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
