"""The Ray actor: a thin shell around a worker, which answers while the worker
computes.

Nothing heavy is imported before ``begin``, so that an actor answers from its first
moment on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.engines.contact import Place, open_port, reached

if TYPE_CHECKING:
    from decentral.engines.worker import Job, Worker


class Actor:
    """One worker's process; ``label`` is what the Ray dashboard and the logs show."""

    def __init__(self, label: str, orphaned_s: float, meeting_s: float) -> None:
        """Answer from now on; a process that nobody polls for ``orphaned_s`` ends
        itself.

        Polls begin with the work; until then, while slow machines still load torch,
        it waits ``meeting_s``.
        """
        from decentral.limits import spin_briefly

        spin_briefly()
        self.label, self.orphaned_s = label, orphaned_s
        self.asked_s, self.patience_s = time.monotonic(), meeting_s
        self.worker: Worker | None = None
        threading.Thread(target=self._watch_the_driver, daemon=True).start()

    def __repr__(self) -> str:
        """Say which worker this is, as log lines begin."""
        return self.label

    # The training thread cannot be asked: it may wait for a peer for ever.
    def _watch_the_driver(self) -> None:
        while time.monotonic() - self.asked_s < self.patience_s:
            time.sleep(1.0)
        os._exit(1)

    def handshake(self) -> dict[str, Any]:
        """Return where this process is and what it runs."""
        import ray

        packages = {name: version(name) for name in ("decentral", "torch")}
        self.address = ray.util.get_node_ip_address()
        return {"address": self.address, "versions": packages}

    def probe(self, folder: str, token: str, rank: int) -> bool:
        """Whether this process reads and writes the driver's run folder.

        Args:
            folder: The run folder.
            token: What the driver wrote into it.
            rank: Number of the worker.
        """
        home = Path(folder)
        try:
            seen = (home / f".probe-{token}").read_text() == token
            # Written too, and looked for by the driver: a folder that is mounted
            # read-only, or another one of that name, would fail at the first
            # checkpoint.
            (home / f".probe-{token}-{rank}").write_text(token)
        except OSError:
            return False
        return seen

    def open_store(self, address: str) -> int:
        """Return a port of this host on which the first worker meets the others."""
        from decentral.exchange.process_group import open_store

        self.store = open_store(address)  # it serves as long as it is held
        return self.store.port

    def listen(self) -> int:
        """Return a port of this host at which others find out whether they reach it.

        It is open only from a loss of contact on to the end of this process.
        """
        self.listening = open_port(self.address)
        return self.listening.getsockname()[1]

    def reach(self, places: Sequence[Place]) -> list[bool]:
        """Return which of these addresses and ports can be reached from here."""
        return reached(places)

    def look_in(self, folders: Sequence[str]) -> None:
        """Import from the folders that the driver imports from, where they are here,
        too: objects of Python in a job name their modules.
        """
        known = {*sys.path}
        sys.path += [one for one in folders if one not in known and Path(one).is_dir()]

    def begin(self, job: Job) -> None:
        """Build the worker and train to the end; what happens is reported by
        ``poll``.
        """
        from decentral.engines.worker import Worker

        self.worker = Worker(job)
        self.worker.work()

    def poll(self, wait_s: float) -> tuple[int, list[Mapping[str, Any]]]:
        """Return the step that is done and what has happened since, at most
        ``wait_s`` later.
        """
        # The first poll ends the long patience of the start.
        self.asked_s, self.patience_s = time.monotonic(), self.orphaned_s
        # Polls come while ``begin``, in another thread, still builds the worker.
        if self.worker is None:
            time.sleep(wait_s)
            return -1, []
        return self.worker.reports(wait_s)

    def hold(self, step: int) -> int:
        """Ask the worker to stop at a step; return the one it stands at."""
        assert self.worker is not None
        return self.worker.hold(step)

    def save(self) -> None:
        """Ask the worker that holds for a checkpoint."""
        assert self.worker is not None
        self.worker.save()

    def commit(self, name: str, path: str) -> str:
        """Write a file that the worker has staged to a shared folder; return its
        digest.
        """
        assert self.worker is not None
        return self.worker.commit(name, Path(path))

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return a chunk of a file that the worker has staged.

        Args:
            name: Name of the file.
            start: First byte.
            size: Number of bytes.
        """
        assert self.worker is not None
        return self.worker.staged[name][start : start + size]

    def digest(self, name: str) -> str:
        """Return the digest of a file that the worker has staged."""
        assert self.worker is not None
        return self.worker.digest(name)

    def discard(self, name: str) -> None:
        """Let the worker forget a file that was collected."""
        assert self.worker is not None
        self.worker.discard(name)
