"""A run on Ray: the driver starts the workers, watches, records, and starts again
what is lost.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from decentral.config import Config
from decentral.engines.attempt import (
    Attempt,
    Rejoin,
    Start,
    find_apart,
    recorded_losses,
)
from decentral.engines.base import START, EngineRun, Watch, close_on_error, stop_signals
from decentral.engines.contact import WorkersLost
from decentral.engines.ray.cluster import connect
from decentral.engines.ray.placement import HostBlocklist
from decentral.engines.ray.worker_group import WorkerGroup, start_workers
from decentral.engines.workers import blocks_of, label, reassign, sources
from decentral.errors import ConfigError, RunError, shell_word
from decentral.faults.base import due_faults, remaining, worker_faults
from decentral.limits import check_threads
from decentral.loop.cost import thread_count
from decentral.loop.pipeline import gradient_of
from decentral.network.planning import Membership
from decentral.records import Records
from decentral.run.checkpoint import (
    Saved,
    has_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from decentral.sampling import Sampler
from decentral.topology.labels import NodeId, all_ids


class RayRun(EngineRun):
    """A run whose workers are Ray actors; this process coordinates."""

    several = True

    def __init__(self, config: Config) -> None:
        """Prepare a run and join or start the cluster."""
        super().__init__(config)
        self.faults = worker_faults(config.faults)
        self.members = Membership.all_nodes(config.nodes)
        self.saved: Saved | None = None
        self.group: WorkerGroup | None = None
        self.failures = 0
        self.blocklist = HostBlocklist()
        #: Hosts that go on, and have room for nodes whose process died there.
        self.vacant: set[str] = set()
        #: Where nodes returned last: a process that dies again before the next
        #: checkpoint, perhaps for want of memory, would do so without end.
        self.returned_at = -1
        # For its ConfigError, before a cluster is started for nothing.
        worker_count(config, 1)
        self.cluster = connect(config)
        with close_on_error(self):
            self._resolve()

    def _resolve(self) -> None:
        """Decide everything that was left open."""
        config, hosts = self.setup.config, self.cluster.hosts()
        # the cores of its hosts count, not those of this one
        if config.engine.address is not None:
            check_threads(
                config.threads, max((host.cpus for host in hosts), default=None)
            )
        gpus = (
            int(sum(host.gpus for host in hosts))
            if self.setup.device.type == "cuda"
            else 0
        )
        self.wanted = self.workers = worker_count(config, gpus or len(hosts))
        # The choice has to suit every worker, and the smallest block gains least
        # from computing rows together.
        smallest = config.nodes // self.workers
        sampler = Sampler(
            self.setup.train, self.setup.plan, all_ids(smallest), config.seed
        )
        gradient, self.compute_reason = gradient_of(self.setup, smallest, sampler)
        self.replicas = gradient.kind
        cores = int(sum(host.cpus for host in hosts) / self.workers)
        self.threads = thread_count(self.setup, self.workers, max(1, cores))
        self.known = {host.id for host in hosts}

    def close(self) -> None:
        """Leave the cluster, and take an own one down."""
        self.cluster.close()

    @property
    def place(self) -> str:
        """Where the workers run, in words."""
        hosts = len(self.known)
        machines = "1 host" if hosts == 1 else f"{hosts} hosts"
        return f"{self.workers} on Ray, {machines}; dashboard {self.cluster.dashboard}"

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration."""
        asked = self.setup.config.engine.model_dump()
        return super().settings | {
            "engine": asked | {"name": "ray", "workers": self.wanted}
        }

    @property
    def step(self) -> int:
        """The step that every worker has done."""
        if self.group:
            return self.group.step
        return self.saved.step if self.saved else 0

    def restore(self, saved: Saved) -> None:
        """Stand where a checkpoint was taken, with the nodes that were live then."""
        self.members = Membership(saved.live, saved.counters["epoch"])
        # Nodes may have been lost since the run began: no worker without a node.
        self.workers = min(self.workers, len(saved.live))
        self.saved = saved

    # --- the run ------------------------------------------------------------------

    def train(self, watch: Watch) -> dict[str, Any]:
        """Train to the end, through failures, and return the summary."""
        try:
            self.monitor = Monitor(self.folder.path.name, self.records)
            losses = recorded_losses(self.folder, trains=False)
            self.faults = due_faults(self.setup.config.faults, losses)
            with stop_signals(self.stopping) as stopping:
                while not self._attempt(watch, stopping):
                    self._rewind()
            return self.conclude()
        finally:
            self.close()

    def _attempt(self, watch: Watch, stopping: threading.Event) -> bool:
        """Start workers and follow them; return whether they reached the end."""
        blocks = blocks_of(len(self.members.live), self.workers)
        nodes = [[self.members.live[place] for place in block] for block in blocks]
        labels = [label(rank, hosted) for rank, hosted in enumerate(nodes)]
        name, config = self.folder.path.name, self.setup.config
        group = start_workers(
            self.cluster, config, labels, name, self.blocklist, self.step
        )
        self.group = group
        start = Start(self.members, blocks, self.saved, tuple(self.faults), self.failures)
        try:
            Attempt(
                self, group, start, self.monitor, watch, stopping, self.could_rejoin
            ).follow()
        except WorkersLost as lost:
            # The first news of a loss often names the wrong one: peers of a lost
            # worker fail, too.
            lost = group.wait_for_losses(lost)
            if not lost.ranks:
                lost = find_apart(
                    group, [host.address for host in group.hosts], start, config, lost
                )
            self._handle_loss(lost, [node for rank in lost.ranks for node in nodes[rank]])
        except Rejoin:
            self._rejoin()
        else:
            return True
        finally:
            group.shut_down()
        return False

    def _rewind(self) -> None:
        """Go back to the last checkpoint, in the records too."""
        self.cut(self.saved.counters["offsets"] if self.saved else START)
        self.resumed = self.saved is not None
        self.group = None

    # --- failures -----------------------------------------------------------------

    def _handle_loss(self, lost: WorkersLost, nodes: Sequence[NodeId]) -> None:
        """Record a failure and prepare the next attempt; raises RunError after the
        last.
        """
        config, group = self.setup.config, self.group
        assert group is not None
        self.failures += 1
        self.monitor.failures(self.failures)
        at = [host.id for host in group.hosts]
        struck, stay = (
            {at[r] for r in range(len(at)) if (r in lost.ranks) == out}
            for out in (True, False)
        )
        # A process that died says nothing about its host, nor does a way that is cut
        # between processes of one host.
        goes_on = struck if lost.process else struck & stay if lost.apart else set[str]()
        for rank in lost.ranks:
            if at[rank] not in goes_on:
                others = {at[other] for other in lost.apart.get(rank, ())}
                self.blocklist.add(at[rank], self.cluster.places(others))
        self.faults = remaining(self.faults, lost.ranks)
        self._record_failure(lost, nodes)
        self._check_policy(lost)
        self.saved = self._newest()
        if (self.saved.step if self.saved else 0) > self.returned_at:
            self.vacant |= goes_on
        if config.engine.on_failure == "continue" and nodes:
            self.workers = max(1, self.workers - len(lost.ranks))
            self._reconfigure(self.members.without(nodes))

    def _record_failure(self, lost: WorkersLost, nodes: Sequence[NodeId]) -> None:
        assert self.group is not None
        hosts = sorted({self.group.hosts[rank].address for rank in lost.ranks})
        details = {
            "step": lost.step,
            "workers": lost.ranks,
            "nodes": list(nodes),
            "hosts": hosts,
        }
        policy = self.setup.config.engine.on_failure
        self.announce("failure", details | {"cause": lost.cause, "then": policy})

    def _check_policy(self, lost: WorkersLost) -> None:
        engine = self.setup.config.engine
        what = f"{lost.who} lost at step {lost.step} ({lost.cause})"
        if engine.on_failure != "stop" and self.failures <= engine.max_failures:
            self.say(f"{what}; engine.on_failure: {engine.on_failure}")
            return
        limit = "on_failure: stop" if engine.on_failure == "stop" else (
            f"max_failures: {engine.max_failures}"
        )  # fmt: skip
        raise RunError(
            f"{what}; the run ends by engine.{limit}. "
            f"`decentral resume {shell_word(self.folder.path)}` goes on from the last checkpoint."
        )

    def _newest(self) -> Saved | None:
        path = self.folder.path
        return newest_checkpoint(path) if has_checkpoint(path) else None

    # --- membership ---------------------------------------------------------------

    def could_rejoin(self) -> bool:
        """Whether nodes are missing and there is room: on a host that was not there,
        that answers again, or where only a process died.
        """
        missing = len(self.members.live) < self.setup.config.nodes
        if not (missing or self.blocklist):
            return False
        hosts = self.cluster.hosts()
        self.known -= self.blocklist.unblock(hosts)
        here = {host.id for host in hosts}
        return missing and bool(here - self.known or here & self.vacant)

    def _rejoin(self) -> None:
        """Let all missing nodes return at the checkpoint that was just taken."""
        self.saved = self._newest()
        self.returned_at = self.saved.step if self.saved else 0
        self.vacant.clear()
        self.known = {host.id for host in self.cluster.hosts()}
        self.workers = self.wanted
        missing = set(all_ids(self.setup.config.nodes)) - set(self.members.live)
        self.say(f"{len(missing)} nodes return at step {self.step}")
        self._reconfigure(self.members.with_returned(missing))

    def _reconfigure(self, members: Membership) -> None:
        """Begin a new epoch at the last checkpoint, which is written anew for its
        members.
        """
        if not members.live:
            raise RunError("every node was lost.")
        setup, old, saved = self.setup, self.members, self.saved
        if saved is not None:
            joined = sources(setup.planner, setup.weights, members, old)
            checkpoint = reassign(saved.load(saved.live), members, joined)
            save_checkpoint(self.folder, checkpoint, setup.config.keep_checkpoints)
            # Read back from the disk, as a restart would: what was written is what counts.
            self.saved = newest_checkpoint(self.folder.path)
        self.members = members
        self.announce(
            "membership",
            {
                "step": saved.step if saved else 0,
                "epoch": members.epoch,
                "live": list(members.live),
                "lost": sorted(set(old.live) - set(members.live)),
                "joined": sorted(set(members.live) - set(old.live)),
            },
        )


