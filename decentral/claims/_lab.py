"""Where claims make their runs: every run once, however often it is asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from decentral import api
from decentral.config import make_config
from decentral.engines.base import EngineRun


class Lab:
    """Makes runs for a claim in ``folder``, or finds them there if an earlier try has made them."""

    def __init__(self, folder: Path, say: Callable[[str], None], device: str = "auto") -> None:
        """Work in ``folder``; ``say`` is told what is being done."""
        self.folder, self.say, self.device = folder, say, device
        self.spared_s = 0.0  # what the runs that were found took when they were made

    def run(self, label: str, **settings: Any) -> api.Run:
        """Return the finished run with these settings: found, gone on with, or made.

        It has no report; `decentral report` draws one.
        """
        settings = {"device": self.device, **settings}
        path = self.folder / "runs" / f"{label.replace(' ', '-')}-{fingerprint(settings)}"
        if (path / "summary.json").exists():
            found = api.Run(path)
            self.spared_s += found.summary["time"]["wall_s"]
            return found
        self.say(label)
        self._begun(path, settings).run(lambda row: None)
        return api.Run(path)

    @staticmethod
    def _begun(path: Path, settings: dict[str, Any]) -> EngineRun:
        if any((path / "checkpoints").glob("step-*")):
            return api.restart(path)
        if path.exists():  # killed before its first checkpoint: nothing in it to keep
            shutil.rmtree(path)
        return api.start(make_config({"out": str(path), **settings}))


def fingerprint(value: Any) -> str:
    """Return 12 hexadecimal digits that tell plain values apart.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
