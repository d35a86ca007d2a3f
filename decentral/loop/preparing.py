"""From a configuration to a runnable setup, and how long its run is.

A run ends by its steps, or by a budget of data that the batch schedule uses up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from decentral.algorithms.base import refuse_compute, refuse_seconds
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.faults.base import network_faults
from decentral.gradients.draws import key_dropout
from decentral.layout import Layout, cast
from decentral.limits import free_bytes
from decentral.loop.adapting import adapt_model, ready
from decentral.loop.block import drawn_nodes, with_participation
from decentral.loop.compatibility import (
    check_optimizer,
    refuse_in_events,
    refuse_rounds,
    refuse_unsound,
    split_of,
)
from decentral.loop.health import attackers
from decentral.loop.models import build_seeded, builder_of, check_size
from decentral.loop.pipeline import check_methods, with_numbers
from decentral.loop.setup import CommunicationSetup, Setup
from decentral.merging.base import in_a_run
from decentral.mixing.base import Mixer
from decentral.network import links, presets
from decentral.network.clock import solve_budget
from decentral.network.links import Network
from decentral.network.planning import RoundPlanner
from decentral.network.presets import carries_links, check_connected, network_of
from decentral.optim.base import default_lr, grouping
from decentral.plugins import describe, label_of, wrong
from decentral.registry import ConfiguredPlugin, build
from decentral.sampling import Plan, plan_fixed, resample_plan
from decentral.schedules.action import CommunicationSchedule
from decentral.schedules.learning_rate import LearningRate
from decentral.schedules.phases import METHODS, Timed, Track, phase_tracks, sample_steps
from decentral.schedules.progress import Progress, StepTimeline, batch_size, step_timeline
from decentral.tasks.base import Task
from decentral.tasks.samples import is_whole
from decentral.tasks.splits import class_mixture, group_by_label, shards
from decentral.topology.base import Topology
from decentral.topology.labels import NodeLabels
from decentral.units import format_bytes, parse_amount

#: Samples per node of one forward pass, unless the first batch is larger: memory
#: does not grow with the batch.
MICRO_BATCH = 256

#: Bytes of a step in the list of all: a place, and a whole number of Python.
STEP_BYTES = 40


def prepare(config: Config) -> Setup:
    """Build the parts of a run; every mistake in them is a ConfigError before
    anything runs.
    """
    device, dtype = device_of(config.device), getattr(torch, config.dtype)
    parts = {
        kind: build(kind, getattr(config, kind))
        for kind in ("algorithm", "codec", "aggregation", "optimizer", "merge")
    }
    in_a_run(parts["merge"])
    nodes = NodeLabels(config.nodes, lambda: _topology(config).labels)
    config = with_numbers(config, nodes)
    task = _task(config, parts)
    builder, model, task = _model(config, task, parts)
    layout = Layout.of(model, grouping(parts["optimizer"], model))
    check_optimizer(parts["optimizer"], layout)
    batch = parts["batch"] = build("batch", config.batch)
    # From here on the number of steps is known, in which phases count.
    config, timeline = resolve_steps(config, task, batch)
    check_methods(config, task, model)
    plan, counts = _data(config, task, parts, timeline.size(0))
    lr = default_lr(parts["optimizer"])
    rate = LearningRate.make(config.learning_rate, lr, timeline.steps)
    parts["learning_rate"] = rate.rule
    setup = Setup(
        config=config, task=task, model=model, builder=builder, layout=layout,
        algorithm=parts["algorithm"], codec=parts["codec"], aggregation=parts["aggregation"],
        optimizer=parts["optimizer"], attackers=attackers(config, task, parts, nodes),
        learning_rate=rate, batch=batch, timeline=timeline,
        merge=parts["merge"], plan=plan, counts=counts, device=device, dtype=dtype, parts=parts,
        planner=None,
    )  # fmt: skip
    # Last: a budget in bytes needs the size of a message, by model, codec, state.
    setup = replace(setup, planner=make_planner(setup, nodes))
    _check_unused(config, parts)
    refuse_seconds(setup.algorithm, config.seconds)
    network, compute = _network(setup), _compute(config)
    if network and compute:
        parts["compute"] = compute
        refuse_compute(setup.algorithm, compute, config.nodes, config.seed)
    return replace(setup, network=network, compute=compute if network else None)


def device_of(name: str) -> torch.device:
    """Return the device of a name, auto: the GPU if there is one; or ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} is not available ({str(error).splitlines()[0]}); use --device cpu."
        ) from error
    return device


def _task(config: Config, parts: dict[str, ConfiguredPlugin]) -> Task:
    if isinstance(config.task, Task):
        return config.task
    rule = parts["task"] = build("task", config.task)
    offered = {"nodes": config.nodes, "seed": config.seed}
    made = rule(*(offered[name] for name in _requests(rule, offered)))
    if not isinstance(made, Task):
        raise wrong(rule, describe(made), "a decentral.Task")
    return made


