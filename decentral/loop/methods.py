"""What is on in phases of a run, checked against its task before anything runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decentral.config import Config
from decentral.errors import ConfigError
from decentral.gradients.perturb import flipped, shifted, smoothed
from decentral.layout import share_parameters
from decentral.schedules.phases import METHODS, LabelNoise, Timed
from decentral.tasks.base import Task
from decentral.topology.labels import NodeLabels


def with_numbers(config: Config, nodes: NodeLabels) -> Config:
    """Return the configuration with nodes of ``node_lr`` by number, be they given by label.

    Args:
        config: The configuration.
        nodes: The nodes, and what the topology calls them.
    """
    if not config.node_lr:
        return config
    numbers = nodes.numbers("node_lr", config.node_lr)
    if twice := sorted(node for node in set(numbers) if numbers.count(node) > 1):
        raise ConfigError(f"node_lr: node {twice[0]} is given twice, by number and label.")
    factors = dict(zip(numbers, config.node_lr.values(), strict=True))
    return config.model_copy(update={"node_lr": factors})


def check_methods(config: Config, task: Task, model: nn.Module) -> None:
    """Raise ConfigError for phases that are not there, and for what the task forbids.

    Args:
        config: The configuration.
        task: The task.
        model: The module.
    """
    if config.precision != "same" and config.dtype != "float32":
        raise ConfigError(
            f"precision {config.precision} computes for rows in float32, and these are in "
            f"{config.dtype}; leave dtype or precision out."
        )
    if config.compile is not None and config.replicas in ("loop", "tune"):
        raise ConfigError(
            f"compile: what is compiled computes all rows together; leave replicas "
            f"{config.replicas} or compile out."
        )
    for name in METHODS:
        chosen: Timed | None = getattr(config, name)
        if chosen is not None:
            chosen.when.check(name, config.steps)
    if config.adversarial is not None and task.gives != "numbers":
        raise ConfigError(
            f"adversarial: the inputs of this task are {task.gives}, which cannot be moved a "
            "little; leave adversarial out."
        )
    if config.label_smoothing and not task.classes:
        raise ConfigError(
            "label_smoothing: the targets of this task are not classes; leave label_smoothing out."
        )
    if config.label_smoothing and task.ignores(task.splits[0].targets):
        raise ConfigError(
            f"label_smoothing: some targets of this task are {task.ignore_index}, which the loss "
            "ignores, and has no smooth form; leave label_smoothing out."
        )
    if config.label_noise is not None:
        _check_noise(config.label_noise, task, model)


def noise_kind(noise: LabelNoise, task: Task) -> str:
    """Return the kind of noise, decided for the task."""
    if noise.kind != "auto":
        return noise.kind
    return "flip" if task.classes else "sign"


def _check_noise(noise: LabelNoise, task: Task, model: nn.Module) -> None:
    kind = noise_kind(noise, task)
    if task.classes:
        if kind != "flip":
            raise ConfigError(
                f"label_noise: kind {kind} adds to numbers, and the targets of this task are "
                f"{len(task.classes)} classes; use kind flip."
            )
        if noise.level > 1:
            raise ConfigError(
                f"label_noise: level {noise.level:g} is the chance that a class is redrawn; "
                "it must be at most 1."
            )
        return
    if kind == "flip":
        raise ConfigError(
            "label_noise: kind flip needs classes, which the targets of this task are not; "
            "use kind gaussian or sign."
        )
    if not _has_labels(task, model):
        raise ConfigError(
            "label_noise: this task has no labels: its targets are not what the model should "
            "answer; leave label_noise out."
        )


def _has_labels(task: Task, model: nn.Module) -> bool:
    """Whether the targets are numbers in the shape of the model's outputs."""
    weight = next(model.parameters())
    first = task.splits[0].subset(torch.arange(1)).to(weight.device, weight.dtype)
    with torch.no_grad():
        outputs = share_parameters(model).eval()(first.first)
    numbers = isinstance(first.targets, Tensor) and first.targets.is_floating_point()
    return numbers and outputs.shape == first.targets.shape


def change_targets(config: Config, task: Task, targets: Tensor, keys: Tensor, noisy: bool) -> Any:
    """Return the targets [n, B, ...] to learn from: ``noisy`` or not, and smoothed.

    Args:
        config: The configuration.
        task: The task.
        targets: Targets of the batch, [n, B, ...].
        keys: Key of every sample, [n, B].
        noisy: Whether label noise is on.
    """
    noise, classes, given = config.label_noise, task.outputs, targets
    if noisy and noise is not None and noise.level:
        kind = noise_kind(noise, task)
        if kind == "flip":
            # Targets that the loss ignores stay what they are.
            targets = task.restored(flipped(targets, keys, noise.level, classes), given)
        else:
            targets = shifted(targets, keys, noise.level, kind)
    if config.label_smoothing:
        targets = smoothed(targets, config.label_smoothing, classes, getattr(torch, config.dtype))
    return targets
