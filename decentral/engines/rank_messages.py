"""What rank 0 and the other ranks of a launch say to each other: lines of JSON."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from decentral.config import Config
from decentral.engines.ray.actor import Actor
from decentral.engines.worker import Job
from decentral.engines.workers import Report
from decentral.errors import Bug, ConfigError, RunError
from decentral.exchange.base import Rendezvous
from decentral.faults.base import Fault
from decentral.network.planning import Membership
from decentral.run.checkpoint import newest_checkpoint
from decentral.schedules.progress import Past


class Link:
    """One end of a connection between rank 0 and another: lines of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connection."""
        self.connection, self.lock = connection, threading.Lock()
        self.lines = connection.makefile("rb")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one to a rank that is gone is lost with it."""
        line = json.dumps(message, default=_plain).encode() + b"\n"
        with self.lock, suppress(OSError):
            self.connection.sendall(line)

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield what the other end says, until it is gone."""
        with suppress(OSError, ValueError):
            for line in self.lines:
                yield json.loads(line)


def _plain(value: Any) -> Any:
    """Return what JSON cannot write as what it can: errors, paths, numbers of torch."""
    if isinstance(value, BaseException):
        bug, mistake = isinstance(value, Bug), isinstance(value, ConfigError)
        kind = "Bug" if bug else "ConfigError" if mistake else "RunError"
        said = value.said if isinstance(value, Bug) else str(value)
        trace = value.trace if isinstance(value, Bug) else ""
        return {"error": kind, "said": said, "trace": trace}
    if isinstance(value, Path):
        return str(value)
    return value.item()


def error_of(plain: Mapping[str, str]) -> Exception:
    """Return the error that another rank has written."""
    if plain["error"] == "Bug":
        return Bug(plain["said"], None, None, plain["trace"])
    return (ConfigError if plain["error"] == "ConfigError" else RunError)(plain["said"])


class Member(Actor):
    """A rank's worker as rank 0 asks it: as an actor of Ray, without Ray."""

    def __init__(self) -> None:
        """Answer; whoever asks sees to it that nobody is left alone."""
        self.worker = None

    def handshake(self) -> dict[str, Any]:
        """Return what this process runs; rank 0 knows where it is."""
        return {"versions": {name: version(name) for name in ("decentral", "torch")}}

    def meet(self, address: str) -> None:
        """Learn the address at which the others reach this rank."""
        self.address = address

    def poll(self, wait_s: float) -> tuple[int, list[Report]]:
        """Return the step that is done and what has happened since, at most
        ``wait_s`` later.
        """
        if self.worker is None:
            time.sleep(wait_s)
            return -1, []
        return self.worker.reports(wait_s)

    def start(self, job: Job) -> None:
        """Train in a thread of its own."""
        self.thread = threading.Thread(target=self.begin, args=[job], daemon=True)
        self.thread.start()


def write_job(job: Job, folder: Path) -> dict[str, Any]:
    """Return a job as the other ranks read it: they have the configuration, and all
    files, themselves.
    """
    config = job.config
    settings = {key: value for key, value in config if _is_scalar(value)}
    return {
        "folder": str(folder.resolve()),
        "settings": settings | {"compute": config.compute},
        "past": config.past and asdict(config.past),
        "live": job.members.live,
        "epoch": job.members.epoch,
        "blocks": [[block.start, block.stop] for block in job.blocks],
        "rendezvous": asdict(job.rendezvous),
        "step": job.checkpoint and job.checkpoint.step,
        "faults": [asdict(fault) for fault in job.faults],
    }


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def read_job(plain: dict[str, Any], config: Config) -> Job:
    """Return a job that rank 0 has written."""
    decided, past = dict(plain["settings"]), plain["past"]
    here = {key: v for key, v in decided.items() if key in Config.model_fields}
    here["engine"] = config.engine
    config = config.model_copy(update=here)
    config = config.after(Past(**past) if past else None)
    blocks = tuple(range(*ends) for ends in plain["blocks"])
    meeting: dict[str, Any] = dict(plain["rendezvous"])
    meeting["store"] = tuple(meeting["store"])
    rendezvous = Rendezvous(**meeting)
    members, checkpoint = Membership(tuple(plain["live"]), plain["epoch"]), None
    if plain["step"] is not None:
        saved = newest_checkpoint(Path(plain["folder"]))
        if saved.step != plain["step"]:
            raise RunError(
                f"rank {rendezvous.rank} finds the checkpoint of step {saved.step:,} in "
                f"{plain['folder']}, and rank 0 that of step {plain['step']:,}; keep the run "
                "(--out) where all hosts see the same files."
            )
        hosted = {members.live[place] for place in blocks[rendezvous.rank]}
        checkpoint = saved.load(hosted)
    faults = tuple(Fault(**one) for one in plain["faults"])
    return Job(config, {}, members, blocks, rendezvous, checkpoint, faults)