def _model(
    config: Config, task: Task, parts: dict[str, ConfiguredPlugin]
) -> tuple[Callable[[], nn.Module], nn.Module, Task]:
    """Return what builds the model, a template of it, and the task that goes with it."""
    device, dtype = device_of(config.device), getattr(torch, config.dtype)
    builder = ready(builder_of(config, task, parts), task)
    task = task if "model" in parts or task.model is not None else task.as_labelled()
    # Only our own models are known to build on ``meta``, without memory.
    shipped = "model" in parts and parts["model"].plugin.target.__module__.startswith(
        "decentral."
    )
    if shipped:
        check_size(builder, device, dtype)
    model = cast(key_dropout(build_seeded(builder, config.seed, "init")), device, dtype)
    if not shipped or task.output is not None:
        model, task = adapt_model(model, task)
    return builder, model, task


def _requests(rule: ConfiguredPlugin, offered: dict[str, int]) -> tuple[str, ...]:
    asked = rule.plugin.positional()
    if strange := [name for name in asked if name not in offered]:
        raise ConfigError(
            f"{label_of(rule)} asks the run for {strange[0]!r}; it may ask for "
            f"{', '.join(offered)}, and settings are keyword-only."
        )
    return asked


def _data(
    config: Config, task: Task, parts: dict[str, ConfiguredPlugin], batch: int
) -> tuple[Plan, NDArray[np.int64]]:
    """Divide the training samples; return the plan and how many of each class a
    node holds.
    """
    # Without labels all samples are of one class: splits see their number alone.
    labels = (
        np.zeros(len(task.splits[0]), np.int64)
        if task.labels is None
        else task.labels.numpy()
    )
    classes = max(1, len(task.classes or ()))
    if task.owners is not None:
        if task.nodes is not None and task.nodes > config.nodes:
            raise ConfigError(
                f"nodes = {config.nodes}: the samples of this task are owned by {task.nodes} "
                "nodes; leave nodes out, or give as many."
            )
        held = group_by_label(task.owners.numpy(), config.nodes)
        if empty := [node for node, part in enumerate(held) if not len(part)]:
            raise ConfigError(
                f"task: no training sample is owned by node {empty[0]} of {config.nodes}; "
                "give every node at least one, or leave owners out."
            )
    else:
        split = parts["split"] = split_of(config, task)
        # Nothing is dealt out: every node draws from all samples, its classes by their
        # shares, so that ten thousand nodes need no lists of samples.
        if config.sampling == "resample":
            mixture = class_mixture(split, labels, config.nodes, config.seed)
            plan = resample_plan(labels, mixture)
            return plan, _expected_counts(plan, len(labels))
        held = shards(split, labels, config.nodes, config.seed)
    counts = np.stack([np.bincount(labels[part], minlength=classes) for part in held])
    return plan_fixed(held, config.replacement, batch), counts


def _expected_counts(plan: Plan, total: int) -> NDArray[np.int64]:
    """Return what every node would hold if the samples were divided equally."""
    assert plan.mixture is not None
    probability = np.diff(plan.mixture, prepend=0.0, axis=1)
    return np.round(probability * total / len(probability)).astype(np.int64)


def _topology(config: Config) -> Topology:
    return Topology(build("topology", config.topology), config.nodes, config.seed)


def make_planner(setup: CommunicationSetup, nodes: NodeLabels) -> RoundPlanner | None:
    """Return who says what when, known last; its plug-ins are added to the parts."""
    config, parts = setup.config, setup.parts
    faults = network_faults(config.faults, nodes, config.steps, config.seed)
    if setup.traits.communicates != "rounds":
        refuse_rounds(parts, faults)
        return with_participation(config, parts, None)
    topology = _topology(config)
    mixer = Mixer.make(topology, setup.weights)
    schedule = CommunicationSchedule.make(config.communication)
    planner = RoundPlanner(
        mixer, schedule, config.steps, config.local_steps, setup.timeline, faults
    )
    planner = with_participation(config, parts, planner) or planner
    refuse_unsound(config, parts, planner)
    if setup.in_events:
        refuse_in_events(config, parts, planner)
    # After the checks, since scaling a schedule changes neither who sends to whom nor
    # whether that is sound; and it may take a while.
    planner = solve_budget(planner, setup.size, setup.gradient_bytes)
    parts["topology"] = topology.rule
    parts["communication"] = planner.schedule.rule
    if mixer.rule is not None:
        parts["weights"] = mixer.rule
    return planner


def _network(setup: Setup) -> Network | None:
    """Return what lies between nodes; nothing, where seconds are not simulated."""
    found, nodes = _links(setup), setup.config.nodes
    # Events need times, be they those of computing alone.
    return links.uniform(nodes, 0.0, inf) if setup.in_events and not found else found


def _links(setup: Setup) -> Network | None:
    """Return what lies between nodes: as asked, or as the topology's own links say."""
    asked, planner = setup.config.network, setup.planner
    if asked in ("none", None):
        return None
    if asked != "auto":
        network, setup.parts["network"] = presets.make(asked, setup.config.nodes)
        return network
    topology = planner.mixer.topology if planner else None
    if topology is None or topology.time_varying or not carries_links(topology.graph(0)):
        return None
    network = network_of(topology.graph(0), topology.rule.name)
    check_connected(network, topology.rule.name)
    return network


