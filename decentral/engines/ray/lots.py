"""A cluster lent out in lots, so that several runs of one driver train on it side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from decentral.config import Config
from decentral.engines.ray.cluster import Cluster, Host, connect
from decentral.engines.ray.run import RayRun


@dataclass(frozen=True)
class Lot(Cluster):
    """The part of a cluster that one run may use: some cores and GPUs of some hosts."""

    lent: tuple[Host, ...]

    def hosts(self) -> list[Host]:
        """Return the lent part of every host that is still alive."""
        alive = {host.id for host in super().hosts()}
        return [host for host in self.lent if host.id in alive]


class Lots:
    """Lends every run what it would use alone: a host's cores by threads, and a GPU, per worker."""

    def __init__(self, config: Config) -> None:
        """Join or start the cluster, for all runs."""
        self.cluster = connect(config)
        self.lent: dict[RayRun, tuple[Host, ...]] = {}

    def close(self) -> None:
        """Leave the cluster, and take an own one down."""
        self.cluster.close()

    def lend(self, run: RayRun) -> bool:
        """Give a run its lot, if there is one; alone it may have everything."""
        hosts = self.cluster.hosts()
        gpus = int(run.setup.device.type == "cuda")
        free = [self._left(host) for host in hosts]
        placement = run.setup.config.placement
        lot = divided(free, run.workers, float(run.threads), gpus, placement)
        if lot is None and self.lent:
            return False
        self.lent[run] = lot or tuple(hosts)
        run.cluster = Lot(self.cluster.dashboard, own=False, lent=self.lent[run])
        return True

    def take_back(self, run: RayRun) -> None:
        """Let others have what a run was lent, if it was."""
        self.lent.pop(run, None)

    def _left(self, host: Host) -> Host:
        taken = [lent for lot in self.lent.values() for lent in lot if lent.id == host.id]
        cpus = host.cpus - sum(part.cpus for part in taken)
        return replace(host, cpus=cpus, gpus=host.gpus - sum(part.gpus for part in taken))


def divided(
    free: Sequence[Host], workers: int, cores: float, gpus: int, placement: str
) -> tuple[Host, ...] | None:
    """Return what ``workers`` of so many cores and GPUs each take of the hosts; None: too much.

    ``pack`` takes the first host with room, ``spread`` the one with most.

    >>> divided([Host("a", "10.0.0.1", 4, 0)], 3, 1, 0, "pack")
    (Host(id='a', address='10.0.0.1', cpus=3, gpus=0),)
    """
    counts = dict.fromkeys(range(len(free)), 0)
    for _ in range(workers):
        room = {
            place: host.cpus - cores * counts[place]
            for place, host in enumerate(free)
            if host.cpus >= cores * (counts[place] + 1) and host.gpus >= gpus * (counts[place] + 1)
        }
        if not room:
            return None
        first = max(room, key=lambda place: room[place]) if placement == "spread" else min(room)
        counts[first] += 1
    return tuple(
        replace(free[place], cpus=cores * count, gpus=gpus * count)
        for place, count in counts.items()
        if count
    )
