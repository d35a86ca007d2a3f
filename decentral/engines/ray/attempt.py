"""One attempt at a run: a crew followed from its first question to the end, or to its loss."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from decentral import userfile
from decentral.engines.base import Watch
from decentral.engines.ray.crew import START_S, Crew, Lost
from decentral.engines.ray.saver import Saver
from decentral.engines.records import Assembly, whole
from decentral.errors import ConfigError, RunError
from decentral.run.checkpoint import Checkpoint, shard_name
from decentral.run.environment import environment

if TYPE_CHECKING:  # two of them load torch
    from decentral.engines.ray.run import RayRun
    from decentral.engines.worker import Job
    from decentral.exchange.process_group import Peers

News = Mapping[str, Any]

#: Seconds between two times that gauges are set, news or not.
REPEAT_S = 5.0
#: Steps that workers may do until a request to hold reaches them, in seconds of training.
HOLD_S = 0.5


class Returned(Exception):
    """There is room again for nodes that were lost."""


class Attempt:
    """What the driver does while a crew works: it takes no part in a step."""

    def __init__(
        self,
        run: RayRun,
        crew: Crew,
        blocks: Sequence[range],
        watch: Watch,
        stopping: threading.Event,
    ) -> None:
        """Follow ``crew``; worker k hosts the positions ``blocks[k]``."""
        self.run, self.crew, self.blocks = run, crew, blocks
        self.watch, self.stopping = watch, stopping
        self.assembly = Assembly(len(crew.actors))
        self.shards: dict[int, dict[int, News]] = {}
        self.merged: News | None = None
        self.begun: set[int] = set()
        self.done: set[int] = set()
        self.hold_at: int | None = None
        self.held: set[int] = set()
        self.repeated_s = time.monotonic()

    def follow(self) -> None:
        """Let the crew train to the end; raises Lost, Returned, or what stopped the run."""
        self._meet()
        self.saver = Saver(self.run.folder, self.crew, self.run.setup.config.keep_checkpoints)
        try:
            while len(self.done) < len(self.crew.actors):
                for news in self.crew.news():
                    getattr(self, f"_on_{news['what']}")(news)
                self._repeat()
                if self.saver.ready:
                    self._saved()
                if self.stopping.is_set():
                    self._hold()
            self._finish()
        finally:
            self.saver.close()

    # --- the beginning ----------------------------------------------------------------------------

    def _meet(self) -> None:
        """Introduce the workers to each other and give them their jobs."""
        crew = self.crew
        hellos = crew.ask_all("hello", timeout_s=START_S)
        check_versions(hellos)
        addresses = [hello["address"] for hello in hellos]
        port = crew.ask(0, "listen", addresses[0])
        self._describe(addresses)
        crew.begin(self._job(peers) for peers in self._peers(addresses, port))

    def _peers(self, addresses: Sequence[str], port: int) -> list[Peers]:
        """Return how every worker finds the others."""
        from decentral.exchange.process_group import Peers

        return [
            Peers(
                rank=rank,
                world=len(addresses),
                store=(addresses[0], port),
                address=address,
                timeout_s=self.crew.config.progress_s,
                prefix=f"epoch-{self.run.members.epoch}/attempt-{self.run.failures}",
            )
            for rank, address in enumerate(addresses)
        ]

    def _job(self, peers: Peers) -> Job:
        """Return what a worker is asked to do, every ``auto`` decided."""
        from decentral.engines.worker import Job

        run = self.run
        decided = {
            "replicas": run.replicas,
            "threads": run.threads,
            "device": run.setup.device.type,
            "compute": run.settings["compute"] or "auto",
        }
        return Job(
            config=run.setup.config.model_copy(update=decided),
            files=userfile.opened(),
            members=run.members,
            blocks=tuple(self.blocks),
            peers=peers,
            checkpoint=self._part(peers.rank),
            faults=tuple(run.faults),
        )

    def _describe(self, addresses: Sequence[str]) -> None:
        found = environment(str(self.run.setup.device), self.run.threads)
        hosts = list(dict.fromkeys(addresses))
        self.run.folder.write_json("env.json", found | {"hosts": hosts, "workers": addresses})

    def _part(self, rank: int) -> Checkpoint | None:
        """Return what a worker needs of the checkpoint that the run goes on from."""
        if self.run.saved is None:
            return None
        return self.run.saved.load({self.run.members.live[place] for place in self.blocks[rank]})

    # --- news -------------------------------------------------------------------------------------

    def _on_row(self, news: News) -> None:
        parts = self.assembly.row(news["rank"], news["row"])
        if parts is not None:
            row = whole(parts)
            self._announce(self.assembly.due(row["step"]))
            self.run.record(row, self.watch)
            self.run.monitor.row(row, parts)

    def _on_event(self, news: News) -> None:
        self.assembly.events.append(news)

    def _announce(self, events: Sequence[News]) -> None:
        for event in events:
            self.run.announce(event["event"], event["details"])

    def _on_offer(self, news: News) -> None:
        if news["name"] != shard_name(news["rank"]):
            self.merged = news
            return
        shards = self.shards.setdefault(news["step"], {})
        shards[news["rank"]] = news
        if len(shards) == len(self.crew.actors):
            offers = [shards[rank] for rank in range(len(shards))]
            del self.shards[news["step"]]
            self._save(offers)

    def _save(self, offers: Sequence[News]) -> None:
        """Fetch the shards of a step that all workers have offered."""
        run, step = self.run, offers[0]["step"]
        self._announce(self.assembly.due(step))
        if self.hold_at == step:
            run.announce("interrupted", {"step": step})
        counters = dict(offers[0]["counters"])
        wire = sum(offer["counters"]["ledger"]["wire_bytes"] for offer in offers)
        counters["ledger"] = {**counters["ledger"], "wire_bytes": wire}
        self.saver.checkpoint(
            offers, run.members.live, run.members.epoch, counters | run.position()
        )
        if self.hold_at == step:
            self.saver.finish()
            raise run.interruption()

    def _saved(self) -> None:
        """Look at a checkpoint that has arrived, and whether lost nodes could return there."""
        fetched = self.saver.pending is not None
        self.saver.finish()
        if fetched and self.run.could_return():
            raise Returned

    def _repeat(self) -> None:
        """Keep the gauges alive between rare evaluations."""
        if time.monotonic() - self.repeated_s > REPEAT_S:
            self.repeated_s = time.monotonic()
            self.run.monitor.repeat()

    def _on_began(self, news: News) -> None:
        self.begun.add(news["rank"])

    def _on_failed(self, news: News) -> None:
        if news["rank"] in self.done:
            return
        if news["kind"] == "lost":
            raise Lost([], news["text"].rstrip("."), self.crew.step)
        raise {"config": ConfigError, "run": RunError}[news["kind"]](news["text"])

    def _on_done(self, news: News) -> None:
        self.done.add(news["rank"])

    # --- the end ----------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Let all workers stop at one step, soon."""
        if self.hold_at is not None:
            return
        if len(self.begun) < len(self.crew.actors):  # what there is to save was saved before
            self.run.announce("interrupted", {"step": self.run.step})
            raise self.run.interruption()
        pace = self.crew.step / max(self.run.elapsed_s, 1e-9)
        step = max(self.crew.steps) + 2 + int(HOLD_S * pace)
        while True:
            stood = max(self.crew.ask_all("hold", step, timeout_s=self.crew.config.progress_s))
            if stood < step:
                break
            step = stood + 2 + int(HOLD_S * pace)
        self.hold_at, self.held = step, set()

    def _on_held(self, news: News) -> None:
        if news["step"] == self.hold_at:
            self.held.add(news["rank"])
        if len(self.held) == len(self.crew.actors):
            self.crew.ask_all("save", timeout_s=self.crew.config.liveness_s)

    def _finish(self) -> None:
        """Take over the merged model and the last checkpoint."""
        self.saver.finish()
        self._announce(self.assembly.due(self.run.setup.config.steps))
        assert self.merged is not None
        temporary = self.run.folder.path / ".merged.safetensors.tmp"
        self.saver.file(self.merged, temporary)
        temporary.replace(self.run.folder.path / "merged.safetensors")


def check_versions(hellos: Sequence[Mapping[str, Any]]) -> None:
    """Refuse workers that would compute something else."""
    for rank, hello in enumerate(hellos):
        for package, theirs in hello["versions"].items():
            ours = version(package)
            if theirs != ours:
                raise ConfigError(
                    f"worker {rank} on {hello['address']} runs {package} {theirs}, this process "
                    f"{ours}; install the same version on every host."
                )
