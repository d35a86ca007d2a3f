"""Failures to rehearse: what happens to which worker, and when."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

from decentral.errors import ConfigError
from decentral.spec import parse_spec

#: What can happen, in words.
KINDS = {
    "kill": "the worker's process is killed at once",
    "hang": "the process stops answering, without dying",
    "stall": "the step never ends, though the process still answers",
}


@dataclass(frozen=True)
class Fault:
    """One failure: ``kind`` happens to ``worker`` before it takes step ``step`` + 1."""

    kind: str
    worker: int
    step: int

    @staticmethod
    def parse(text: str) -> Fault:
        """Read ``kill(worker=1, step=50)``; raises ConfigError.

        >>> Fault.parse("hang(worker=0, step=7)")
        Fault(kind='hang', worker=0, step=7)
        """
        spec = parse_spec(text, "faults")
        given = {**dict(zip(("worker", "step"), spec.args, strict=False)), **spec.settings}
        whole = all(type(v) is int and v >= 0 for v in given.values())
        if given.keys() != {"worker", "step"} or not whole:
            raise ConfigError(
                f"faults: cannot read {text!r}; write {spec.name}(worker=1, step=50), "
                "both whole numbers from 0 on."
            )
        return Fault(spec.name, given["worker"], given["step"])

    def inject(self) -> None:
        """Strike this process."""
        if self.kind == "stall":
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL if self.kind == "kill" else signal.SIGSTOP)