def worker_count(config: Config, offered: int) -> int:
    """Return the number of workers: as asked, or one per GPU or host; at most one
    per node.
    """
    workers = config.engine.workers
    if workers == "auto":
        return max(1, min(offered, config.nodes))
    if workers > config.nodes:
        raise ConfigError(
            f"engine.workers {workers}: every worker hosts at least one node, and there are "
            f"{config.nodes}; lower engine.workers, or raise nodes."
        )
    return workers


# --- what Ray's metrics are told --------------------------------------------------

# Prometheus reads them, and the dashboards of launch/ show them: a gauge that is named
# anew here is lost there.

#: Prometheus prefixes ``ray_``.
PREFIX = "decentral_"
#: Gauges that are no key of a record.
FAILURES = "decentral_failures"
PARTS_S = "decentral_step_seconds"
#: The parts of a step's time, of every worker.
PARTS = ("compute", "wait", "mix")


def gauge_name(key: str) -> str:
    """Return the gauge of a key: Prometheus takes letters, digits and underscores.

    >>> gauge_name("accuracy/merged")
    'decentral_accuracy_merged'
    """
    return PREFIX + re.sub(r"[^A-Za-z0-9_]", "_", key)


class Monitor:
    """Gauges of one run: one for every number of its records."""

    def __init__(self, run: str, records: Records) -> None:
        """Register the gauges that every run has in this process."""
        self.run, self.records = run, records
        self.gauges: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._register(FAILURES, "Failures so far")
        text = f"Mean seconds of a step by worker and part: {', '.join(PARTS)}"
        self._register(PARTS_S, text, "worker", "part")
        self.failures(0)

    def _register(self, name: str, text: str, *tags: str) -> None:
        from ray.util.metrics import Gauge

        self.gauges[name] = Gauge(name, description=text, tag_keys=("run", *tags))
        self.gauges[name].set_default_tags({"run": self.run})

    def record(
        self, record: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
    ) -> None:
        """Show a record of metrics, and every worker's own times."""
        for key, value in record.items():
            if not isinstance(value, int | float):
                continue
            self._set(self._gauge(key), value)
        for worker, own in enumerate(parts):
            for part in PARTS:
                seconds = own[f"time/{part}_s"]
                self._set(PARTS_S, seconds, worker=str(worker), part=part)

    def _gauge(self, key: str) -> str:
        """Return the gauge of a key, registered at its first number; no two keys
        share one.
        """
        if key not in self.names:
            name = gauge_name(key)
            while name in self.gauges:
                name += "_"
            self.names[key] = name
            self._register(
                name, self.records.of(key).text or f"{key}, a metric of the run"
            )
        return self.names[key]

    def failures(self, count: int) -> None:
        """Show how many failures there were."""
        self._set(FAILURES, count)
        times = [key for key in self.shown if key[0] == PARTS_S]
        for key in times:  # of workers that may be no more
            del self.shown[key]

    def repeat(self) -> None:
        """Show everything again: Ray drops a gauge that is not set for some 30 s."""
        for (name, tags), value in self.shown.items():
            self.gauges[name].set(value, dict(tags))

    def _set(self, name: str, value: float, **tags: str) -> None:
        self.shown[name, tuple(tags.items())] = value
        self.gauges[name].set(value, tags)
