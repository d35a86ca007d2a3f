"""Hosts that were lost, and whether one of them answers again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from decentral.engines.ray.cluster import Host


class HostBlocklist:
    """Hosts that no worker is placed on while there are others, by the id that Ray gave them."""

    def __init__(self) -> None:
        """Block none."""
        self._asked: dict[str, Any] = {}

    def __contains__(self, host: object) -> bool:
        """Whether a host is blocked."""
        return host in self._asked

    def __len__(self) -> int:
        """Return how many are blocked."""
        return len(self._asked)

    def add(self, host: str) -> None:
        """Block a host; what it was asked before counts no more."""
        self._asked[host] = None

    def unblock(self, there: Iterable[Host]) -> set[str]:
        """Return the hosts that answer again, no longer blocked, and ask the others; never waits.

        A network that was cut for less than Ray notices brings back the host it took away.
        """
        here = {host.id for host in there} & self._asked.keys()
        found = {host for host in here if _answers(self._asked[host])}
        for host in found:
            del self._asked[host]
        for host in here - found:
            self._asked[host] = self._asked[host] or _ask(host)
        return found


def _ask(host: str) -> Any:
    """Ask a host for a sign of life, once a core is free of what was lost there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(host, soft=False)
    made: Any = ray.remote(_here)
    return made.options(num_cpus=1, max_retries=0, scheduling_strategy=strategy).remote()


def _here() -> bool:
    return True


def _answers(asked: Any) -> bool:
    import ray
    from ray.exceptions import RayError

    if asked is None or not ray.wait([asked], timeout=0)[0]:
        return False
    try:
        return ray.get(asked)
    except RayError:
        return False
