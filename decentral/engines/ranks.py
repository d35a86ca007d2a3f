"""Processes that a launcher has started together, as ranks of one run: torchrun, or a
step of Slurm; and where they meet.

Nothing here loads torch: the command line asks who it is before it loads anything.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decentral.config import Config
from decentral.engines.contact import route
from decentral.errors import ConfigError, RunError

if TYPE_CHECKING:  # it loads torch
    from decentral.exchange.base import Rendezvous

#: Seconds in which all ranks must have come.
CHECK_IN_S = 60.0
#: Seconds between two looks at the store.
LOOK_S = 0.1
#: Ports at which the first task of a Slurm step lets the others meet: below those
#: that kernels give to connections.
_PORTS = range(20_000, 32_000)

#: How a launcher tells a process its rank, and of how many: name, variables.
LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True)
class Ranks:
    """This process among those that a launcher has started together.

    ``store`` is the host and port at which they meet, ``serves`` whether this
    process opens it; ``key`` names the launch, and ``again`` counts its restarts.
    """

    launcher: str
    rank: int
    world: int
    one_host: bool
    store: tuple[str, int]
    serves: bool
    key: str
    again: int
    device: int  # place among the ranks of its host


def ranks_of(environ: Mapping[str, str] = os.environ) -> Ranks | None:
    """Return this process's place among the ranks of a launch; None: it is alone.

    A batch script, a notebook, and whatever they leave in the environment are single
    processes: a torchrun agent and a Slurm step are told by variables that only they
    set.

    >>> ranks_of({"RANK": "0", "WORLD_SIZE": "4"}) is None
    True
    """
    if "TORCHELASTIC_RUN_ID" in environ and _number(environ, "WORLD_SIZE") > 1:
        return _of_torchrun(environ)
    if "SLURM_STEP_ID" in environ and _number(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return _of_slurm(environ)
    return None


def joins_ranks(config: Config, environ: Mapping[str, str] = os.environ) -> Ranks | None:
    """Return this process's place where the run is one of all ranks together; a
    cluster of Ray, or ``engine: local``, is no such run.
    """
    engine = config.engine
    if engine.name in ("local", "ray") or engine.address is not None:
        return None
    return ranks_of(environ)


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else 0


def _of_torchrun(environ: Mapping[str, str]) -> Ranks:
    rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    return Ranks(
        launcher="torchrun",
        rank=rank,
        world=world,
        one_host=_number(environ, "LOCAL_WORLD_SIZE") == world,
        store=(environ.get("MASTER_ADDR", ""), _number(environ, "MASTER_PORT")),
        # The agent serves it; a second master of the same port would go unnoticed.
        serves=rank == 0 and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "False",
        key=environ["TORCHELASTIC_RUN_ID"],
        again=_number(environ, "TORCHELASTIC_RESTART_COUNT"),
        device=_number(environ, "LOCAL_RANK"),
    )


def _of_slurm(environ: Mapping[str, str]) -> Ranks:
    rank, world = (
        _number(environ, name) for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    )
    job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID")
    hosts = environ.get("SLURM_STEP_NODELIST", "")
    # Of its own for every step; whoever finds it taken names another.
    port = _number(environ, "MASTER_PORT") or _PORTS[(64 * job + step) % len(_PORTS)]
    return Ranks(
        launcher="srun",
        rank=rank,
        world=world,
        one_host=_number(environ, "SLURM_STEP_NUM_NODES") == 1,
        store=(first_host(hosts), port),
        serves=rank == 0,
        key=f"{job}.{step}",
        again=_number(environ, "SLURM_RESTART_COUNT"),
        device=_number(environ, "SLURM_LOCALID"),
    )


def first_host(hosts: str) -> str:
    """Return the first of Slurm's list of hosts.

    >>> first_host("gpu[07-09,12],login1"), first_host("a1,a2"), first_host("r[1-2]n[3]")
    ('gpu07', 'a1', 'r1n3')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else "")


# --- where they meet --------------------------------------------------------------

#: Runs of this process so far: every rank of a script counts the same.
_met = itertools.count()


