"""One node in simulated time, as an asynchronous algorithm sees it.

An algorithm with the trait ``time="events"`` is a function ``(node, event)``,
called once for everything that happens to a node: its ``start``, a ``gradient``
that is ready, a ``transfer`` that has ended, a ``message`` that has arrived, a
``round`` whose messages are all there. Its text is made of verbs:

- ``node.compute()``: take a snapshot of x_i and the next batch, and be called with
  ``gradient`` when the gradient is ready;
- ``node.update()``: x_i <- optimizer(x_i, g_i), x_i as it is now;
- ``node.send(receivers)``: send x_i as it is now; they are called with ``message``;
- ``node.mix(own, others)``: x_i <- own x_i + sum_j w_j x_j of models that arrived;
- ``node.meet(other)``: exchange models with another node; the node is called with
  ``transfer`` when both have the other's, and ``node.average(event)`` averages the
  two.

What a node remembers from event to event are ``numbers`` and the ``mailbox``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from decentral.topology.labels import NodeId

#: The sender of what nobody has sent.
NOBODY = NodeId(-1)
#: What can happen to a node.
Kind = Literal["start", "gradient", "transfer", "message", "round"]


@dataclass(frozen=True, slots=True)
class Part:
    """One of ``count`` parts of a row, counted from 0, equal to one number."""

    index: int
    count: int

    def of(self, row: Tensor) -> Tensor:
        """Return this part of a row."""
        width = row.shape[0]
        begin, end = (width * at // self.count for at in (self.index, self.index + 1))
        return row[begin:end]


@dataclass(slots=True, eq=False)
class Version:
    """A model as it was sent: held once for all who get it.

    ``value`` is what the row would be if every update added 1 to it (see
    ``simulation/gain``); ``numbers`` are what the algorithm sends along. Rows are
    copied when somebody looks, or many together: ``settle`` does what waits.
    """

    number: int
    owner: NodeId
    value: float
    settle: Callable[[], None]
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    part: Part | None = None  # of a row, if not all of it is sent
    tensor: Tensor | None = None  # once it is copied
    #: How far what waits has come with it, see `decentral.simulation.operations`.
    written: int = 0
    touched: int = 0

    @property
    def row(self) -> Tensor:
        """What of a row is sent, [k]."""
        self.settle()
        return self.held

    @property
    def held(self) -> Tensor:
        """The same, for who knows that nothing waits."""
        assert self.tensor is not None, "a version is copied before it is read"
        return self.tensor


class NodeEvent(NamedTuple):
    """What has happened to a node; ``sender`` and ``version`` are those of a
    message, or of the other node of a transfer, whose ``own`` is the node's model
    of its begin.
    """

    kind: Kind
    sender: NodeId = NOBODY
    version: Version | None = None
    own: Version | None = None

    @property
    def message(self) -> Version:
        """The model that has arrived."""
        assert self.version is not None, "only a message brings a model"
        return self.version


class Node(Protocol):
    """What an asynchronous algorithm may ask of a node, and do to it."""

    #: The algorithm's own numbers, kept in checkpoints.
    numbers: dict[str, float]
    #: Models that arrived and are kept, by any whole number: a sender's id, a
    #: place.
    mailbox: dict[int, Version]

    @property
    def id(self) -> NodeId:
        """The id of the node."""
        ...

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        ...

    @property
    def updates(self) -> int:
        """How many updates the node has made."""
        ...

    @property
    def step_s(self) -> float:
        """Seconds that a gradient of the node has taken so far, on average."""
        ...

    @property
    def local_steps(self) -> int:
        """Updates from one communication step to the next."""
        ...

    @property
    def neighbours(self) -> Sequence[NodeId]:
        """Whose models the node may receive, ascending."""
        ...

    @property
    def weights(self) -> Mapping[NodeId, float]:
        """The row of the mixing weights W_ij, its own included, ascending."""
        ...

    @property
    def out_neighbours(self) -> Sequence[NodeId]:
        """Who may receive the node's, ascending; the same where links go both ways."""
        ...

    @property
    def has_gradient(self) -> bool:
        """Whether a gradient is ready that no update has used."""
        ...

    def compute(self) -> bool:
        """Begin the next gradient, unless the run ends; return whether it began."""
        ...

    def update(self, scale: float = 1.0) -> None:
        """Let the optimizer update the row by the gradient that is ready, or
        ``scale`` times the row, where the row is divided by that.
        """
        ...

    def communicates(self, *, now: bool = False) -> bool:
        """Whether the schedule lets the node communicate with the update that a
        ready gradient makes, or else with the last one; ``now``: also where
        ``local_steps`` would not, for an algorithm that counts its steps itself.
        """
        ...

    def draw(self, purpose: str) -> float:
        """Return a number in [0, 1) that depends on seed, node and earlier draws
        only.
        """
        ...

    def happens(self, chance: float, purpose: str) -> bool:
        """Draw whether something happens; what is certain is not drawn."""
        ...

    def draw_nodes(self, among: Sequence[NodeId], count: int) -> list[NodeId]:
        """Return different nodes, each as likely, ascending."""
        ...

    def send(
        self,
        receivers: Sequence[NodeId],
        *,
        waits: Literal["newest", "all", "wait"] = "newest",
        adds: str = "",
        **numbers: float,
    ) -> None:
        """Send the model, and numbers, to others.

        Args:
            receivers: To whom.
            waits: What waits while the line is busy: the newest model only, all, or
                the sender, which computes on when all have left.
            adds: The number by which what waits and what comes are averaged, and
                which is summed, so that nothing is dropped; empty: the newest takes
                the place of what waits.
            numbers: What goes with the model.
        """
        ...

    def send_parts(self, letters: Sequence[tuple[NodeId, Part]]) -> None:
        """Send parts of the model as it is now, one after the other over the
        sender's line; what of earlier parts has not left is dropped.
        """
        ...

    def mix(self, own: float, others: Mapping[int, tuple[float, Version]]) -> None:
        """x_i <- own x_i + sum_j w_j x_j, added in ascending order of the others."""
        ...

    def mix_part(self, part: Part, own: float, others: Sequence[Version]) -> None:
        """Do the same for one part of x_i: own times it, and as much of each of the
        others as is left for it.
        """
        ...

    def add(self, version: Version, weight: float) -> None:
        """x_i <- x_i + weight times a model."""
        ...

    def keep(self) -> Version:
        """Return a copy of the model as it is now, for the mailbox."""
        ...

    def sum(self, terms: Sequence[tuple[float, Version]]) -> Version:
        """Return a weighted sum of models, for the mailbox; of none: zero."""
        ...

    def meet(self, other: NodeId, *, begun: bool = False, alone: bool = False) -> None:
        """Begin to exchange models with another node.

        Args:
            other: The other node.
            begun: Whether the models of now are averaged in the end.
            alone: Whether each of the two takes part in no other exchange, and
                waits for that.
        """
        ...

    def average(self, event: NodeEvent) -> None:
        """Replace the models of both ends of a transfer by their mean, as they are
        now; or add half of their difference when it begun, if they met so.
        """
        ...

    def send_round(self) -> bool:
        """Send the model as the round of this step says; return whether there is
        one.
        """
        ...

    def await_round(self) -> None:
        """Be called with ``round`` as soon as all models of the round are there."""
        ...

    def mix_round(self) -> None:
        """x_i <- sum_j W_ij x_j with the models of the round."""
        ...
