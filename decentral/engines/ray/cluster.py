"""The Ray cluster: joined or started, what its hosts offer, and which of them were
lost.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
import time
import warnings
from collections.abc import Container, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.config import Config, Engine
from decentral.engines.contact import Place
from decentral.engines.ray.private import on_loopback, quieten, read_environment
from decentral.errors import ConfigError, RunError
from decentral.process import OwnFolder

#: Seconds within which an address must accept a connection.
ANSWER_S = 5.0
#: Seconds between two looks at the head, and without an answer of it, after which a
#: run ends: one that starts again is back within some 20 s, and after 60 s Ray ends
#: the process.
HEAD_EVERY_S, HEAD_S = 5.0, 30.0
#: Looks that must all have failed by then: on a busy machine two of them may lie far
#: apart, and tell nothing of what was in between.
LOOKS = 1 + int(HEAD_S / HEAD_EVERY_S)


@dataclass(frozen=True)
class Host:
    """A machine of the cluster."""

    id: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """A cluster this process is connected to; ``own`` ones are taken down with the
    run, and their ``folder`` goes with them.
    """

    dashboard: str
    own: bool
    folder: OwnFolder | None = None

    def hosts(self) -> list[Host]:
        """Return the machines that are alive and compute, in a stable order."""
        import ray

        found = [
            Host(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["Resources"].get("CPU", 0.0),
                node["Resources"].get("GPU", 0.0),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]
        # Ranks follow this order, and Ray promises none.
        return sorted((h for h in found if h.cpus), key=lambda h: (h.address, h.id))

    def places(self, ids: Container[str]) -> list[Place]:
        """Return where some hosts listen for as long as they are there."""
        import ray

        return [
            (node["NodeManagerAddress"], node["NodeManagerPort"])
            for node in ray.nodes()
            if node["NodeID"] in ids
        ]

    def close(self) -> None:
        """Leave, and take an own cluster down."""
        import ray

        try:
            if self.own:
                ray.shutdown()
        finally:
            if self.folder:
                self.folder.close()


class Head:
    """Ray's head (GCS): without it nobody is started or looked up, and a process ends
    by Ray's hand after a minute, without a word about its run.

    It is asked for a connection, which the kernel of its host completes however busy
    the head is: refused, there is no such process.
    """

    def __init__(self, address: str) -> None:
        """Look at it from now on."""
        host, _, port = address.rpartition(":")
        self.address = host.strip("[]"), int(port)
        self.asked_s = time.monotonic()
        self.silent_since_s, self.failed = 0.0, 0

    def check(self, now_s: float) -> None:
        """Ask it, now and then; raises RunError once it has not answered for
        ``HEAD_S``, at ``LOOKS`` looks in a row.
        """
        if now_s - self.asked_s < HEAD_EVERY_S:
            return
        self.asked_s = now_s
        try:
            socket.create_connection(self.address, timeout=1.0).close()
        except OSError as error:
            # Not since its last answer: this process may have been busy since then.
            self.silent_since_s = self.silent_since_s if self.failed else now_s
            self.failed += 1
            if self.failed >= LOOKS and now_s - self.silent_since_s >= HEAD_S:
                raise RunError(
                    f"Ray's head (GCS) has not answered for {HEAD_S:g} s ({error}); start Ray "
                    "again where it was not started by this run, then `decentral resume`."
                ) from error
        else:
            self.failed = 0


def connect(config: Config) -> Cluster:
    """Join the cluster at ``address``, or start one on this machine.

    A cluster that is started asks for a token (``RAY_AUTH_MODE=token``); joining
    one that does not prints a warning. Raises ConfigError when nothing answers.
    """
    engine = config.engine
    if engine.address is None:
        _check_port(engine.dashboard_port)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        protect_token()
    else:
        _check_answers(engine.address)
    import ray

    quieten()
    if ray.is_initialized():  # several runs of a process share one
        return Cluster(_dashboard(_init(engine.address, ignore_reinit_error=True)), False)
    if engine.address is None:
        return _start(engine)
    dashboard = _dashboard(_init(engine.address, address=engine.address))
    if os.environ.get("RAY_AUTH_MODE") != "token":
        warnings.warn(
            f"the Ray cluster at {engine.address} asks for no token: whoever reaches its ports can "
            "run code on it. Set RAY_AUTH_MODE=token on every host.",
            stacklevel=2,
        )
    return Cluster(dashboard, own=True)


def _init(where: str | None, **options: Any) -> Any:
    """Return what Ray says of a cluster that was joined or started; raises
    ConfigError.
    """
    import ray
    from ray.exceptions import RayError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (RuntimeError, ConnectionError, ValueError, RayError) as error:
        raise _explain(where, error) from error


def _dashboard(context: Any) -> str:
    """Return the address of the dashboard, and how to get the token that it asks for."""
    if not context.dashboard_url:
        return "off"
    asks = os.environ.get("RAY_AUTH_MODE") == "token"
    token = " (its token: `ray get-auth-token`)" if asks else ""
    return f"http://{context.dashboard_url}{token}"


# --- a cluster of its own ---------------------------------------------------------

#: The longest path that Ray's folder may be made in: sockets lie in it, whose paths
#: have at most 103 characters on macOS.
_LONGEST = 103 - len(
    "/decentral-01234567/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
)


def _start(engine: Engine) -> Cluster:
    """Start a cluster on this machine, reached from it alone.

    All that its processes write lies in a folder of its own, which this user alone
    can look into.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    place = Path(parent if len(parent) <= _LONGEST else "/tmp")
    with ExitStack() as undo:
        try:
            folder = OwnFolder("decentral-", place, kills=True)
        except OSError as error:
            raise ConfigError(
                f"Ray cannot be started: {place} cannot be written "
                f"({os.strerror(error.errno or 0)}); name a folder by RAY_TMPDIR."
            ) from error
        undo.callback(folder.close)
        read_environment()
        with _temporary(folder.path / "tmp"), on_loopback():
            # Not the folder itself: Ray lets everybody write where it begins.
            options = _own(engine) | {"_temp_dir": str(folder.path / "ray")}
            dashboard = _dashboard(_init(None, **options))
        undo.pop_all()
    return Cluster(dashboard, own=True, folder=folder)