class Meeting:
    """Where the ranks of one run find each other, and learn where it is kept.

    Keys are new for every start of the ranks: the agent of torchrun keeps its store,
    and what stands in it, over a restart.
    """

    #: The one of the run that this process is in.
    open: Meeting | None = None

    def __init__(self, ranks: Ranks) -> None:
        """Come to the store, and check in."""
        from decentral.exchange.process_group import join_store, open_store

        self.ranks, run = ranks, f"decentral/{ranks.key}/{next(_met)}"
        self.prefix, self._folder = f"{run}/{ranks.again}", f"{run}/folder"
        host, port = ranks.store
        local = ranks.one_host and (ranks.serves or ranks.launcher == "srun")
        self._place = "127.0.0.1" if local else host, port
        try:
            if ranks.serves:
                self.store = open_store("127.0.0.1" if ranks.one_host else "", port)
            else:
                self.store = join_store(*self._place, CHECK_IN_S)
        except (OSError, RuntimeError) as error:
            raise RunError(
                f"rank {ranks.rank} of {ranks.world} does not reach the others at "
                f"{host}:{port} ({str(error).splitlines()[0][:200]}); {self._variables}."
            ) from error
        self._set(f"in/{ranks.rank}", "here")

    @property
    def _variables(self) -> str:
        if self.ranks.launcher == "srun":
            return (
                "look at SLURM_STEP_NODELIST and SLURM_STEP_NUM_TASKS, name another "
                "MASTER_PORT, or say engine=local"
            )
        return (
            "look at MASTER_ADDR, MASTER_PORT and WORLD_SIZE, which torchrun sets, or "
            "say engine=local"
        )

    def _set(self, key: str, value: str) -> None:
        self.store.set(f"{self.prefix}/{key}", value)

    def _has(self, *keys: str) -> bool:
        return self.store.check([f"{self.prefix}/{key}" for key in keys])

    def _wait_for(self, ranks: range) -> None:
        """Wait until these ranks have come; raises RunError, which names the missing."""
        end_s = time.monotonic() + CHECK_IN_S
        while missing := [rank for rank in ranks if not self._has(f"in/{rank}")]:
            if time.monotonic() > end_s:
                names = ", ".join(str(rank) for rank in missing)
                raise RunError(
                    f"of {self.ranks.world} ranks, {names} did not come within "
                    f"{CHECK_IN_S:g} s; {self._variables}."
                )
            time.sleep(LOOK_S)

    def is_alive(self) -> bool:
        """Whether the store, and with it the launcher, is still there.

        The store itself, asked in vain, prints a page of C++.
        """
        if self.ranks.serves:
            return True
        try:
            socket.create_connection(self.ranks.store, timeout=CHECK_IN_S).close()
        except OSError:
            return False
        return True

    # --- all alike ----------------------------------------------------------------

    def rendezvous(self, timeout_s: float) -> Rendezvous:
        """Return how ranks that nobody coordinates reach each other, once all are here."""
        from decentral.exchange.base import Rendezvous

        rank, world = self.ranks.rank, self.ranks.world
        self._wait_for(range(world))
        address, prefix = self._address(), f"{self.prefix}/rows"
        return Rendezvous(rank, world, self._place, address, timeout_s, prefix)

    def _address(self) -> str:
        """Return an address of this host at which the others reach it.

        A host's own name often resolves to an address that only it reaches: how the
        host of the store is called, the others tell.
        """
        if self.ranks.one_host:
            return "127.0.0.1"
        here, there = route(*self._place)
        if not here.startswith("127."):
            self._set("host", there)
            return here
        end_s = time.monotonic() + CHECK_IN_S
        while not self._has("host"):
            if time.monotonic() > end_s:
                raise RunError(
                    f"rank {self.ranks.rank} of {self.ranks.world} finds no address at which "
                    f"other hosts reach it; {self._variables}."
                )
            time.sleep(LOOK_S)
        return self.store.get(f"{self.prefix}/host").decode()

    # --- rank 0 -------------------------------------------------------------------

    @property
    def folder(self) -> Path | None:
        """Where the run is kept that began before a restart of the ranks."""
        if not self.store.check([self._folder]):
            return None
        return Path(self.store.get(self._folder).decode())

    @folder.setter
    def folder(self, path: Path) -> None:
        self.store.set(self._folder, str(path.resolve()))

    def gather(self) -> list[socket.socket]:
        """Return a connection to every other rank, in their order.

        Whoever connects must say a word that stands in the store alone.
        """
        self._wait_for(range(1, self.ranks.world))
        address = "127.0.0.1" if self.ranks.one_host else ""
        word, found = secrets.token_hex(16), dict[int, socket.socket]()
        with socket.create_server((address, 0), backlog=1024) as server:
            port = server.getsockname()[1]
            self._set("where", json.dumps({"port": port, "word": word}))
            server.settimeout(CHECK_IN_S)
            while len(found) < self.ranks.world - 1:
                try:
                    connection, _ = server.accept()
                except TimeoutError as error:
                    there = ", ".join(
                        str(rank)
                        for rank in range(1, self.ranks.world)
                        if rank not in found
                    )
                    raise RunError(
                        f"rank {there} came, and does not reach rank 0 at a free port of its "
                        f"host; let hosts reach each other at all ports, or {self._variables}."
                    ) from error
                connection.settimeout(CHECK_IN_S)
                theirs, _, rank = _line(connection).partition(" ")
                if not secrets.compare_digest(theirs, word) or not rank.isdigit():
                    connection.close()
                    continue
                found[int(rank)] = connection
        for connection in found.values():
            connection.settimeout(None)
        return [found[rank] for rank in range(1, self.ranks.world)]

    def tell_finished(self, folder: Path) -> None:
        """Tell the other ranks that there is nothing to train."""
        self._set("where", json.dumps({"finished": str(folder.resolve())}))
        # The store may be ours, and end with this process.
        self._wait_for_reading()

    def _wait_for_reading(self) -> None:
        end_s = time.monotonic() + CHECK_IN_S
        others = [f"read/{rank}" for rank in range(1, self.ranks.world)]
        while not self._has(*others) and time.monotonic() < end_s:
            time.sleep(LOOK_S)

    # --- the others ---------------------------------------------------------------

    def connect(self) -> socket.socket | Path:
        """Return a connection to rank 0, once it has prepared the run; or the folder
        of a run that is finished.
        """
        self._wait_for(range(1))
        while not self._has("where"):
            time.sleep(LOOK_S)
        where: dict[str, Any] = json.loads(self.store.get(f"{self.prefix}/where"))
        self._set(f"read/{self.ranks.rank}", "done")
        if "finished" in where:
            return Path(where["finished"])
        host = "127.0.0.1" if self.ranks.one_host else self.ranks.store[0]
        found = socket.create_connection((host, where["port"]), timeout=CHECK_IN_S)
        found.sendall(f"{where['word']} {self.ranks.rank}\n".encode())
        found.settimeout(None)
        return found


