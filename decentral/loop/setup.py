"""The parts of a run, and what follows from them: the same on every worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from decentral.algorithms.base import StateSchema, time_of
from decentral.config import LISTS, PARTS, Config
from decentral.exchange.codec.base import TensorLayout, coded_bytes
from decentral.gradients.base import count_saved_numbers
from decentral.layout import Layout, cast
from decentral.loop.compatibility import silence_note, split_notes
from decentral.loop.health import NONE, Attackers
from decentral.loop.models import build_seeded
from decentral.mixing.summary import mixing_note, summary_line
from decentral.network.clock import Clock
from decentral.network.compute import refuse_own_lines
from decentral.network.links import Network
from decentral.network.planning import RoundPlanner, Size, all_reduce_messages
from decentral.optim.base import LrInfo
from decentral.optim.block_optimizer import Rate, state_numbers
from decentral.optim.blocks import Blockwise
from decentral.plugins import is_users, label_of, plain
from decentral.pytree import tree_map
from decentral.registry import PYTHON, ConfiguredPlugin
from decentral.run.checkpoint import Checkpoint
from decentral.sampling import Plan
from decentral.schedules.batch import rate_factor
from decentral.schedules.learning_rate import LearningRate
from decentral.schedules.progress import Progress, StepTimeline
from decentral.spec import Spec, spell
from decentral.tasks.base import Samples, Task
from decentral.topology.labels import NodeId, NodeLabels
from decentral.traits import AlgorithmTraits, LearningRateTraits, traits_of


@dataclass(frozen=True, kw_only=True)
class CommunicationSetup:
    """What is the same on every worker of all that decides what is sent, and how."""

    config: Config
    layout: Layout
    algorithm: ConfiguredPlugin
    codec: ConfiguredPlugin
    aggregation: ConfiguredPlugin
    planner: RoundPlanner | None  # None: the algorithm plans no rounds
    timeline: StepTimeline
    merge: ConfiguredPlugin
    device: torch.device
    dtype: torch.dtype
    parts: dict[str, ConfiguredPlugin]
    network: Network | None = None  # None: seconds are not simulated
    compute: ConfiguredPlugin | None = (
        None  # None: to be measured, where there is a network
    )
    attackers: Attackers = NONE

    @cached_property
    def traits(self) -> AlgorithmTraits:
        """What the algorithm promises."""
        return traits_of(self.algorithm, AlgorithmTraits)

    @property
    def in_events(self) -> bool:
        """Whether nodes go on event by event in simulated time, not in rounds."""
        return self.runs_in != "rounds"

    @property
    def runs_in(self) -> str:
        """The model of time: ``rounds``, ``events``, or rounds of ``neighbours``."""
        return time_of(self.algorithm)

    @property
    def kept(self) -> Mapping[str, StateSchema]:
        """What the algorithm keeps for every node, by name."""
        return self.traits.state

    @property
    def weights(self) -> object:
        """The mixing weights as asked; ``auto``: what the algorithm needs, if it does."""
        asked = self.config.weights
        return (self.traits.weights or asked) if asked == "auto" else asked

    @property
    def model_bytes(self) -> int:
        """Logical bytes of one model when it is sent."""
        return self.layout.payload(self.config.gossip_buffers) * self.dtype.itemsize

    @property
    def mixed_numbers(self) -> int:
        """Numbers of the state of an optimizer that are sent beside a model."""
        return 0

    @cached_property
    def size(self) -> Size:
        """Logical bytes of all channels of one node: as gossip codes them, and in a
        merge.
        """
        sent = [kept for kept in self.kept.values() if kept.sent]
        # What travels as it is, whatever the codec: single numbers, by which push-
        # sum divides, and the optimizer's state.
        plain = sum(kept.scalar for kept in sent)
        plain += self.mixed_numbers
        layouts = [
            self.tensor_layout(buffers=True),
            *(self.tensor_layout(k.full_width) for k in sent if not k.scalar),
        ]
        rest = plain * self.dtype.itemsize
        whole = sum(each.numbers for each in layouts) * self.dtype.itemsize + rest
        if (parts := self.fragments) > 1:
            # The largest part: columns need not divide evenly.
            part = (
                sum(-(-each.numbers // parts) for each in layouts) * self.dtype.itemsize
                + rest
            )
            return Size(part, part, whole)
        # Only gossip is coded. A global merge is an all-reduce, which adds up what
        # travels, and sums of codes are no codes.
        return Size(sum(coded_bytes(self.codec, each) for each in layouts) + rest, whole)

    @property
    def users(self) -> str:
        """The parts of the run that are the user's own, in words."""
        return ", ".join(label_of(part) for part in self.parts.values() if is_users(part))

    @property
    def fragments(self) -> int:
        """In how many parts, one per round, the algorithm sends a model."""
        setting = self.traits.fragments
        return int(self.algorithm.settings[setting]) if setting else 1

    @property
    def row_bytes(self) -> int:
        """Logical bytes of what one node sends to one other in one round: all
        channels.
        """
        return self.size.gossip

    def tensor_layout(self, buffers: bool) -> TensorLayout:
        """Return what a channel holds: the parameters, and buffers if these are
        sent at all.
        """
        return TensorLayout(
            tuple(
                (entry.start, entry.stop, entry.shape)
                for entry in self.layout.entries_sent(
                    buffers and self.config.gossip_buffers
                )
            ),
            self.dtype.itemsize,
        )

    @property
    def gradient_bytes(self) -> int:
        """Logical bytes of one gradient."""
        return self.layout.payload(False) * self.dtype.itemsize

    @property
    def all_reduce_bytes(self) -> int:
        """Logical bytes of an all-reduce of the gradient at every step: what
        budgets refer to.
        """
        return (
            all_reduce_messages(self.config.nodes, self.config.steps)
            * self.gradient_bytes
        )

    @property
    def samples_held(self) -> Tensor:
        """Training samples of every node, [N]; as many each where they are not known."""
        return torch.ones(self.config.nodes, dtype=torch.int64)

    def clock(self) -> Clock:
        """Return the clocks of all nodes, at zero."""
        if self.compute and not self.in_events:
            refuse_own_lines(self.compute)
        rule = self.parts.get("network")
        kind = rule.common["all_reduce"] if rule else "auto"
        return Clock(self.network, self.compute, self.config.seed, kind)


