"""Who sends to whom in one round, and with which weights: x_i <- sum_j W_ij
x_j.

A weights rule is a function ``(receivers, senders, nodes) -> weights`` of the links
that are on; the weight of a node's own row is what is left. What a rule promises
stands in ``traits.WeightsTraits``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.mixing.prescribed import absent, check_prescribed, check_returned
from decentral.plugins import is_users, label_of
from decentral.registry import ConfiguredPlugin, build
from decentral.topology.base import Links, Topology, horizon
from decentral.topology.labels import Position
from decentral.traits import TopologyTraits, WeightsTraits, traits_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Which links (receivers, senders) something happens to.
Struck = Callable[[Integers, Integers], NDArray[np.bool_]]

#: What says that mixing weights are those of the graph; no rule is called so.
PRESCRIBED = "file"

TOLERANCE = 1e-9
#: Chances of links that are drawn ahead in one call.
_AHEAD = 1 << 14
#: Links that are checked before a run whose graph prescribes weights for every
#: round.
_MOST_CHECKED = 1_000_000


@dataclass(frozen=True)
class Mixing:
    """One round's weights in compressed rows: node i receives
    ``senders[indptr[i]:indptr[i+1]]``.

    Every row holds its own diagonal entry; senders ascend within a row. ``lost``
    are the receivers and senders [2, l] of messages that were sent and do not
    arrive.
    """

    nodes: int
    indptr: Integers  # [nodes + 1]
    senders: Integers  # [entries]
    weights: Floats  # [entries]
    lost: Integers = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    #: Messages that are sent, with those that do not arrive.
    messages: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Count the messages."""
        # The own entries of the diagonal are no messages.
        sent = len(self.senders) - self.nodes + self.lost.shape[1]
        object.__setattr__(self, "messages", sent)

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns sum to one, so that the mean of the nodes is
        kept.
        """
        columns = np.bincount(self.senders, weights=self.weights, minlength=self.nodes)
        # Safe since no row is empty: ``reduceat`` gives an element, not 0, for
        # empty spans.
        rows = np.add.reduceat(self.weights, self.indptr[:-1]) if self.nodes else columns
        return bool(
            np.abs(np.concatenate((rows, columns)) - 1).max(initial=0.0) < TOLERANCE
        )

    def changes(self) -> NDArray[np.bool_]:
        """Return which rows the mixing changes: not those that receive nothing, and
        keep all.
        """
        # The only entry of a row that receives nothing is its own.
        return (np.diff(self.indptr) > 1) | (self.weights[self.indptr[:-1]] != 1.0)

    def row(self, node: int) -> tuple[Integers, Floats]:
        """Return the senders (ascending) and weights of one receiver, itself
        included.
        """
        span = slice(self.indptr[node], self.indptr[node + 1])
        return self.senders[span], self.weights[span]

    @property
    def receivers(self) -> Integers:
        """The receiver of every entry, [entries]."""
        return np.repeat(np.arange(self.nodes), np.diff(self.indptr))

    def sparse(self) -> csr_array:
        """Return W as a sparse matrix [nodes, nodes]."""
        from scipy.sparse import csr_array

        shape = self.nodes, self.nodes
        return csr_array((self.weights, self.senders, self.indptr), shape=shape)

    def dense(self) -> Floats:
        """Return W as a matrix [nodes, nodes]."""
        matrix = np.zeros((self.nodes, self.nodes))
        matrix[self.receivers, self.senders] = self.weights
        return matrix


def assemble(
    links: Links,
    weights: Floats,
    nodes: int,
    keeps: str = "rest",
    lost: NDArray[np.bool_] | None = None,
) -> Mixing:
    """Build the mixing from link weights: the diagonal takes what a node keeps.

    Messages that are ``lost`` [links] leave their weight to the receiver; the
    sender knows nothing.

    Args:
        links: Directed links, receivers and senders.
        weights: Weight of each link, [links].
        nodes: Number of nodes.
        keeps: What the diagonal takes: ``rest`` of what is received, ``unsent``, or
            ``nothing``.
        lost: Links whose message does not arrive, [links].
    """
    everyone = np.arange(nodes)
    arrived = np.ones(len(weights), bool) if lost is None else ~lost
    given = (
        # Lost messages, too: a sender does not know, and what it gave away is gone.
        np.bincount(links.senders, weights=weights, minlength=nodes)
        if keeps == "unsent"
        else np.bincount(
            links.receivers[arrived], weights=weights[arrived], minlength=nodes
        )
    )
    own: Floats = np.zeros(nodes) if keeps == "nothing" else np.subtract(1.0, given)
    receivers = np.concatenate((links.receivers[arrived], everyone))
    senders = np.concatenate((links.senders[arrived], everyone))
    # By receiver, then by sender: sums add up in this order on every engine.
    order = np.lexsort((senders, receivers))
    indptr = np.concatenate(([0], np.cumsum(np.bincount(receivers, minlength=nodes))))
    missing = np.stack([links.receivers[~arrived], links.senders[~arrived]])
    whole = np.concatenate((weights[arrived], own))
    return Mixing(nodes, indptr, senders[order], whole[order], missing)


@dataclass
class Mixer:
    """Draws the mixing of every round, as a pure function of (seed, membership
    epoch, round).
    """

    topology: Topology
    rule: ConfiguredPlugin | None = None  # None: weights prescribed by the graph
    _ahead: tuple[int, Floats] = field(
        default=(0, np.zeros((0, 0))), init=False, repr=False, compare=False
    )

    @staticmethod
    def make(topology: Topology, weights: object = "auto") -> Mixer:
        """Choose the rule; ``auto`` is the graph's own, else metropolis, directed:
        uniform.

        ``file`` are the graph's own, and nothing else.
        """
        links = topology.links(0)
        if weights in (None, "auto", PRESCRIBED):
            if links.weights is not None:
                check_prescribed(topology, _known_rounds(topology))
                return Mixer(topology)
            if weights == PRESCRIBED:
                raise ConfigError(absent(topology))
            weights = "uniform" if links.directed else "metropolis"
        rule = build("weights", weights)
        # The rule asked for replaces them; graphs that change are drawn anew every
        # round.
        if links.weights is not None and not topology.time_varying:
            topology = topology.without_weights()
        if links.directed and traits_of(rule, WeightsTraits).undirected:
            raise ConfigError(
                f"weights {rule.name!r} need an undirected graph, but topology "
                f"{topology.rule.name!r} is directed; use weights: uniform."
            )
        if topology.time_varying and traits_of(rule, WeightsTraits).fixed:
            raise ConfigError(
                f"weights {rule.name!r} need a graph that does not change, but topology "
                f"{topology.rule.name!r} changes every round; use weights: metropolis."
            )
        return Mixer(topology, rule)

    @property
    def weights_name(self) -> str:
        """The rule's name, ``prescribed`` when the graph brings its own weights."""
        return self.rule.name if self.rule else "prescribed"

    @cached_property
    def traits(self) -> WeightsTraits:
        """What the rule promises; weights that a graph prescribes promise nothing."""
        return traits_of(self.rule, WeightsTraits) if self.rule else WeightsTraits()

    @cached_property
    def keeps(self) -> str:
        """What a node keeps of its own row: ``rest``, ``unsent`` or ``nothing``."""
        return self.traits.keeps

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether every round keeps the mean of the nodes, at any intensity."""
        topology = self.topology
        promised = traits_of(topology.rule, TopologyTraits)
        if topology.activation == "degree" or self.keeps == "nothing":
            return False
        if topology.activation == "link":
            return self.traits.doubly_stochastic or promised.doubly_stochastic
        if topology.time_varying and promised.period is None:  # no finite check can tell
            return promised.doubly_stochastic
        return all(self.mixing(r).doubly_stochastic for r in range(topology.period))

    @cached_property
    def keeps_balance(self) -> bool:
        """Whether weights stay doubly stochastic where links are lost in both
        directions.
        """
        symmetric = self.rule is None or self.traits.symmetric
        return (
            self.doubly_stochastic and symmetric and not self.topology.links(0).directed
        )

    def is_active(self, step: int, intensity: float) -> bool:
        """Whether gossip at this step sends anything (tossed for whole rounds
        only).
        """
        if self.topology.activation != "round" or intensity >= 1.0:
            return True
        # By step, not by round: rounds do not advance in silence, so that a round
        # which is not on would be tossed the same way for ever.
        return bool(rng.uniform(self.topology.seed, "round", step)[0] < intensity)

    def mixing(
        self,
        round: int,
        intensity: float = 1.0,
        excluded: frozenset[Position] = frozenset(),
        down: Struck | None = None,
        lost: Struck | None = None,
    ) -> Mixing:
        """Return the weights of one round; links ``down``, and of ``excluded``
        nodes, are off.

        Messages that are ``lost`` are sent, with the weights of a round in which
        nothing is.

        Args:
            round: Round, counted from 0.
            intensity: Intensity of the round, in (0, 1].
            excluded: Nodes that cannot be reached.
            down: Says which links are down.
            lost: Says which messages are lost.
        """
        # Links that are off are left out before weights are computed, so that the
        # others still sum to 1; lost messages only afterwards, since nobody knows
        # of them.
        links = self.active_links(round, intensity)
        if excluded:
            out = np.array(sorted(excluded))
            links = links.keep(
                ~(np.isin(links.senders, out) | np.isin(links.receivers, out))
            )
        if down is not None:
            links = links.keep(~down(links.receivers, links.senders))
        weights = links.weights
        if self.rule is not None and self._fixed is None:
            weights = self.rule.function(
                links.receivers, links.senders, self.topology.nodes
            )
            if self._is_users:
                check_returned(self.rule, weights, links)
        # of a round without links, for which a graph prescribes nothing
        if weights is None:
            weights = np.zeros(len(links))
        missing = lost(links.receivers, links.senders) if lost is not None else None
        return self._check(
            assemble(links, weights, self.topology.nodes, self.keeps, missing)
        )

    @cached_property
    def _fixed(self) -> Links | None:
        """All links with the weights that were computed once, where the rule asks
        for that.
        """
        if self.rule is None or not self.traits.fixed:
            return None
        links = self.topology.links(0)
        weights = self.rule(links.receivers, links.senders, self.topology.nodes)
        check_returned(self.rule, weights, links)
        return replace(links, weights=weights)

    @cached_property
    def _is_users(self) -> bool:
        """Whether what the rule returns is looked at in each round; the laws look
        at ours.
        """
        return self.rule is not None and is_users(self.rule)

    @cached_property
    def signed(self) -> bool:
        """Whether weights may be negative, as a rule was asked to make them."""
        signed = traits_of(self.rule, WeightsTraits).signed if self.rule else None
        return bool(signed and self.rule and signed(self.rule.settings))

    def _check(self, mixing: Mixing) -> Mixing:
        # NaN is not at least anything; a weight of infinity leaves minus infinity.
        if not self.signed and not mixing.weights.min(initial=0.0) >= -TOLERANCE:
            weights = (
                label_of(self.rule) if self.rule else f"weights {self.weights_name!r}"
            )
            raise ConfigError(
                f"{weights} on {label_of(self.topology.rule)}: a row gives away more than 1; "
                "scale the weights of each node's incoming links to at most 1."
            )
        return mixing

    def active_links(self, round: int, intensity: float) -> Links:
        """Return the links that are on in this round."""
        topology = self.topology
        links = topology.links(round, intensity) if self._fixed is None else self._fixed
        if topology.activation != "link" or intensity >= 1.0:
            return links
        first, drawn = self._ahead
        if topology.time_varying or not first <= round < first + len(drawn):
            # One assignment, since threads may share a mixer.
            first, drawn = self._ahead = round, self._toss(round, links)
        return links.keep(drawn[round - first] < intensity)

    def _toss(self, round: int, links: Links) -> Floats:
        """Return one number in [0, 1) for each link, the same in both directions,
        [rounds, links].

        Where the graph does not change they are drawn for many rounds in one call.
        """
        topology = self.topology
        ahead = 1 if topology.time_varying else max(1, _AHEAD // max(1, len(links)))
        rounds = np.arange(round, round + ahead)[:, None]
        # By the pair, so that both directions of a link share one toss.
        low = np.minimum(links.senders, links.receivers)
        high = np.maximum(links.senders, links.receivers)
        purpose = f"links/{topology.epoch}"
        return rng.uniform(topology.seed, purpose, rounds, low, high)

    def expected_messages(self, intensity: float) -> float:
        """Return the expected number of directed messages of one gossip action."""
        expected, topology = self._expected_links, self.topology
        if expected is not None:
            return float(expected(topology.nodes, intensity, topology.rule.settings))
        return intensity * self.full_messages

    @cached_property
    def _expected_links(self) -> Callable[[int, float, Mapping[str, Any]], float] | None:
        return traits_of(self.topology.rule, TopologyTraits).expected_links

    @cached_property
    def full_messages(self) -> float:
        """Directed messages of a round at full intensity, averaged over one period."""
        period = self.topology.period
        return sum(len(self.topology.links(r)) for r in range(period)) / period


def _known_rounds(topology: Topology) -> int:
    """Return the rounds whose prescribed weights are checked beforehand, at most a
    million links.

    A sequence without a period is sampled: its later rounds are checked when they
    come.
    """
    if not topology.time_varying:
        return 1
    return min(horizon(topology), max(1, _MOST_CHECKED // max(1, len(topology.links(0)))))
