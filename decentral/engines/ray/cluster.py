"""The Ray cluster: joined or started, what its hosts offer, and which of them were
lost.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from decentral.config import Config, Engine
from decentral.engines.ray.private import quieten
from decentral.errors import ConfigError

#: Seconds within which an address must accept a connection.
ANSWER_S = 5.0


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
    run.
    """

    dashboard: str
    own: bool

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

    def close(self) -> None:
        """Leave, and take an own cluster down."""
        import ray

        if self.own:
            ray.shutdown()


def connect(config: Config) -> Cluster:
    """Join the cluster at ``address``, or start one on this machine.

    A cluster that is started asks for a token (``RAY_AUTH_MODE=token``); joining
    one that does not prints a warning. Raises ConfigError when nothing answers.
    """
    engine = config.engine
    if engine.address is None:
        _check_port(engine.dashboard_port)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    else:
        _check_answers(engine.address)
    import ray
    from ray.exceptions import RayError

    joined = ray.is_initialized()
    quieten()
    options: dict[str, Any] = (
        {"address": engine.address} if engine.address else _own(engine)
    )
    if joined:  # several runs of a process share one: it is asked for its dashboard only
        options = {"ignore_reinit_error": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context = ray.init(
                log_to_driver=False, logging_level=logging.ERROR, **options
            )
    except (RuntimeError, ConnectionError, ValueError, RayError) as error:
        raise _explain(engine.address, error) from error
    dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else "off"
    if joined:
        return Cluster(dashboard, own=False)
    if os.environ.get("RAY_AUTH_MODE") != "token":
        warnings.warn(
            f"the Ray cluster at {engine.address} asks for no token: whoever reaches its ports can "
            "run code on it. Set RAY_AUTH_MODE=token on every host.",
            stacklevel=2,
        )
    return Cluster(dashboard, own=True)


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


# --- hosts that were lost ---------------------------------------------------------


class HostBlocklist:
    """Hosts that no worker is placed on while there are others, by the id that Ray
    gave them.
    """

    def __init__(self) -> None:
        """Block none."""
        self._asked: dict[str, Any] = {}

    def __contains__(self, host: object) -> bool:
        """Whether a host is blocked."""
        return host in self._asked

    def __len__(self) -> int:
        """Return how many are blocked."""
        return len(self._asked)

    def add(self, host: str) -> None:
        """Block a host; what it was asked before counts no more."""
        # The answer to an old question would clear a host that was lost since.
        self._asked[host] = None

    def unblock(self, there: Iterable[Host]) -> set[str]:
        """Return the hosts that answer again, no longer blocked, and ask the
        others; never waits.

        A network that was cut for less than Ray notices brings back the host it
        took away.
        """
        here = {host.id for host in there} & self._asked.keys()
        found = {host for host in here if _answers(self._asked[host])}
        for host in found:
            del self._asked[host]
        for host in here - found:
            # One question at a time: they wait in Ray for a host that may never
            # answer.
            self._asked[host] = self._asked[host] or _ask(host)
        return found


def _ask(host: str) -> Any:
    """Ask a host for a sign of life, once a core is free of what was lost there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(host, soft=False)
    made: Any = ray.remote(_here)
    return made.options(num_cpus=1, max_retries=0, scheduling_strategy=strategy).remote()


def _here() -> bool:
    return True


def _answers(asked: Any) -> bool:
    import ray
    from ray.exceptions import RayError

    if asked is None or not ray.wait([asked], timeout=0)[0]:
        return False
    try:
        return ray.get(asked)
    except RayError:
        return False
