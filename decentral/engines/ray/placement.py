"""Where workers are placed: hosts with room, but for those that were lost."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

from decentral.engines.contact import Place, reached
from decentral.engines.ray.cluster import Host
from decentral.errors import ConfigError


def share_of_cores(host: Host, hosts: Sequence[Host]) -> float:
    """Return a worker's share of its host: whole cores, or a part of one where they
    are few.
    """
    share = host.cpus / hosts.count(host)
    # Rounded down, to the four digits that Ray counts in, so that all of them fit.
    return float(int(share)) if share >= 1 else int(share * 1e4) / 1e4


def place_workers(
    hosts: list[Host], workers: int, placement: str, blocked: Container[str], gpus: int
) -> list[Host]:
    """Return the host of every worker: ``pack`` fills one after the other,
    ``spread`` takes turns.

    Neighbouring workers share a host where they can. Hosts that were lost before
    are used only when there is no other. Raises ConfigError when there are fewer
    GPUs than needed.

    Args:
        hosts: The machines of the cluster.
        workers: How many to place.
        placement: ``pack`` or ``spread``.
        blocked: Ids of hosts that were lost before.
        gpus: How many every worker takes.
    """
    # A host that was lost is better than none.
    usable = [h for h in hosts if h.id not in blocked] or hosts
    if not usable:
        raise ConfigError(
            "no host of the Ray cluster offers CPUs; start one by `ray start`."
        )
    # Without GPUs more workers than cores are allowed; they share them.
    room = [int(h.gpus) // gpus if gpus else max(1, int(h.cpus)) for h in usable]
    if gpus and sum(room) < workers:
        raise ConfigError(
            f"{workers} workers need {workers * gpus} GPUs, the cluster has "
            f"{sum(int(h.gpus) for h in usable)}; lower engine.workers, or use device cpu."
        )
    counts = [0] * len(usable)
    for i in islice(_turns(room, placement, limited=bool(gpus)), workers):
        counts[i] += 1
    return [
        host for host, count in zip(usable, counts, strict=True) for _ in range(count)
    ]


def _turns(room: list[int], placement: str, limited: bool) -> Iterator[int]:
    """Yield hosts to place the next worker on, by index; full ones only where CPUs
    are shared.
    """
    packed = [i for i, places in enumerate(room) for _ in range(places)]
    rounds = range(max(room))
    spread = [i for turn in rounds for i, places in enumerate(room) if places > turn]
    once = spread if placement == "spread" else packed
    yield from once if limited else cycle(once)


# --- hosts that were lost ---------------------------------------------------------


class HostBlocklist:
    """Hosts that no worker is placed on while there are others, by the id that Ray
    gave them.
    """

    def __init__(self) -> None:
        """Block none."""
        self._asked: dict[str, Any] = {}
        self._apart: dict[str, Sequence[Place]] = {}

    def __contains__(self, host: object) -> bool:
        """Whether a host is blocked."""
        return host in self._asked

    def __len__(self) -> int:
        """Return how many are blocked."""
        return len(self._asked)

    def add(self, host: str, apart: Sequence[Place] = ()) -> None:
        """Block a host until it answers, and reaches what it was apart from; what it
        was asked before counts no more.
        """
        # The answer to an old question would clear a host that was lost since.
        self._asked[host], self._apart[host] = None, apart

    def unblock(self, there: Iterable[Host]) -> set[str]:
        """Return the hosts that answer again, no longer blocked, and ask the
        others; never waits.

        A network that was cut for less than Ray notices brings back the host it
        took away.
        """
        here = {host.id for host in there} & self._asked.keys()
        found = {host for host in here if _answers(self._asked[host])}
        for host in found:
            del self._asked[host]
        for host in here - found:
            # One question at a time: they wait in Ray for a host that may never
            # answer.
            if _is_over(self._asked[host]):
                self._asked[host] = _ask(host, self._apart[host])
        return found


def _ask(host: str, apart: Sequence[Place]) -> Any:
    """Ask a host for a sign of life, and whether it reaches what it was apart from,
    once a core is free of what was lost there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(host, soft=False)
    made: Any = ray.remote(_is_back)
    options = {"num_cpus": 1, "max_retries": 0, "scheduling_strategy": strategy}
    return made.options(**options).remote(apart)


def _is_back(apart: Sequence[Place]) -> bool:
    return all(reached(apart))


def _is_over(asked: Any) -> bool:
    """Whether there is no question under way, or it was answered."""
    import ray

    return asked is None or bool(ray.wait([asked], timeout=0)[0])


def _answers(asked: Any) -> bool:
    import ray
    from ray.exceptions import RayError

    if asked is None or not _is_over(asked):
        return False
    try:
        return ray.get(asked)
    except RayError:
        return False
