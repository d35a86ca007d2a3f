"""Ranks of a launcher that are threads: the engine of torchrun in one process, without a launcher.

Jobs, reports and answers are lines of JSON, as between processes, rows travel through Gloo, and
checkpoints are written in parts. Only who starts the ranks, and how they meet, is left out.
"""

from __future__ import annotations

import os
import socket
import threading
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from decentral.config import Config
from decentral.engines import torchrun
from decentral.engines.ranks import Meeting, Ranks
from decentral.run.checkpoint import newest_checkpoint
from decentral.run.folder import RunFolder


class Failed(Exception):
    """Rank 0 has told the others that the run has failed."""


def _leave() -> None:
    raise Failed


def ranks_of_threads(rank: int, world: int) -> Ranks:
    return Ranks(
        "torchrun", rank, world, True, ("127.0.0.1", 0), False, "threads", 0, rank
    )


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        return server.accept()[0], theirs


def _get(made: Any, instance: Any, owner: Any = None) -> Any:
    """Cache a property without the lock that Python 3.11 holds for all instances: what a
    rank computes under it may wait for another rank, which wants the same.
    """
    if instance is None:
        return made
    if made.attrname not in instance.__dict__:
        instance.__dict__[made.attrname] = made.func(instance)
    return instance.__dict__[made.attrname]


def train_on_ranks(config: Config, folder: Path, world: int = 2) -> dict[int, Any]:
    """Train a run on ranks that are threads; return the last row of every node."""
    pairs = [connected() for _ in range(world - 1)]
    meetings: list[Any] = [
        SimpleNamespace(
            ranks=ranks_of_threads(rank, world), folder=None, is_alive=lambda: True,
            gather=lambda: [ours for ours, _ in pairs], connect=lambda found=pair: found,
        )
        for rank, pair in enumerate([None, *(theirs for _, theirs in pairs)])
    ]  # fmt: skip
    ended: list[Path | BaseException] = []

    def take_part(meeting: Any) -> None:
        try:
            ended.append(torchrun.take_part(config, meeting))
        except Failed as error:
            ended.append(error)

    others = [
        threading.Thread(target=take_part, args=[meeting], daemon=True)
        for meeting in meetings[1:]
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchrun, "_leave", _leave)
        patch.setattr(cached_property, "__get__", _get)
        patch.setattr(Meeting, "open", meetings[0])
        try:
            run = torchrun.TorchrunRun(config)
            run.stopping = threading.Event()  # signals are the test's own
            run.say = lambda text: None
            for thread in others:
                thread.start()
            run.begin(RunFolder.create(str(folder)))
            run.run(lambda record: None)
        finally:
            for thread in others:
                if thread.ident is not None:
                    thread.join(30)
            for pair in pairs:
                for end in pair:
                    os.close(end.detach())  # the file that reads it keeps it open
    assert ended == [folder.resolve()] * (world - 1)
    saved = newest_checkpoint(folder)
    assert len(list(saved.path.glob("nodes-*.safetensors"))) == world
    return {node: state["row"] for node, state in saved.load(saved.live).nodes.items()}
