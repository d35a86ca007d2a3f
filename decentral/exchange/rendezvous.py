"""Where the workers of one group meet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rendezvous:
    """How a worker finds the others.

    ``address`` is this worker's own, the one to which others connect; ``store`` the host and port
    of `decentral.exchange.process_group.open_store`; ``timeout_s`` the longest wait for others;
    ``prefix`` is new for every group.
    """

    rank: int
    world: int
    store: tuple[str, int]
    address: str
    timeout_s: float
    prefix: str
