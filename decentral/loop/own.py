"""A model that a loop of one's own trains, as a row that communicates.

The algorithm is called behind the optimizer's step of the loop: its ``gradient()`` and
``adapt()`` have then been done. What it does with the model afterwards is the text that a
run uses, too, on the same channels and through the same exchange.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import NoReturn

import torch
from torch import Tensor, nn

from decentral.config import Config
from decentral.errors import ConfigError, RunError
from decentral.exchange.base import Exchange
from decentral.layout import Layout
from decentral.loop.channels import Channels
from decentral.loop.compatibility import refuse_idle
from decentral.loop.health import finite_rows
from decentral.loop.hosted import HostedRows
from decentral.loop.preparing import make_planner
from decentral.loop.setup import CommunicationSetup
from decentral.merging.calibrate import merge_integers
from decentral.network.planning import RoundAction, RoundPlanner
from decentral.registry import build
from decentral.schedules.action import Action
from decentral.schedules.progress import Progress, StepTimeline
from decentral.topology.base import Topology
from decentral.topology.labels import NodeId, NodeLabels
from decentral.traits import AlgorithmTraits, CommunicationTraits, traits_of

#: Steps of a loop of which nobody knows how long it is.
OPEN = 1 << 50
#: Communication steps at which a schedule is asked whether it depends on that.
_ASKED = 200


def own_setup(
    config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, open_ended: bool
) -> CommunicationSetup:
    """Return what decides what a model sends, and when.

    Args:
        config: The settings; a node is a rank.
        model: The model.
        optimizer: What moves it, in the loop.
        open_ended: Whether nobody knows how long the loop is.
    """
    layout = _layout(model)
    kinds = ("algorithm", "codec", "aggregation", "merge")
    parts = {kind: build(kind, getattr(config, kind)) for kind in kinds}
    # It stands for the loop's own where an algorithm asks whether that is plain.
    plain = type(optimizer) is torch.optim.SGD and not optimizer.defaults["momentum"]
    parts["optimizer"] = build("optimizer", "sgd(momentum=0)" if plain else "adamw")
    algorithm = parts["algorithm"]
    traits = traits_of(algorithm, AlgorithmTraits)
    if traits.communicates != "rounds":
        raise ConfigError(
            f"algorithm {algorithm.name!r} sends no models, and a loop of one's own needs "
            "nothing for that; use dsgd, diloco or noloco."
        )
    setup = CommunicationSetup(
        config=config, layout=layout, algorithm=algorithm, codec=parts["codec"],
        aggregation=parts["aggregation"], planner=None, merge=parts["merge"],
        timeline=StepTimeline(range(config.steps + 1)), device=_device(model),
        dtype=_dtype(model, layout), parts=parts,
    )  # fmt: skip
    if setup.in_events:
        raise ConfigError(
            f"algorithm {algorithm.name!r} goes event by event in simulated time, and ranks meet "
            "in rounds; use dsgd, diloco or noloco."
        )
    nodes = NodeLabels(config.nodes, lambda: _topology(config).labels)
    planner = make_planner(setup, nodes)
    assert planner is not None
    if open_ended:
        _refuse_open(planner)
        planner = replace(planner, steps=OPEN)
        setup = replace(setup, timeline=StepTimeline(range(OPEN + 1)))
    return replace(setup, planner=replace(planner, timeline=setup.timeline))


def _topology(config: Config) -> Topology:
    return Topology(build("topology", config.topology), config.nodes, config.seed)


def _layout(model: nn.Module) -> Layout:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ConfigError(
            "Gossip: DistributedDataParallel averages the gradients of all ranks already; give "
            "the model within it (model.module), and train that."
        )
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ConfigError(
                f"Gossip: the model's parameter {name!r} has no shape yet; call the model once "
                "before."
            )
        if parameter.is_complex():
            raise ConfigError(
                f"Gossip: the model's parameter {name!r} is complex, and rows hold real numbers; "
                "keep its real and imaginary part, and join them by torch.view_as_complex."
            )
    return Layout.of(model)


def _tensors(model: nn.Module, layout: Layout) -> list[Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [named[entry.name] for entry in layout.entries_sent(buffers=True)]


def _device(model: nn.Module) -> torch.device:
    devices = {str(p.device): p.device for p in model.parameters() if p.requires_grad}
    if len(devices) > 1:
        raise ConfigError(
            f"Gossip: the model's parameters lie on {' and '.join(devices)}; move them to one."
        )
    return next(iter(devices.values()))


def _dtype(model: nn.Module, layout: Layout) -> torch.dtype:
    # Averages of 16-bit numbers are taken in 32: small differences would be lost.
    types = [tensor.dtype for tensor in _tensors(model, layout)]
    return reduce(torch.promote_types, types, torch.float32)


def _refuse_open(planner: RoundPlanner) -> None:
    """Raise ConfigError for a schedule that depends on how long a loop is."""
    schedule, every = planner.schedule, planner.local_steps

    def decided(steps: int) -> list[Action]:
        timeline = range(steps + 1)
        places = [
            Progress(k, steps, k, None, 0, every, timeline)
            for k in range(every, _ASKED * every + 1, every)
        ]
        return schedule.actions(places)

    budgeted = traits_of(schedule.rule, CommunicationTraits).budgeted
    depends = schedule.closed_loop or budgeted
    if depends or decided(_ASKED * every) != decided(OPEN):
        raise ConfigError(
            f"communication {schedule.rule.name!r} depends on how long the loop is; say it by "
            "steps=N, or use communication constant, every or merges."
        )


class ModelRow(HostedRows[CommunicationSetup]):
    """The model of this process as the one row that it hosts, [1, P].

    The model's tensors stay where they are: they are copied into the row when an
    algorithm looks at it, and back when it is done.
    """

    def __init__(
        self,
        setup: CommunicationSetup,
        exchange: Exchange,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Host a model, which stays as it is.

        Args:
            setup: What decides what is sent.
            exchange: Through which the rows of all ranks meet.
            model: The model.
            optimizer: What moves it.
        """
        self.model, self.optimizer = model, optimizer
        self._width = setup.layout.trainable
        super().__init__(setup, exchange, lambda *_: None, None, self._first)
        own = self.planner is not None and bool(self.planner.schedule.own_feedback)
        self.grads = torch.zeros_like(self.rows) if own else self.rows[:, :0]
        self.losses.fill_(torch.nan)  # nobody has told one
        self.begin_anew()
        #: Whether the algorithm has looked at the row, and the update of the step is done.
        self.current = self.adapted = False
        self.listens = self.planner is not None and self.planner.schedule.closed_loop
        self._try()
        self.next = self._decide_ahead()

    def _first(self, nodes: list[NodeId]) -> Tensor:
        setup = self.setup
        row = torch.zeros(1, setup.layout.width, dtype=setup.dtype, device=setup.device)
        setup.layout.pack(self.model, row[0])
        return row

    def begin_anew(self) -> None:
        """Put what the algorithm keeps to where it begins, at the model as it is."""
        self.read()
        self.channels = Channels(self.setup, self.exchange, self.hosted, self.rows)

    def _try(self) -> None:
        """Refuse an algorithm that needs the model before the optimizer's step."""
        self.called = set[str]()
        self.setup.algorithm(self, None)
        refuse_idle(self.setup.algorithm, self.called | {"gradient"})
        self.current = self.adapted = False
        self.begin_anew()

    # --- between the model and its row --------------------------------------------

    def read(self) -> None:
        """Copy the model into the row."""
        self.setup.layout.pack(self.model, self.rows[0])

    def write(self) -> None:
        """Copy the row into the model, if the algorithm has looked at it."""
        if self.current:
            self.setup.layout.unpack(self.rows[0], self.model)
        self.current = self.adapted = False

    def _use(self) -> None:
        if not self.adapted:
            self._refuse("works on the model before the optimizer's step")
        if not self.current:
            self.read()
            self.current = True

    def _refuse(self, why: str) -> NoReturn:
        name = self.setup.algorithm.name
        raise ConfigError(
            f"algorithm {name!r} {why}, and a loop of one's own has done that step; use dsgd, "
            "diloco or noloco, or decentral.launch."
        )

    # --- a step -------------------------------------------------------------------

    def step_behind(self, loss: float | None) -> bool:
        """Let the algorithm act behind a step of the loop; return whether something was
        sent.
        """
        before = self.stats.rounds
        action = self.next if self.listens else self.decide()
        if loss is not None:
            self.losses.fill_(loss)
        self.setup.algorithm(self, action)
        if self.listens and not self.current:
            self.read()
        self._read_gradients()
        self.write()
        self.finish_step()
        self.next = self._decide_ahead()
        return self.stats.rounds > before

    def _decide_ahead(self) -> RoundAction | None:
        """Return what is sent after the next step, where that depends on how the models
        are before it.
        """
        over = self.step >= self.setup.timeline.steps
        return self.decide() if self.listens and not over else None

    def decide_again(self) -> None:
        """Decide about the next step from the feedback that is known."""
        planner = self.planner
        if self.listens and planner is not None:
            upcoming = planner.upcoming(self.step + 1, self.round)
            self.next = self._plan(planner, upcoming) if upcoming else None

    def _read_gradients(self) -> None:
        """Copy the gradients where a schedule measures something of its own."""
        if not self.grads.numel():
            return
        slopes = {name: p.grad for name, p in self.model.named_parameters()}
        for name, view in self.setup.layout.views(self.grads).items():
            slope = slopes[name]
            view[0] = 0.0 if slope is None else slope

    def merge(self) -> None:
        """Make one model of those of all ranks, whatever the schedule says."""
        self.adapted = True
        self.combine(RoundAction(1.0, full_model=True))
        named = dict(self.model.named_buffers())
        own = {name: named[name].unsqueeze(0) for name in self.setup.layout.integers}
        alive = torch.tensor([0])
        merged = merge_integers(own, alive, self.exchange.gather)
        self.setup.layout.unpack(self.rows[0], self.model, merged)
        self.current = self.adapted = False
        self.begin_anew()

    # --- what an algorithm sees ---------------------------------------------------

    @property
    def x(self) -> Tensor:
        """The parameters, [1, k]."""
        self._use()
        return self.rows[:, : self._width]

    @property
    def g(self) -> Tensor:
        """Their gradients, which are the loop's."""
        self._refuse("works on gradients")

    @property
    def sent(self) -> Tensor:
        """The columns of the row that are mixed."""
        self._use()
        return super().sent

    @property
    def learning_rate(self) -> float:
        """The learning rate of the step, of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def gradient(self) -> None:
        """Note that the gradient is asked for, which the loop has computed."""
        self.called.add("gradient")

    def average_gradients(self) -> None:
        """Refuse: the step is done."""
        self._refuse("averages gradients before the optimizer's step")

    def adapt(self) -> None:
        """Note that the update is asked for, which the loop's optimizer has made."""
        self.called.add("adapt")
        self.adapted = True

    def begin(self, action: RoundAction | None) -> None:
        """Refuse: rows would have to leave before the step that is done."""
        self._refuse("sends the model before the optimizer's step")

    def combine(
        self,
        action: RoundAction | None,
        part: slice | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        """Gossip or merge as ``action`` says; see `HostedRows.combine`."""
        if action is None:
            return
        self._use()
        if not bool(finite_rows(self.rows).all()):
            raise RunError(
                f"rank {self.exchange.hosted.start}: the model became NaN or infinite by step "
                f"{self.step + 1}, and nothing of it was sent; lower the learning rate, or clip "
                "the gradients."
            )
        super().combine(action, part, ahead=ahead)