def _check_unused(config: Config, parts: Mapping[str, ConfiguredPlugin]) -> None:
    """Refuse a mistake also in what is named for a task that brings its own."""
    for kind in ("model", "split"):
        named = getattr(config, kind)
        given = isinstance(named, str | Mapping) and kind in config.model_fields_set
        if given and kind not in parts:
            build(kind, named)


def _compute(config: Config) -> ConfiguredPlugin | None:
    """Return what a step takes, if that is given; a mistake shows without a network."""
    given = config.compute
    return None if given in (None, "auto", "measured") else build("compute", given)


# --- how long a run is ------------------------------------------------------------


def resolve_steps(
    config: Config, task: Task, batch: ConfiguredPlugin
) -> tuple[Config, StepTimeline]:
    """Return the timeline of a run, and its configuration with steps and
    micro-batch decided.

    ``micro_batch: auto`` is the whole batch, unless the schedule grows beyond
    ``MICRO_BATCH``.

    Args:
        config: The configuration.
        task: The task.
        batch: The batch schedule.
    """
    budget = None if config.data is None else samples_per_node(config, task)
    # With a budget steps follow from batches: a schedule is not told how many.
    first = batch_size(batch, Progress(0, 0 if budget else config.steps, 0, budget))
    if budget is not None and budget < first:
        raise ConfigError(
            f"data = {config.data}: that is {budget} per node, below the first batch of {first}; "
            f"give at least {first} samples/node, or a smaller batch."
        )
    if budget is None:
        _check_room(config.steps)
    timeline = step_timeline(batch, config.steps, budget, config.past)
    if (
        "steps" in config.model_fields_set
        and budget is not None
        and config.steps != timeline.steps
    ):
        raise ConfigError(
            f"steps = {config.steps}: data = {config.data} lasts for {timeline.steps} steps with "
            "this batch schedule; give steps or data, not both."
        )
    micro = config.micro_batch
    if micro == "auto":
        # Not below the first batch: a run of constant batches stays in one piece.
        most = max(first, MICRO_BATCH)
        micro = None if timeline.largest <= most else most
    return config.model_copy(
        update={"steps": timeline.steps, "micro_batch": micro}
    ), timeline


def _check_room(steps: int) -> None:
    """Refuse more steps than memory has room for: the timeline holds a number for
    each.
    """
    free = free_bytes(torch.device("cpu"))
    if free is not None and steps * STEP_BYTES > free:
        raise ConfigError(
            f"steps = {steps:,}: their batch sizes, known before the first one, take about "
            f"{format_bytes(steps * STEP_BYTES)}, and {format_bytes(free)} are free; give fewer."
        )


def samples_per_node(config: Config, task: Task) -> int:
    """Turn a data budget into samples per node, rounded down."""
    amount, train = parse_amount(config.data), task.splits[0]
    count = int(amount.count * (len(train) if amount.unit == "epochs" else 1))
    if amount.unit == "tokens":
        inputs = train.inputs
        if not is_whole(inputs) or inputs.dim() != 2:
            raise ConfigError(
                f"data = {config.data}: the samples of this task are no sequences of tokens; "
                "give samples instead."
            )
        # A budget is counted in sequences from here on; all are of one length.
        count //= inputs.shape[1]
    # All positions move on, but only who is drawn in a round sees its samples.
    return (count * config.nodes if amount.per_node else count) // drawn_nodes(config)


# --- what is on when --------------------------------------------------------------


def tracks(setup: Setup) -> list[Track]:
    """Return the learning rate, the batch size, and what is on in phases, over a
    run.
    """
    config = setup.config
    methods: dict[str, Timed | None] = {key: getattr(config, key) for key in METHODS}
    if config.label_noise is not None:
        decided = {"kind": config.label_noise.kind_for(setup.task.classes)}
        methods["label_noise"] = config.label_noise.model_copy(update=decided)
    steps = sample_steps(config.steps)
    sizes = [setup.timeline.size(step) for step in steps]
    whole = sizes[:-1] if config.data else sizes  # the last batch is what a budget leaves
    points = [setup.timeline.progress(step) for step in steps]
    rates = [setup.rate(here) for here in points]
    return [
        Track(
            "learning rate",
            _scale(rates),
            f"{_range(rates)}, {setup.learning_rate.rule.name}",
        ),
        Track(
            "batch size", _scale(sizes), f"{_range(whole or sizes)}, {setup.batch.name}"
        ),
        *phase_tracks(methods, points),
    ]


def _scale(values: Sequence[float]) -> tuple[float, ...]:
    most = max(values)
    return tuple(value / most for value in values)


def _range(values: Sequence[float]) -> str:
    """Write the first, the largest and the last of a schedule's values, where they
    differ.
    """
    most = max(values)
    shown = (
        0.0 if value < most / 1000 else value for value in (values[0], most, values[-1])
    )
    first, top, last = (f"{value:.3g}" for value in shown)
    if first == top == last:
        return first
    return " to ".join([first, last] if top in (first, last) else [first, top, last])
