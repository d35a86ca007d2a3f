"""Checkpoints of several workers: their shards, fetched off the step's path, one manifest last."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from decentral.engines.ray.crew import START_S, Crew
from decentral.errors import RunError
from decentral.run.checkpoint import Draft
from decentral.run.folder import RunFolder, explained

#: Bytes of one chunk where workers do not see the run folder.
CHUNK = 8 << 20

Offer = Mapping[str, Any]


class Saver:
    """Fetches what the workers of one attempt offer, one checkpoint at a time."""

    def __init__(self, folder: RunFolder, crew: Crew, keep: int) -> None:
        """Find out whether every worker reads and writes the run folder itself."""
        self.folder, self.crew, self.keep = folder, crew, keep
        self.shared = _probed(folder.path, crew)
        self.pending: Future[None] | None = None
        self.thread = ThreadPoolExecutor(1, "saver")

    def checkpoint(
        self, offers: Sequence[Offer], live: Sequence[int], epoch: int, counters: dict[str, Any]
    ) -> None:
        """Begin to fetch the shards of all workers, by rank; the one before is finished first."""
        self.finish()

        def fetch() -> None:
            draft = Draft(self.folder, offers[0]["step"], epoch)
            digests = {o["name"]: self.file(o, draft.path / o["name"]) for o in offers}
            draft.commit(live, digests, counters, self.keep)

        self.pending = self.thread.submit(fetch)

    def finish(self) -> None:
        """Wait for the checkpoint on its way; raises what went wrong with it."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    @property
    def ready(self) -> bool:
        """Whether nothing is on its way, or it has arrived."""
        return self.pending is None or self.pending.done()

    def close(self) -> None:
        """Give up what is on its way."""
        self.thread.shutdown(wait=True, cancel_futures=True)

    def file(self, offer: Offer, path: Path) -> str:
        """Fetch one offered file, let the worker forget it, and return its digest."""
        rank, name = offer["rank"], offer["name"]
        with explained(self.folder.path):
            if self.shared:
                digest = self.crew.ask(rank, "keep", name, str(path))
            else:
                digest = self._stream(rank, name, offer["size"], path)
        self.crew.ask(rank, "drop", name)
        return digest

    def _stream(self, rank: int, name: str, size: int, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for start in range(0, size, CHUNK):
                chunk = self.crew.ask(rank, "read", name, start, CHUNK)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != self.crew.ask(rank, "digest", name):
            raise RunError(f"worker {rank} sent {name} damaged; `decentral resume` tries again.")
        return digest.hexdigest()


def _probed(folder: Path, crew: Crew) -> bool:
    """Whether a file of ours is seen by every worker, and theirs by us."""
    token = secrets.token_hex(8)
    mine = folder / f".probe-{token}"
    with explained(folder):
        mine.write_text(token)
    ranks = range(len(crew.actors))
    asked = [(str(folder.resolve()), token, rank) for rank in ranks]
    theirs = [folder / f".probe-{token}-{rank}" for rank in ranks]
    try:
        seen = crew.ask_each("probe", asked, START_S)
        return all(seen) and all(path.exists() for path in theirs)
    finally:
        for path in (mine, *theirs):
            path.unlink(missing_ok=True)