def _own(engine: Engine) -> dict[str, Any]:
    """Return how a cluster is started: as many workers as asked fit, whatever the
    cores.
    """
    port = (
        {} if engine.dashboard_port is None else {"dashboard_port": engine.dashboard_port}
    )
    return {
        "address": "local",
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        **port,
    }


@contextmanager
def _temporary(folder: Path) -> Generator[None]:
    """Let processes that are started meanwhile make their temporary files in a
    folder.

    What torch compiles is kept for the next run.
    """
    folder.mkdir()
    kept = dict(os.environ)
    compiled = str(Path("~/.cache/decentral/compiled").expanduser())
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):
            if name in kept:
                os.environ[name] = kept[name]
            else:
                del os.environ[name]


def protect_token() -> None:
    """Make the file of the token, where there is none, for this user's eyes only.

    Ray would make it, for everybody's; one that others may read is closed to them.
    Tokens that are named elsewhere are their owner's concern.
    """
    named = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if named or os.environ.get("RAY_AUTH_MODE") != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # Ray says so, where it cannot be made or read
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _write_token(file)
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)


def _write_token(file: Path) -> None:
    """Write a new token, whole or not at all, unless another process is faster."""
    handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "w") as made:
            made.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        os.unlink(draft)


def _check_port(port: int | None) -> None:
    """Refuse a port that is taken; 0 stands for any that is free."""
    if port is None:
        return
    with socket.socket() as probe:
        # Without it the port of a cluster that has just ended would still count as
        # taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError as error:
            raise ConfigError(
                f"engine.dashboard_port {port}: ports end at 65535."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"engine.dashboard_port {port} cannot be used ({os.strerror(error.errno or 0)}); "
                "choose another, or leave it out."
            ) from error


def _check_answers(address: str) -> None:
    """Refuse an address that nobody listens at, sooner than Ray would."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise ConfigError(
            f"engine.address {address!r} is not host:port or auto; give what `ray start --head` "
            "printed, such as 10.0.0.1:6379. From outside the cluster use `ray job submit`."
        )
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}); "
            "start one by `ray start --head`, or leave the address out."
        ) from error


def _explain(address: str | None, error: Exception) -> ConfigError:
    """Return Ray's complaint in one line."""
    from ray.exceptions import AuthenticationError

    text = " ".join(str(error).split())
    if address == "auto" and "running Ray instance" in text:
        return ConfigError(
            "engine.address auto: no Ray cluster runs on this host; "
            "start one by `ray start --head`, or leave the address out."
        )
    if "ersion mismatch" in text:
        return ConfigError(
            f"the Ray cluster at {address} runs other versions: {text[:300]}"
        )
    if isinstance(error, AuthenticationError):
        return ConfigError(
            "RAY_AUTH_MODE=token is set, and there is no token; set RAY_AUTH_TOKEN or "
            "~/.ray/auth_token as on the head of the cluster."
        )
    if isinstance(error, ConnectionError):  # of a wrong token, Ray says no more than that
        return ConfigError(
            f"what answers at {address} refuses this process; set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token as on its head, and look whether it is Ray."
        )
    return ConfigError(f"Ray cannot be started or joined: {text[:300]}")
