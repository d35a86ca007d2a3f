"""The private parts of Ray that are used, all of them; see `decentral.private`."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any


def quieten() -> None:
    """Let Ray's notices, such as that a worker died, go to the log: the run tells
    it in its words.

    Ray prints them on the terminal, whatever ``log_to_driver`` and
    ``logging_level`` say.
    """
    from ray._private import worker

    def note(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        logging.getLogger("decentral.ray").info("%s", " ".join(map(str, data["lines"])))

    worker.print_to_stdstream = note


def read_environment() -> None:
    """Let Ray take what it reads of the environment when it is imported, such as
    ``RAY_AUTH_MODE``, from the environment as it is now.
    """
    from ray._raylet import Config  # pyright: ignore[reportAttributeAccessIssue]

    Config.initialize("")


@contextmanager
def on_loopback() -> Generator[None]:
    """Let a cluster that is started meanwhile listen on loopback only.

    Servers of Ray listen on the loopback address where that is the address of their
    host, else on all of them; and ``ray.init`` replaces a loopback address that is
    given by one that others reach, save where Ray says to be no cluster, as it does
    on macOS.
    """
    from ray._private import ray_constants

    kept = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = kept
