"""A cluster in shares, so that several runs of one driver train on it side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from decentral.config import Config
from decentral.engines.ray.cluster import Cluster, Host, connect
from decentral.engines.ray.run import RayRun


@dataclass(frozen=True)
class ResourceShare(Cluster):
    """The part of a cluster that one run may use: some cores and GPUs of some
    hosts.
    """

    parts: tuple[Host, ...] = ()

    def hosts(self) -> list[Host]:
        """Return the part of every host that is still alive."""
        alive = {host.id for host in super().hosts()}
        return [host for host in self.parts if host.id in alive]


class Allocator:
    """Gives every run what it would use alone: a host's cores by threads, and a
    GPU, per worker.
    """

    def __init__(self, config: Config) -> None:
        """Join or start the cluster, for all runs."""
        self.cluster = connect(config)
        self.allocated: dict[RayRun, tuple[Host, ...]] = {}

    def close(self) -> None:
        """Leave the cluster, and take an own one down."""
        self.cluster.close()

    def allocate(self, run: RayRun) -> bool:
        """Give a run its share, if there is room; alone it may have everything."""
        hosts = self.cluster.hosts()
        gpus = int(run.setup.device.type == "cuda")
        free = [self._free_part(host) for host in hosts]
        placement = run.setup.config.engine.placement
        share = divide(free, run.workers, float(run.threads), gpus, placement)
        # Alone, a run that is too large gets all there is, or it would wait for
        # ever.
        if share is None and self.allocated:
            return False
        parts = self.allocated[run] = share or tuple(hosts)
        # Not its own: a run that ends must not take the cluster from the others.
        run.cluster = ResourceShare(self.cluster.dashboard, own=False, parts=parts)
        return True

    def release(self, run: RayRun) -> None:
        """Let others have what a run was given, if it was."""
        self.allocated.pop(run, None)

    def _free_part(self, host: Host) -> Host:
        taken = [
            part
            for share in self.allocated.values()
            for part in share
            if part.id == host.id
        ]
        cpus = host.cpus - sum(part.cpus for part in taken)
        return replace(host, cpus=cpus, gpus=host.gpus - sum(part.gpus for part in taken))


def divide(
    free: Sequence[Host], workers: int, cores: float, gpus: int, placement: str
) -> tuple[Host, ...] | None:
    """Return what ``workers`` of so many cores and GPUs each take of the hosts;
    None: too much.

    ``pack`` takes the first host with room, ``spread`` the one with most.

    Args:
        free: Hosts with what is free on them.
        workers: Number of workers.
        cores: Cores of each.
        gpus: GPUs of each.
        placement: ``pack`` or ``spread``.

    >>> divide([Host("a", "10.0.0.1", 4, 0)], 3, 1, 0, "pack")
    (Host(id='a', address='10.0.0.1', cpus=3, gpus=0),)
    """
    counts = dict.fromkeys(range(len(free)), 0)
    for _ in range(workers):
        room = {
            place: host.cpus - cores * counts[place]
            for place, host in enumerate(free)
            if host.cpus >= cores * (counts[place] + 1)
            and host.gpus >= gpus * (counts[place] + 1)
        }
        if not room:
            return None
        # Spread goes where most is left, pack to the first that has room; both depend on
        # the order of hosts alone, so that a restart places workers alike.
        first = (
            max(room, key=lambda place: room[place])
            if placement == "spread"
            else min(room)
        )
        counts[first] += 1
    return tuple(
        replace(free[place], cpus=cores * count, gpus=gpus * count)
        for place, count in counts.items()
        if count
    )
