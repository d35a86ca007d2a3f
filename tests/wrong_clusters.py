"""What can be wrong with a Ray cluster, without one: its checks meet what Ray would say."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from decentral.config import Engine
from decentral.engines import local
from decentral.engines.attempt import check_versions
from decentral.engines.base import EngineRun
from decentral.engines.contact import PROCESS_DIED, WorkersLost
from decentral.engines.ray.cluster import (
    HEAD_S,
    LOOKS,
    Head,
    Host,
    _check_port,
    _explain,
    _start,
)
from decentral.engines.ray.placement import place_workers
from decentral.engines.ray.run import RayRun
from decentral.engines.ray.worker_group import WorkerGroup
from decentral.engines.workers import CheckpointAssembly
from decentral.network.planning import Membership
from decentral.run.folder import RunFolder

HEAD = "10.0.0.1:6379"
ONE_GPU = [Host("a", "10.0.0.1", 8.0, 1.0)]


def refuses(address: str | None, error: Exception) -> None:
    """Let Ray refuse to start or to be joined in this way."""
    raise _explain(address, error)


def has_no_token() -> None:
    from ray.exceptions import AuthenticationError

    refuses(
        "auto",
        AuthenticationError("Token authentication is enabled but there is no token"),
    )


def without_ray() -> None:
    with mock.patch.object(local, "find_spec", return_value=None):
        local.require_ray()


def port_in_use() -> None:
    taken = mock.MagicMock()
    taken.__enter__.return_value.bind.side_effect = OSError(errno.EADDRINUSE, "in use")
    with mock.patch("socket.socket", return_value=taken):
        _check_port(8265)


def head_is_gone() -> None:
    """A port that nobody listens at."""
    head = Head("127.0.0.1:1")
    for _ in range(LOOKS):
        head.check(head.asked_s + HEAD_S)


def no_room_for_ray() -> None:
    with mock.patch.dict("os.environ", RAY_TMPDIR="/nowhere"):
        _start(Engine(name="ray"))


def damaged() -> None:
    """What arrives is not what a worker has staged."""
    checkpoints: Any = object.__new__(CheckpointAssembly)
    checkpoints.folder, checkpoints.shared = RunFolder(Path("run")), False
    answers = {"read": b"row", "digest": "another digest"}
    checkpoints.workers = SimpleNamespace(ask=lambda rank, method, *_: answers[method])
    staged = {"rank": 1, "name": "nodes-00001.safetensors", "size": 3}
    checkpoints.collect(staged, Path("sent.safetensors"))


def fails_in_an_actor() -> None:
    from ray.exceptions import RayTaskError

    said = "Traceback (most recent call last):\nValueError: out of luck"
    group: Any = object.__new__(WorkerGroup)
    with mock.patch(
        "ray.get", side_effect=RayTaskError("poll", said, ValueError("out of luck"))
    ):
        group._answer(1, None)


def one_failure_too_many(policy: Any) -> None:
    config = SimpleNamespace(engine=Engine(on_failure=policy, max_failures=3))
    run: Any = SimpleNamespace(
        setup=SimpleNamespace(config=config), failures=4, folder=RunFolder(Path("run"))
    )
    RayRun._check_policy(run, WorkersLost([1], PROCESS_DIED, 35))


def interrupted_early() -> None:
    run: Any = SimpleNamespace(folder=RunFolder(Path("run")), starter="decentral")
    raise EngineRun.interruption(run)


def nobody_left() -> None:
    run: Any = SimpleNamespace()
    RayRun._reconfigure(run, Membership(()))


CLUSTERS: dict[str, Callable[[], Any]] = {
    "Ray is not installed": without_ray,
    "a port in use": port_in_use,
    "no cluster on this host": lambda: refuses(
        "auto", ConnectionError("Could not find any running Ray instance.")
    ),
    "a cluster of another version": lambda: refuses(
        HEAD, RuntimeError("Version mismatch: The cluster was started with: Ray: 2.9.0")
    ),
    "a wrong token": lambda: refuses(
        HEAD, ConnectionError(f"Failed to connect to Ray cluster at {HEAD}")
    ),
    "no token": has_no_token,
    "Ray fails otherwise": lambda: refuses(HEAD, RuntimeError("the session is gone")),
    "no folder for Ray": no_room_for_ray,
    "Ray's head is gone": head_is_gone,
    "no host with CPUs": lambda: place_workers([], 1, "pack", set(), 0),
    "fewer GPUs than asked": lambda: place_workers(ONE_GPU, 2, "pack", set(), 1),
    "a worker of another version": lambda: check_versions(
        [{"address": "10.0.0.2", "versions": {"decentral": "0.0.1"}}]
    ),
    "a damaged shard": damaged,
    "an actor fails": fails_in_an_actor,
    "one failure too many": lambda: one_failure_too_many("restart"),
    "a failure that ends the run": lambda: one_failure_too_many("stop"),
    "every node lost": nobody_left,
    "Ctrl-C before the first checkpoint": interrupted_early,
}