def _line(connection: socket.socket) -> str:
    """Return the first line that a stranger says, byte by byte: what follows it is
    for others to read.
    """
    said = bytearray()
    while len(said) < 256 and (byte := connection.recv(1)) not in (b"", b"\n"):
        said += byte
    return said.decode(errors="replace")


def refuse_changing_ranks(ranks: Ranks) -> None:
    """Raise ConfigError: who changes a run writes its folder anew, and is one process."""
    raise ConfigError(
        f"change: {ranks.launcher} has started {ranks.world} ranks, which change nothing of a "
        "run; change it in one process (engine=local)."
    )


def refuse_ranks(
    config: Config | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    together: bool = False,
) -> None:
    """Raise ConfigError in a process that is one of several; ``engine: local`` asks
    for that.

    Of Slurm the number of tasks of the *step* counts: a batch script and what it
    leaves in its environment are one process, whatever the job has asked for. A
    step of several tasks may still be one run where a Ray cluster is joined:
    ``ray symmetric-run`` starts it on one host only.

    Args:
        config: Of the run.
        environ: The environment.
        together: Whether the ranks of a launch may train this run together.
    """
    if config is not None and config.engine.name == "local":
        return
    if together and config is not None and joins_ranks(config, environ):
        return
    for launcher, rank, size in LAUNCHERS:
        count = environ.get(size, "")
        # A launcher's variables also stand in the environment of single processes.
        if rank not in environ or not count.isdigit() or int(count) < 2:
            continue
        if (
            launcher == "srun"
            and config is not None
            and config.engine.address is not None
        ):
            continue
        raise ConfigError(
            f"{launcher} has started this {count} times, and each process would train a run of "
            f"its own ({size} is {count}); start it once, with --engine ray --workers {count} "
            "where it needs several, or say engine=local."
        )