@dataclass(frozen=True, kw_only=True)
class Setup(CommunicationSetup):
    """Everything that is the same on every worker, built once from a configuration."""

    task: Task
    model: nn.Module  # template; rows hold the nodes' values
    builder: Callable[[], nn.Module]
    optimizer: ConfiguredPlugin
    learning_rate: LearningRate
    batch: ConfiguredPlugin
    plan: Plan
    counts: NDArray[np.int64]  # [nodes, classes] samples held

    @cached_property
    def train(self) -> Samples:
        """Training samples on the device."""
        return self.task.splits[0].to(self.device, self.dtype)

    @cached_property
    def activation_memory(self) -> int:
        """Numbers that the model keeps of one sample for a backward pass.

        Half of what it keeps of two: layers that normalise over the batch refuse a
        single sample.
        """
        two = tree_map(lambda one: one.repeat_interleave(2, 0), self.train.first)
        again = self.config.activation_checkpointing
        return -(-count_saved_numbers(self.model, two, again) // 2)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a user should read before the run."""
        mixer = self.planner.mixer if self.planner else None
        lines = (summary_line(mixer), mixer.topology.traits.said) if mixer else ()
        # Algorithms with weights of their own keep the mean by other means.
        if mixer and not traits_of(self.algorithm, AlgorithmTraits).weights:
            lines = (*lines, mixing_note(mixer))
        # What a model that was read from a folder has to say of itself.
        loaded: tuple[str, ...] = getattr(self.model, "notes", ())
        read = filter(None, (*lines, self._silence, self.learning_rate.note, *loaded))
        return (*read, *self.task.notes, *split_notes(self.config, self.task))

    @cached_property
    def _silence(self) -> str:
        """Asked once: of many steps that takes its time."""
        if self.planner is None or self.runs_in == "events":
            return ""
        return silence_note(self.planner, is_users(self.planner.schedule.rule))

    @property
    def node_labels(self) -> NodeLabels:
        """What finds nodes by their labels, where a topology has any."""
        mixer = self.planner.mixer if self.planner else None
        read = (lambda: mixer.topology.labels) if mixer else None
        return NodeLabels(self.config.nodes, read)

    @property
    def drawn(self) -> int:
        """How many nodes compute in a step."""
        part = self.planner.participation if self.planner else None
        return part.count(self.config.nodes) if part else self.config.nodes

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
        """Return the learning rate of the step that follows ``progress``: schedule
        times batch.

        Args:
            progress: How far the run is.
            ratio: Ratio of the parameter's peak to the base.
            floor: Where all ratios meet, as a share of the base peak.
        """
        rate = self.learning_rate(progress, ratio, floor)
        if self.batch.common["scale_lr"] == "none":
            return rate
        return rate * self.lr_factor(self.timeline.size(progress.step))

    def rates(self, progress: Progress, blockwise: Blockwise | None) -> float | Rate:
        """Return the learning rate of a step, or that of each block of parameters as a
        function of its ratio to the base.
        """
        if blockwise is None:
            return self.rate(progress)
        least = blockwise.floor
        floor = self.learning_rate.floor if least is None else least
        return lambda ratio: self.rate(progress, ratio, floor)

    def lr_factor(self, size: int) -> float:
        """Return by what a batch of ``size`` multiplies the learning rate."""
        return rate_factor(self.batch, size, self.first_batch)

    @property
    def course(self) -> LrInfo:
        """What optimizers with schedules of their own may know of the learning
        rate's.
        """
        rate, steps = self.learning_rate, self.config.steps
        cosine = traits_of(rate.rule, LearningRateTraits).cosine
        # On the clock of the progress that optimizers are told, which a data budget
        # counts in samples.
        begin = self.timeline.progress(0).fraction_at(rate.warmup(steps))
        return LrInfo(cosine, begin, rate.floor)

    def module(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the model as its user wrote it, with a state, in evaluation mode."""
        made = cast(
            build_seeded(self.builder, self.config.seed, "init"), self.device, self.dtype
        )
        # Over the state of a fresh one: what no checkpoint holds stays as the
        # builder made it.
        made.load_state_dict({**made.state_dict(), **state})
        return made.eval()

    def initial_rows(self, nodes: Sequence[NodeId]) -> Tensor:
        """Return the first rows of nodes, [n, P]: one model for all, or draws of
        their own.
        """
        shared = self.config.init == "shared"
        # By id, so that it does not matter which worker hosts a node.
        purposes = ["init"] if shared else [f"init/{node}" for node in nodes]
        rows = torch.zeros(len(purposes), self.layout.width, dtype=self.dtype)
        for row, purpose in zip(rows, purposes, strict=True):
            self.layout.pack(build_seeded(self.builder, self.config.seed, purpose), row)
        # One model is built and copied: building one for every node would take its
        # time N times.
        return rows.repeat(len(nodes), 1) if shared else rows

    @property
    def mixed_numbers(self) -> int:
        """Numbers of the state of an optimizer that are sent beside a model."""
        return state_numbers(self.optimizer, self.layout) if self.config.mix_state else 0

    @property
    def samples_held(self) -> Tensor:
        """Training samples of every node, [N]."""
        return torch.from_numpy(self.counts.sum(1))


class Simulated(Protocol):
    """What trains a block in simulated time, every node at its own step."""

    def advance(self) -> None:
        """Let all nodes together make one more update each."""
        ...

    def figures(self) -> dict[str, float]:
        """Return what a log line shows of it."""
        ...

    def state(self) -> tuple[dict[str, Any], dict[NodeId, dict[str, Tensor]]]:
        """Return what a checkpoint keeps: plain data, and tensors by node."""
        ...

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where another stood."""
        ...


def _resolve(bound: ConfiguredPlugin) -> Any:
    return bound.spec() if bound.reloadable else PYTHON


def write_in_list(bound: str | ConfiguredPlugin) -> str:
    """Return how one of a list is written, also if it was given from Python."""
    if isinstance(bound, str):
        return bound
    if not bound.reloadable:
        return PYTHON
    accepted = bound.plugin.accepts
    given = {
        key: plain(value)
        for key, value in {**bound.settings, **bound.common}.items()
        if value != accepted[key].default
    }
    name = bound.plugin.origin or bound.name
    return spell(Spec(name, (), given)) if given else name


def resolve_config(setup: Setup, **decided: Any) -> dict[str, Any]:
    """Return the configuration with every default written out and every ``auto``
    decided.
    """
    settings = setup.config.model_dump()
    for kind in PARTS:
        bound = setup.parts.get(kind)
        settings[kind] = _resolve(bound) if bound else None
    # What was given as an object cannot be written. The folder says that there was
    # one, and whoever goes on from it must bring it again.
    if isinstance(setup.config.task, Task):
        settings["task"] = PYTHON
    if "model" not in setup.parts and setup.task.model is None:
        settings["model"] = PYTHON
    if setup.planner is not None and "weights" not in setup.parts:
        settings["weights"] = "auto"
    if (noise := setup.config.label_noise) is not None:
        settings["label_noise"]["kind"] = noise.kind_for(setup.task.classes)
    for key in LISTS:
        settings[key] = [write_in_list(one) for one in getattr(setup.config, key)]
    # As it was found: ``auto`` may be another device where the run goes on.
    settings["device"] = str(setup.device)
    return {**settings, **decided}
