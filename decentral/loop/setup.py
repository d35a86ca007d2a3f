"""From a configuration to the parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decentral.algorithms.base import StateSchema
from decentral.config import Config
from decentral.errors import ConfigError
from decentral.exchange.codec.base import TensorLayout, coded_bytes
from decentral.faults.base import network_faults
from decentral.gradients.base import kept_numbers
from decentral.gradients.draws import key_dropout
from decentral.layout import Layout, cast
from decentral.loop.adapting import adapted, ready
from decentral.loop.attackers import NONE, Attackers, attackers
from decentral.loop.compatibility import refuse_rounds, refuse_unsound, split_notes, split_of
from decentral.loop.methods import check_methods, with_numbers
from decentral.loop.models import builder_of, check_size, seeded
from decentral.loop.pacing import resolve_steps
from decentral.merge.base import in_a_run
from decentral.mixing.base import Mixer
from decentral.mixing.summary import summary_line
from decentral.network import presets
from decentral.network.clock import Clock, solve_budget
from decentral.network.links import Network
from decentral.network.planning import RoundPlanner, Size, all_reduce_messages
from decentral.network.presets import carries_links, check_connected, network_of
from decentral.optim.base import default_lr, grouping
from decentral.optim.block_optimizer import LrInfo, state_numbers
from decentral.pytree import tree_map
from decentral.registry import ConfiguredPlugin, build
from decentral.sampling import Plan, fixed_plan, resample_plan
from decentral.schedules.batch import rate_factor
from decentral.schedules.communication import CommunicationSchedule
from decentral.schedules.learning_rate import LearningRate
from decentral.schedules.progress import Progress, StepTimeline
from decentral.tasks.base import Samples, Task
from decentral.tasks.splits import class_shares, grouped, shards
from decentral.topology.base import Topology
from decentral.topology.labels import NodeLabels
from decentral.traits import AlgorithmTraits, LearningRateTraits, traits_of


@dataclass(frozen=True)
class Setup:
    """Everything that is the same on every worker, built once from a configuration."""

    config: Config
    task: Task
    model: nn.Module  # template; rows hold the nodes' values
    builder: Callable[[], nn.Module]
    layout: Layout
    algorithm: ConfiguredPlugin
    codec: ConfiguredPlugin
    aggregation: ConfiguredPlugin
    planner: RoundPlanner | None  # None: the algorithm does not talk in rounds
    optimizer: ConfiguredPlugin
    learning_rate: LearningRate
    batch: ConfiguredPlugin
    timeline: StepTimeline
    merge: ConfiguredPlugin
    plan: Plan
    counts: NDArray[np.int64]  # [nodes, classes] samples held
    device: torch.device
    dtype: torch.dtype
    parts: dict[str, ConfiguredPlugin]
    network: Network | None = None  # None: seconds are not simulated
    compute: ConfiguredPlugin | None = None  # None: to be measured, where there is a network
    attackers: Attackers = NONE

    @cached_property
    def train(self) -> Samples:
        """Training samples on the device."""
        return self.task.splits[0].to(self.device, self.dtype)

    @cached_property
    def activation_memory(self) -> int:
        """Numbers that the model keeps of one sample for a backward pass.

        Half of what it keeps of two: layers that normalise over the batch refuse a single sample.
        """
        two = tree_map(lambda one: one.repeat_interleave(2, 0), self.train.first)
        return -(-kept_numbers(self.model, two) // 2)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a user should read before the run."""
        file = summary_line(self.planner.mixer) if self.planner else None
        read = (file,) if file else ()
        return (*read, *self.task.notes, *split_notes(self.config, self.task))

    @cached_property
    def traits(self) -> AlgorithmTraits:
        """What the algorithm promises."""
        return traits_of(self.algorithm, AlgorithmTraits)

    @property
    def kept(self) -> Mapping[str, StateSchema]:
        """What the algorithm keeps for every node, by name."""
        return self.traits.state

    @property
    def weights(self) -> object:
        """The mixing weights as asked; ``auto`` is what the algorithm needs, if it does."""
        asked = self.config.weights
        return (self.traits.weights or asked) if asked == "auto" else asked

    @property
    def model_bytes(self) -> int:
        """Logical bytes of one model when it is sent."""
        return self.layout.payload(self.config.gossip_buffers) * self.dtype.itemsize

    @cached_property
    def size(self) -> Size:
        """Logical bytes of all channels of one node: as gossip codes them, and in a merge."""
        sent = [kept for kept in self.kept.values() if kept.sent]
        plain = sum(kept.scalar for kept in sent)
        if self.config.mix_state:
            plain += state_numbers(self.optimizer, self.layout)
        layouts = [
            self.tensor_layout(buffers=True),
            *(self.tensor_layout(k.full_width) for k in sent if not k.scalar),
        ]
        rest = plain * self.dtype.itemsize
        whole = sum(each.numbers for each in layouts) * self.dtype.itemsize + rest
        if (parts := self.fragments) > 1:
            # The largest part: columns need not divide evenly.
            part = sum(-(-each.numbers // parts) for each in layouts) * self.dtype.itemsize + rest
            return Size(part, part, whole)
        return Size(sum(coded_bytes(self.codec, each) for each in layouts) + rest, whole)

    @property
    def fragments(self) -> int:
        """In how many parts, one per round, the algorithm sends a model."""
        setting = self.traits.fragments
        return int(self.algorithm.settings[setting]) if setting else 1

    @property
    def row_bytes(self) -> int:
        """Logical bytes of what one node sends to one other in one round: all channels."""
        return self.size.gossip

    def tensor_layout(self, buffers: bool) -> TensorLayout:
        """Return what a channel holds: the parameters, and buffers if these are sent at all."""
        return TensorLayout(
            tuple(
                (entry.start, entry.stop, entry.shape)
                for entry in self.layout.sent(buffers and self.config.gossip_buffers)
            ),
            self.dtype.itemsize,
        )

    @property
    def gradient_bytes(self) -> int:
        """Logical bytes of one gradient."""
        return self.layout.payload(False) * self.dtype.itemsize

    @property
    def all_reduce_bytes(self) -> int:
        """Logical bytes of an all-reduce of the gradient at every step: what budgets refer to."""
        return all_reduce_messages(self.config.nodes, self.config.steps) * self.gradient_bytes

    @cached_property
    def first_batch(self) -> int:
        """Samples per node of the first step."""
        return self.timeline.size(0)

    @cached_property
    def micro_batch(self) -> int:
        """Most samples per node of one forward pass."""
        asked = self.config.micro_batch
        return asked if isinstance(asked, int) else self.timeline.largest

    def rate(self, progress: Progress, ratio: float = 1.0, floor: float = 0.0) -> float:
        """Return the learning rate of the step that follows ``progress``: schedule times batch.

        Args:
            progress: How far the run is.
            ratio: Ratio of the parameter's peak to the base.
            floor: Where all ratios meet, as a share of the base peak.
        """
        rate = self.learning_rate(progress, ratio, floor)
        if self.batch.common["scale_lr"] == "none":
            return rate
        return rate * self.lr_factor(self.timeline.size(progress.step))

    def lr_factor(self, size: int) -> float:
        """Return by what a batch of ``size`` multiplies the learning rate."""
        return rate_factor(self.batch, size, self.first_batch)

    @property
    def course(self) -> LrInfo:
        """What optimizers with schedules of their own may know of the learning rate's."""
        rate, steps = self.learning_rate, self.config.steps
        cosine = traits_of(rate.rule, LearningRateTraits).cosine
        return LrInfo(cosine, rate.warmup(steps) / steps, rate.floor)

    @property
    def samples_held(self) -> Tensor:
        """Training samples of every node, [N]."""
        return torch.from_numpy(self.counts.sum(1))

    def clock(self) -> Clock:
        """Return the clocks of all nodes, at zero."""
        rule = self.parts.get("network")
        kind = rule.common["all_reduce"] if rule else "auto"
        return Clock(self.network, self.compute, self.config.seed, kind)

    def module(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the model as its user wrote it, with a state, in evaluation mode."""
        made = cast(seeded(self.builder, self.config.seed, "init"), self.device, self.dtype)
        made.load_state_dict({**made.state_dict(), **state})
        return made.eval()

    def initial_rows(self, nodes: Sequence[int]) -> Tensor:
        """Return the first rows of nodes, [n, P]: one model for all, or draws of their own."""
        shared = self.config.init == "shared"
        # By id, so that it does not matter which worker hosts a node.
        purposes = ["init"] if shared else [f"init/{node}" for node in nodes]
        rows = torch.zeros(len(purposes), self.layout.width, dtype=self.dtype)
        for row, purpose in zip(rows, purposes, strict=True):
            self.layout.pack(seeded(self.builder, self.config.seed, purpose), row)
        return rows.repeat(len(nodes), 1) if shared else rows


def prepare(config: Config) -> Setup:
    """Build the parts of a run; every mistake in them is a ConfigError before anything runs."""
    device, dtype = device_of(config.device), getattr(torch, config.dtype)
    parts = {
        kind: build(kind, getattr(config, kind))
        for kind in ("algorithm", "codec", "aggregation", "optimizer", "merge")
    }
    in_a_run(parts["merge"])
    nodes = NodeLabels(config.nodes, lambda: _topology(config).labels)
    config = with_numbers(config, nodes)
    task = _task(config, parts)
    builder = ready(builder_of(config, task, parts), task)
    task = task if "model" in parts or task.model is not None else task.as_labelled()
    # Only our own models are known to build on ``meta``, without memory.
    shipped = "model" in parts and parts["model"].plugin.target.__module__.startswith("decentral.")
    if shipped:
        check_size(builder, device, dtype)
    model = cast(key_dropout(seeded(builder, config.seed, "init")), device, dtype)
    if not shipped or task.output is not None:
        model, task = adapted(model, task)
    layout = Layout.of(model, grouping(parts["optimizer"], model))
    batch = parts["batch"] = build("batch", config.batch)
    # From here on the number of steps is known, in which phases and schedules
    # count.
    config, timeline = resolve_steps(config, task, batch)
    check_methods(config, task, model)
    plan, counts = _data(config, task, parts, timeline.size(0))
    rate = LearningRate.make(config.learning_rate, default_lr(parts["optimizer"]))
    parts["learning_rate"] = rate.rule
    setup = Setup(
        config=config, task=task, model=model, builder=builder, layout=layout,
        algorithm=parts["algorithm"], codec=parts["codec"], aggregation=parts["aggregation"],
        optimizer=parts["optimizer"], attackers=attackers(config, task, parts, nodes),
        learning_rate=rate, batch=batch, timeline=timeline,
        merge=parts["merge"], plan=plan, counts=counts, device=device, dtype=dtype, parts=parts,
        planner=None,
    )  # fmt: skip
    # Last, since a budget in bytes needs the size of a message: model, codec and
    # state.
    setup = replace(setup, planner=_planner(setup, nodes))
    network = _network(setup)
    return replace(setup, network=network, compute=_compute(setup) if network else None)


def device_of(name: str) -> torch.device:
    """Return the device of a name, auto: the GPU if there is one; raises ConfigError."""
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
    made = rule(*(offered[name] for name in _asked(rule, offered)))
    if not isinstance(made, Task):
        raise ConfigError(f"task {rule.name!r} returned {type(made).__name__}, not a Task.")
    return made


def _asked(rule: ConfiguredPlugin, offered: dict[str, int]) -> tuple[str, ...]:
    asked = rule.plugin.positional()
    if strange := [name for name in asked if name not in offered]:
        raise ConfigError(
            f"{rule.plugin.kind} {rule.name!r} asks the run for {strange[0]!r}; it may ask for "
            f"{', '.join(offered)}, and settings are keyword-only."
        )
    return asked


def _data(
    config: Config, task: Task, parts: dict[str, ConfiguredPlugin], batch: int
) -> tuple[Plan, NDArray[np.int64]]:
    """Divide the training samples; return the plan and how many of each class a node holds."""
    labels = np.zeros(len(task.splits[0]), np.int64) if task.labels is None else task.labels.numpy()
    classes = max(1, len(task.classes or ()))
    if task.owners is not None:
        if task.nodes is not None and task.nodes > config.nodes:
            raise ConfigError(
                f"nodes = {config.nodes}: the samples of this task are owned by {task.nodes} "
                "nodes; leave nodes out, or give as many."
            )
        held = grouped(task.owners.numpy(), config.nodes)
        if empty := [node for node, part in enumerate(held) if not len(part)]:
            raise ConfigError(
                f"task: no training sample is owned by node {empty[0]} of {config.nodes}; "
                "give every node at least one, or leave owners out."
            )
    else:
        split = parts["split"] = split_of(config, task)
        held = shards(split, labels, config.nodes, config.seed)
        if config.sampling == "resample":
            share = class_shares(split, labels, config.nodes, config.seed)
            plan = resample_plan(labels, share)
            return plan, _expected_counts(plan, len(labels))
    counts = np.stack([np.bincount(labels[part], minlength=classes) for part in held])
    return fixed_plan(held, config.replacement, batch), counts


def _expected_counts(plan: Plan, total: int) -> NDArray[np.int64]:
    """Return what every node would hold if the samples were divided equally."""
    assert plan.mixture is not None
    probability = np.diff(plan.mixture, prepend=0.0, axis=1)
    return np.round(probability * total / len(probability)).astype(np.int64)


def _topology(config: Config) -> Topology:
    return Topology(build("topology", config.topology), config.nodes, config.seed)


def _planner(setup: Setup, nodes: NodeLabels) -> RoundPlanner | None:
    """Return who says what when, once everything else is known; adds its plug-ins to the parts."""
    config, parts = setup.config, setup.parts
    faults = network_faults(config.faults, nodes, config.steps, config.seed)
    if setup.traits.communicates != "rounds":
        refuse_rounds(parts, faults)
        return None
    topology = _topology(config)
    mixer = Mixer.make(topology, setup.weights)
    schedule = CommunicationSchedule.make(config.communication)
    planner = RoundPlanner(
        mixer, schedule, config.steps, config.local_steps, setup.timeline, faults
    )
    refuse_unsound(config, parts, planner)
    planner = solve_budget(planner, setup.size, setup.gradient_bytes)
    parts["topology"] = topology.rule
    parts["communication"] = planner.schedule.rule
    if mixer.rule is not None:
        parts["weights"] = mixer.rule
    return planner


def _network(setup: Setup) -> Network | None:
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


def _compute(setup: Setup) -> ConfiguredPlugin | None:
    if setup.config.compute in ("auto", "measured"):
        return None
    return setup.parts.setdefault("compute", build("compute", setup.config.compute))
