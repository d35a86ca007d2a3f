"""Which nodes are healthy: noticed by their worker, agreed on before rows meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from decentral.errors import RunError
from decentral.exchange.base import Exchange
from decentral.topology.labels import NodeId

#: Tells the engine about something that happened: (event, details).
Announce = Callable[[str, dict[str, Any]], None]


class Health:
    """The quarantine of nodes whose numbers are not finite.

    A worker sees its own rows only. It keeps a suspected node to itself at once,
    and all workers agree on who is ``quarantined`` (ids) whenever they communicate,
    so that they draw the same mixing.
    """

    def __init__(
        self,
        exchange: Exchange,
        hosted: Sequence[NodeId],
        live: Sequence[NodeId],
        stop: bool,
        announce: Announce,
        users: str = "",
    ) -> None:
        """Begin with all nodes healthy.

        Args:
            exchange: What agrees with the other workers.
            hosted: The nodes of this worker.
            live: All nodes.
            stop: Whether the first node to fail ends the run.
            announce: What tells the engine.
            users: The parts of the run that are the user's own, for messages.
        """
        self.exchange, self.hosted, self.live = exchange, hosted, live
        self.stop, self.announce, self.users = stop, announce, users
        self.quarantined: frozenset[NodeId] = frozenset()
        self.suspected: dict[NodeId, int] = {}  # node: the step at which it was noticed

    @property
    def healthy(self) -> list[NodeId]:
        """The ids of all nodes that take part, as far as everybody knows."""
        return [node for node in self.live if node not in self.quarantined]

    def is_healthy(self, node: NodeId) -> bool:
        """Whether a hosted node takes part, as far as its worker knows."""
        return node not in self.quarantined and node not in self.suspected

    def update(self, rows: Tensor, step: int) -> bool:
        """Look at the hosted rows [n, P]; return whether other nodes take part from
        now on.

        All workers ask at the same time, since they agree.
        """
        finite = finite_rows(rows)
        found = not bool(finite.all()) and self.notice(finite, step)
        # ``agree`` first: all workers must come to it, whoever found something.
        return self.agree() or found

    def notice(self, finite: Tensor, step: int) -> bool:
        """Suspect the nodes of hosted rows [n] that are not all ``finite``; return
        whether there are new ones.
        """
        nonfinite = [self.hosted[int(i)] for i in torch.nonzero(~finite).flatten()]
        new = [node for node in nonfinite if self.is_healthy(node)]
        if new and self.stop:
            own = f" Of your own in this run: {self.users}." if self.users else ""
            raise RunError(
                f"node {min(new)} became NaN or infinite at step {step}; lower the learning rate, "
                f"set clip, or go on without such nodes by on_nonfinite=quarantine.{own}"
            )
        self.suspected |= dict.fromkeys(new, step)
        # One process knows all there is to know. A worker waits for the next
        # exchange: the others are not here, and ``agree`` needs all of them.
        return bool(new) and (len(self.hosted) < len(self.live) or self.agree())

    def agree(self) -> bool:
        """Let all workers know all suspected nodes; return whether there were any."""
        # The first such node has ended the run, so that a plain run pays for no
        # gather.
        if self.stop:
            return False
        # 0 says nothing was noticed: steps are counted from 1 here.
        noticed = torch.tensor([self.suspected.get(node, 0) for node in self.hosted])
        steps = self.exchange.gather(noticed).tolist()
        nonfinite = {
            node: step for node, step in zip(self.live, steps, strict=True) if step
        }
        self.suspected = {}
        self.quarantined |= nonfinite.keys()
        for step in sorted(set(nonfinite.values())):
            nodes = sorted(node for node in nonfinite if nonfinite[node] == step)
            self.announce("nonfinite", {"step": step, "nodes": nodes})
        if not self.healthy:
            raise RunError(
                f"every node became NaN or infinite by step {max(nonfinite.values())}."
            )
        return bool(nonfinite)


def finite_rows(block: Tensor) -> Tensor:
    """Return which rows [n] hold finite numbers only.

    A sum of finite terms is finite unless it overflows, and any other is not, so
    that looking at every number is hardly ever needed; it takes forty times longer.
    """
    finite = torch.isfinite(block.sum(1))
    return finite if bool(finite.all()) else torch.isfinite(block).all(1)
