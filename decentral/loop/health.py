"""Which nodes are fit to take part: noticed by their worker, agreed on before rows meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from decentral.errors import RunError
from decentral.exchange.base import Exchange

#: Tells the engine about something that happened: (event, details).
Announce = Callable[[str, dict[str, Any]], None]


class Health:
    """The quarantine of nodes whose numbers are not finite.

    A worker sees its own rows only. It keeps a sick node to itself at once, and all workers agree
    on who is ``absent`` (ids) whenever they talk, so that they draw the same mixing.
    """

    def __init__(
        self,
        exchange: Exchange,
        hosted: Sequence[int],
        live: Sequence[int],
        stop: bool,
        announce: Announce,
    ) -> None:
        """Watch the ``hosted`` of the ``live`` nodes; ``stop``: a sick node ends the run."""
        self.exchange, self.hosted, self.live = exchange, hosted, live
        self.stop, self.announce = stop, announce
        self.absent: frozenset[int] = frozenset()
        self.suspects: dict[int, int] = {}  # node: the step at which it was noticed

    @property
    def healthy(self) -> list[int]:
        """The ids of all nodes that take part, as far as everybody knows."""
        return [node for node in self.live if node not in self.absent]

    def fit(self, node: int) -> bool:
        """Whether a hosted node takes part, as far as its worker knows."""
        return node not in self.absent and node not in self.suspects

    def notice(self, finite: Tensor, step: int) -> bool:
        """Look at which hosted rows [n] are finite; return whether there are new sick ones."""
        if bool(finite.all()):
            return False
        sick = [self.hosted[int(i)] for i in torch.nonzero(~finite).flatten()]
        new = [node for node in sick if self.fit(node)]
        if new and self.stop:
            raise RunError(
                f"node {min(new)} became NaN or infinite at step {step}; lower the "
                "learning rate, set clip, or go on without such nodes by on_nonfinite=quarantine."
            )
        self.suspects |= dict.fromkeys(new, step)
        return bool(new) and (len(self.hosted) < len(self.live) or self.agree())

    def agree(self) -> bool:
        """Let all workers know all suspects; return whether there were any."""
        if self.stop:
            return False
        noticed = torch.tensor([self.suspects.get(node, 0) for node in self.hosted])
        steps = self.exchange.gather(noticed).tolist()
        sick = {node: step for node, step in zip(self.live, steps, strict=True) if step}
        self.suspects = {}
        self.absent |= sick.keys()
        for step in sorted(set(sick.values())):
            nodes = sorted(node for node in sick if sick[node] == step)
            self.announce("nonfinite", {"step": step, "nodes": nodes})
        if not self.healthy:
            raise RunError(f"every node became NaN or infinite by step {max(sick.values())}.")
        return bool(sick)


def finite_rows(block: Tensor) -> Tensor:
    """Return which rows [n] hold finite numbers only.

    A sum of finite terms is finite unless it overflows, and any other is not, so that looking at
    every number is hardly ever needed; it takes forty times longer.
    """
    finite = torch.isfinite(block.sum(1))
    return finite if bool(finite.all()) else torch.isfinite(block).all(1)
