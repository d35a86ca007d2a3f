"""Who takes part in a run: nodes can be lost with their worker, and return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from decentral.errors import ConfigError
from decentral.mixing.base import Mixer
from decentral.network.planning import RoundPlanner
from decentral.registry import build
from decentral.topology.base import Topology


@dataclass(frozen=True)
class Membership:
    """The live nodes, ascending ids, and how often they have changed.

    The p-th live node stands at position p of the topology, which is drawn anew in every epoch;
    draws of data stay keyed by ids.
    """

    live: tuple[int, ...]
    epoch: int = 0

    @staticmethod
    def all_nodes(nodes: int) -> Membership:
        """Return the membership every run begins with."""
        return Membership(tuple(range(nodes)))

    def without(self, lost: Iterable[int]) -> Membership:
        """Return the next epoch, the nodes ``lost`` left out."""
        excluded = set(lost)
        return Membership(tuple(n for n in self.live if n not in excluded), self.epoch + 1)

    def joined(self, returning: Iterable[int]) -> Membership:
        """Return the next epoch, with the nodes ``returning``."""
        return Membership(tuple(sorted({*self.live, *returning})), self.epoch + 1)

    def positions(self, nodes: Iterable[int]) -> frozenset[int]:
        """Return where nodes stand; those that are not live stand nowhere."""
        wanted = set(nodes)
        return frozenset(p for p, node in enumerate(self.live) if node in wanted)


def reformed(planner: RoundPlanner, weights: object, members: Membership) -> RoundPlanner:
    """Return the planner of an epoch: the same topology and schedule on the live nodes.

    Args:
        planner: What is sent when, among all nodes.
        weights: The weights as configured.
        members: The nodes of the epoch.
    """
    if members.epoch == 0:
        return planner
    old = planner.mixer.topology
    try:
        topology = Topology(build("topology", old.rule), len(members.live), old.seed, members.epoch)
    except ConfigError as error:
        raise ConfigError(
            f"the {len(members.live)} nodes that are left cannot form the topology again "
            f"({str(error).rstrip('.')}); use engine.on_failure=restart."
        ) from error
    return replace(planner, mixer=Mixer.make(topology, weights), live=members.live)
