"""The traits of each kind: what a member may declare, and what that promises.

Every attribute is a keyword of ``@plugin``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from decentral.records import Record
from decentral.traits.values import (
    ClaimTraits,
    ComputeTraits,
    Guarantee,
    Recommending,
    Refusing,
    Settings,
    Sizes,
    StateSchema,
    Traits,
    Wire,
)


@dataclass(frozen=True, kw_only=True)
class TopologyTraits(Traits):
    """Traits of a topology.

    Attributes:
        activation: What an intensity below 1 does. ``link``: every link is on with
            that probability; ``round``: the whole round is; ``degree``: it
            multiplies the number of peers drawn. Unless said, ``round`` for
            directed graphs and for prescribed weights.
        period: A function (n, settings): the rounds after which a time-varying
            topology repeats.
        exact_after: A function (n, settings): rounds of a period that average
            exactly, or None.
        sizes: The numbers of nodes that there is a graph for; every n unless given.
        disconnected: The reason why single rounds need not connect the nodes.
        doubly_stochastic: Promised of every round of a time-varying topology
            without a period, with any weights that treat both ends of a link alike.
        expected_links: A function (n, intensity, settings): messages of one gossip
            on average.
        file: It is a graph file, whose graph keeps what was read.
        holds: The number of nodes of a graph that is held in Python.
        said: In a line, what such a graph was read as.
    """

    activation: Literal["link", "round", "degree"] | None = None
    period: Callable[[int, Settings], int] | None = None
    exact_after: Callable[[int, Settings], int | None] | None = None
    sizes: Sizes | None = None
    disconnected: str = ""
    doubly_stochastic: bool = False
    expected_links: Callable[[int, float, Settings], float] | None = None
    file: bool = False
    holds: int | None = None
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class WeightsTraits(Traits):
    """Traits of a rule of weights.

    Attributes:
        undirected: It refuses directed graphs.
        symmetric: Both ends of a link give each other the same weight.
        doubly_stochastic: Columns, too, sum to one, on every undirected graph.
        fixed: It is computed once, from all links of a fixed graph; where one is off,
            both ends keep what they would have sent.
        signed: A function (settings): whether weights may be negative.
        keeps: What is left for the own row: ``rest`` of what is received (rows sum to
            one), or, for algorithms that name such a rule as theirs, ``unsent`` of
            what is given away (columns do) or ``nothing`` (plain sums).
    """

    undirected: bool = False
    symmetric: bool = False
    doubly_stochastic: bool = False
    fixed: bool = False
    signed: Callable[[Settings], bool] | None = None
    keeps: Literal["rest", "unsent", "nothing"] = "rest"


@dataclass(frozen=True, kw_only=True)
class CommunicationTraits(Traits):
    """Traits of a communication schedule.

    Attributes:
        closed_loop: It reads feedback, which is measured for it.
        feedback: A function (block): a number of each hosted row, gathered from all
            and counted, to be read as ``feedback.values``.
        budgeted: Its setting ``factor`` is solved for its setting ``budget``.
    """

    closed_loop: bool = False
    feedback: Callable[[Any], Any] | None = None
    budgeted: bool = False


@dataclass(frozen=True, kw_only=True)
class LearningRateTraits(Traits):
    """Traits of a learning-rate schedule.

    Attributes:
        cosine: It falls on half a cosine wave, which other schedules follow.
        meets: A function (progress, settings): what is left, in [0, 1], of the
            distance of rates by block from the base rate; none: all.
        scheduler: It takes an optimizer and returns a ``torch.optim.lr_scheduler``.
    """

    cosine: bool = False
    meets: Callable[[Any, Settings], float] | None = None
    scheduler: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchTraits(Traits):
    """Traits of a batch schedule.

    Attributes:
        from_file: It may name a file in place of its settings:
            ``decentral plan batch --out``.
    """

    from_file: bool = False


@dataclass(frozen=True, kw_only=True)
class OptimizerTraits(Traits):
    """Traits of an optimizer.

    Attributes:
        elementwise: Row i of a block is updated as if it were alone, so that a
            whole contiguous block may be one parameter. It is proved on two rows
            before it is believed.
        stacked: It takes parameters with the rows as their first dimension, and
            their names.
        named: It takes the names of parameters.
        isolated: Parameters never depend on each other, so that the rows may share
            an instance.
        mixes: States that may be averaged over nodes; unless given, all shaped like
            a parameter.
        rest: What updates the parameters that an optimizer of matrices leaves.
        default_lr: The peak rate where the user gives none.
        plain: A function (settings): whether an update is x <- x - lr g, weight
            decay apart.
        base: Dotted name of the optimizer that it equals to the bit, under
            ``identity``.
        identity: The settings under which it does.
    """

    elementwise: bool = False
    stacked: bool = False
    named: bool = False
    isolated: bool = False
    mixes: tuple[str, ...] | None = None
    rest: str = "adamw"
    default_lr: float = 1e-3
    plain: Callable[[Settings], bool] | None = None
    base: str = ""
    identity: Settings = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class NetworkTraits(Traits):
    """Traits of a network.

    Attributes:
        nodes: A function (): how many nodes a network has that comes with them.
    """

    nodes: Callable[[], int] | None = None


@dataclass(frozen=True, kw_only=True)
class MergeTraits(Traits):
    """Traits of a merge rule.

    Attributes:
        sees: The numbers of ``samples``, for the weights of an average, or all
            ``models`` in one place, for the merged row itself.
        nodes: The only number of models it takes; unless given, any.
        moves_equal: Equal models need not stay as they are.
        ordered: The order of the nodes matters.
    """

    sees: Literal["samples", "models"] = "samples"
    nodes: int | None = None
    moves_equal: bool = False
    ordered: bool = False


@dataclass(frozen=True, kw_only=True)
class AlgorithmTraits(Recommending, Refusing):
    """Traits of an algorithm.

    Attributes:
        guarantees: What the laws test of it.
        communicates: In ``rounds`` (topology and schedule apply), all ``steps``, or
            ``never``.
        gradient: Where its gradients come from: ``samples``, by
            ``block.gradient()``, or ``none``: it learns not from data, or not by
            gradients.
        update: Who moves the rows: the run's ``optimizer``, by ``block.adapt()``,
            or the algorithm by its ``own`` formula.
        state: What it keeps for every node; with ``sent=True`` a channel like the
            parameters: mixed by ``combine``, and counted. All of it is in
            checkpoints.
        fragments: The setting that says in how many parts, one per round, a model
            is sent.
        counts: The state [n, 1] that is 0 for nodes that metrics and merges leave
            out.
        weights: The mixing weights it needs, not the graph's or the user's.
        identity: Settings that make one node the plain optimizer; none: always.
        time: In ``rounds``, a function (block, action); or one (node, event): nobody
            waits (``events``), or for ``neighbours`` only; a function (settings) of it.
        server: Node 0 serves others: its model is the run's.
        partial: What ``participation`` may leave nodes out of: all ``rounds``, rows that
            were neither trained nor mixed staying as they are, or ``merges`` alone.
    """

    guarantees: tuple[Guarantee, ...] = ()
    communicates: Literal["rounds", "steps", "never"] = "rounds"
    gradient: Literal["samples", "none"] = "samples"
    update: Literal["optimizer", "own"] = "optimizer"
    state: Mapping[str, StateSchema] = field(default_factory=dict[str, StateSchema])
    fragments: str | None = None
    counts: str | None = None
    weights: str | None = None
    identity: Settings = field(default_factory=dict[str, Any])
    time: Literal["rounds", "events", "neighbours"] | Callable[[Settings], str] = "rounds"
    server: bool = False
    partial: Literal["rounds", "merges", "nothing"] = "nothing"

    def contradiction(self, settings: Settings) -> str:
        """Return which setting or state that a trait names there is not."""
        if self.fragments is not None and self.fragments not in settings:
            return f"fragments = {self.fragments!r}: there is no setting of that name"
        if self.counts is not None and self.counts not in self.state:
            return f"counts = {self.counts!r}: the trait state has none of that name"
        return ""


@dataclass(frozen=True, kw_only=True)
class CodecTraits(Refusing):
    """Traits of a codec.

    Attributes:
        uncoded: Rows travel as they are.
        size: A function (layout, settings): bytes of a coded row; unless given, as
            it is.
        wire: How coded rows travel between workers; unless given, as plain numbers.
        biased: Rows lose too much to be averaged as they are; ``choco`` must send
            differences.
        memory: What all know of a row is remembered; only what is new is coded.
    """

    uncoded: bool = False
    size: Callable[[Any, Settings], int] | None = None
    wire: Wire | None = None
    biased: bool = False
    memory: bool = False


@dataclass(frozen=True, kw_only=True)
class AggregationTraits(Traits):
    """Traits of a rule of aggregation.

    Attributes:
        linear: It is the weighted sum of what is received.
        sees: The ``values`` received, for a new row, or their ``distances``, for
            weights.
        cuts: The setting that says how many rows are left out at either end.
    """

    cuts: str | None = None
    linear: bool = False
    sees: Literal["values", "distances"] = "values"


@dataclass(frozen=True, kw_only=True)
class AttackTraits(Traits):
    """Traits of an attack.

    Attributes:
        data: It changes the targets from which bad nodes learn, not what they send.
    """

    data: bool = False


@dataclass(frozen=True, kw_only=True)
class FaultTraits(Traits):
    """Traits of a fault.

    Attributes:
        strikes: ``nodes`` are unavailable, ``links`` down (both ends know), or
            ``messages`` lost.
    """

    strikes: Literal["nodes", "links", "messages"]


@dataclass(frozen=True, kw_only=True)
class MetricTraits(Traits):
    """Traits of a metric.

    Attributes:
        records: What is known of each key: unit, format, which way is better.
    """

    records: tuple[Record, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskTraits(Recommending):
    """Traits of a task.

    Attributes:
        reads: What its setting ``path`` holds.
    """

    reads: Literal["images"] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelTraits(Traits):
    """Traits of a model.

    Attributes:
        inputs: What it takes, in the words of ``Task.takes``; none: anything.
        single: Parts of it compute in single precision, whatever the rows are in.
        surrogate: Why its gradient is not that of its loss.
    """

    inputs: str | None = None
    single: bool = False
    surrogate: str = ""


@dataclass(frozen=True, kw_only=True)
class SplitTraits(Traits):
    """Traits of a split.

    Attributes:
        needs_classes: It divides samples by their class.
    """

    needs_classes: bool = False


@dataclass(frozen=True, kw_only=True)
class TrackerTraits(Traits):
    """Traits of a tracker.

    Attributes:
        package: The package that it needs, which need not be installed.
    """

    package: str | None = None


@dataclass(frozen=True, kw_only=True)
class CallbackTraits(Traits):
    """Traits of a callback.

    Attributes:
        on: When a function of a context is called.
    """

    on: Literal["start", "step", "round", "evaluate", "end"] = "evaluate"


#: The class of each kind.
TRAITS: Mapping[str, type[Traits]] = {
    "topology": TopologyTraits,
    "weights": WeightsTraits,
    "communication": CommunicationTraits,
    "learning_rate": LearningRateTraits,
    "batch": BatchTraits,
    "optimizer": OptimizerTraits,
    "network": NetworkTraits,
    "compute": ComputeTraits,
    "merge": MergeTraits,
    "algorithm": AlgorithmTraits,
    "codec": CodecTraits,
    "aggregation": AggregationTraits,
    "attack": AttackTraits,
    "fault": FaultTraits,
    "metric": MetricTraits,
    "task": TaskTraits,
    "model": ModelTraits,
    "split": SplitTraits,
    "claim": ClaimTraits,
    "tracker": TrackerTraits,
    "callback": CallbackTraits,
}
