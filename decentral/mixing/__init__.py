"""Who does talk to whom in one round, and with which weights: x_i <- sum_j W_ij x_j.

A weights rule is a function ``(receivers, senders, nodes) -> weights`` of the links that are on;
what a node does not give to others it keeps, so rows always sum to one. Traits: ``undirected``
(refuses directed graphs), ``symmetric`` (w_ij = w_ji) and ``doubly_stochastic`` (columns sum to one
on every undirected graph).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.registry import Bound, build
from decentral.topology import Links, Topology

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Mixing:
    """One round's weights in compressed rows: node i hears ``senders[indptr[i]:indptr[i+1]]``.

    Every row holds its own diagonal entry; senders ascend within a row.
    """

    nodes: int
    indptr: Integers  # [nodes + 1]
    senders: Integers  # [entries]
    weights: Floats  # [entries]

    @property
    def messages(self) -> int:
        """Directed links that carry a message."""
        return len(self.senders) - self.nodes

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether columns sum to one as well, so that the mean of the nodes is kept."""
        columns = np.bincount(self.senders, weights=self.weights, minlength=self.nodes)
        return bool(np.abs(columns - 1).max(initial=0.0) < _TOLERANCE)

    def row(self, node: int) -> tuple[Integers, Floats]:
        """Return the senders (ascending) and weights of one receiver, itself included."""
        span = slice(self.indptr[node], self.indptr[node + 1])
        return self.senders[span], self.weights[span]

    def dense(self) -> Floats:
        """Return W as a matrix [nodes, nodes]."""
        matrix = np.zeros((self.nodes, self.nodes))
        rows = np.repeat(np.arange(self.nodes), np.diff(self.indptr))
        matrix[rows, self.senders] = self.weights
        return matrix


def assemble(links: Links, weights: Floats, nodes: int) -> Mixing:
    """Build the mixing from link weights: the diagonal takes what is left of each row."""
    given = np.bincount(links.receivers, weights=weights, minlength=nodes)
    everyone = np.arange(nodes)
    receivers = np.r_[links.receivers, everyone]
    senders = np.r_[links.senders, everyone]
    order = np.lexsort((senders, receivers))
    indptr = np.r_[0, np.cumsum(np.bincount(receivers, minlength=nodes))]
    return Mixing(nodes, indptr, senders[order], np.r_[weights, 1.0 - given][order])


@dataclass
class Mixer:
    """Draws the mixing of every round, as a pure function of (seed, membership epoch, round)."""

    topology: Topology
    rule: Bound | None = None  # None: weights prescribed by the graph

    @staticmethod
    def make(topology: Topology, weights: object = "auto") -> Mixer:
        """Choose the rule; ``auto`` is the graph's own, else metropolis, directed: uniform."""
        links = topology.links(0)
        if weights in (None, "auto"):
            if links.weights is not None:
                return Mixer(topology)
            weights = "uniform" if links.directed else "metropolis"
        rule = build("weights", weights)
        if links.directed and rule.plugin.traits.get("undirected"):
            raise ConfigError(
                f"weights {rule.name!r} need an undirected graph, but topology "
                f"{topology.rule.name!r} is directed; use weights: uniform."
            )
        return Mixer(topology, rule)

    @property
    def weights_name(self) -> str:
        """The rule's name, ``prescribed`` when the graph brings its own weights."""
        return self.rule.name if self.rule else "prescribed"

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether every round keeps the mean of the nodes, at any intensity."""
        topology = self.topology
        if topology.activation == "degree":
            return False
        if topology.activation == "link":
            return bool(self.rule and self.rule.plugin.traits.get("doubly_stochastic"))
        traits = topology.rule.plugin.traits
        if topology.time_varying and "period" not in traits:  # no finite check can tell
            return bool(traits.get("doubly_stochastic"))
        return all(self.mixing(r).doubly_stochastic for r in range(topology.period))

    def speaks(self, slot: int, intensity: float) -> bool:
        """Whether a gossip action at this slot sends anything (tossed only for whole rounds)."""
        if self.topology.activation != "round" or intensity >= 1.0:
            return True
        return bool(rng.uniform(self.topology.seed, "round", slot)[0] < intensity)

    def mixing(
        self, round: int, intensity: float = 1.0, absent: frozenset[int] = frozenset()
    ) -> Mixing:
        """Return the weights of one round; links of ``absent`` nodes are off."""
        links = self.active_links(round, intensity)
        if absent:
            gone = np.array(sorted(absent))
            links = links.kept(~(np.isin(links.senders, gone) | np.isin(links.receivers, gone)))
        if links.weights is not None and self.rule is None:
            weights = links.weights
        else:
            assert self.rule is not None
            weights = self.rule(links.receivers, links.senders, self.topology.nodes)
        return self._checked(assemble(links, weights, self.topology.nodes))

    def _checked(self, mixing: Mixing) -> Mixing:
        if mixing.weights.min(initial=0.0) < -_TOLERANCE:
            raise ConfigError(
                f"weights {self.weights_name!r} on topology {self.topology.rule.name!r}: a row "
                "gives away more than 1; scale the weights of each node's incoming links "
                "to at most 1."
            )
        return mixing

    def active_links(self, round: int, intensity: float) -> Links:
        """Return the links that are on in this round."""
        topology = self.topology
        if topology.activation != "link" or intensity >= 1.0:
            return topology.links(round, intensity)
        links = topology.links(round)
        low = np.minimum(links.senders, links.receivers)
        high = np.maximum(links.senders, links.receivers)
        chance = rng.uniform(topology.seed, f"links/{topology.epoch}", round, low, high)
        return links.kept(chance < intensity)

    def expected_messages(self, intensity: float) -> float:
        """Return the expected number of directed messages of one gossip action."""
        expected = self.topology.rule.plugin.traits.get("expected_links")
        if expected:
            return float(expected(self.topology.nodes, intensity, self.topology.rule.settings))
        return intensity * self.full_messages

    @cached_property
    def full_messages(self) -> float:
        """Directed messages of a round at full intensity, averaged over one period."""
        period = self.topology.period
        return sum(len(self.topology.links(r)) for r in range(period)) / period


def spectral_gap(mixer: Mixer) -> float:
    """Return 1 - ||W - J||_2 for a static W, else the effective gap per round of one period.

    For a period of T rounds the effective gap is 1 - ||W_T ... W_1 - J||_2^(1/T); it is 1 when the
    period averages exactly.
    """
    topology = mixer.topology
    product = np.eye(topology.nodes)
    rounds = topology.period if topology.time_varying else 1
    for index in range(rounds):
        product = mixer.mixing(index).dense() @ product
    distance = float(np.linalg.norm(product - 1.0 / topology.nodes, 2))
    return 1.0 if distance < _TOLERANCE else 1.0 - distance ** (1.0 / rounds)
