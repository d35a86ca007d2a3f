"""Where claims make their runs: every run once, however often it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from decentral import api
from decentral.config import make_config
from decentral.sweeps.points import digest


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
        config = make_config({"device": self.device, **settings})
        path = self.folder / "runs" / f"{label.replace(' ', '-')}-{digest(config)}"
        found = api.Run(path)
        if (path / "summary.json").exists():
            self.spared_s += found.summary["counters"]["time/wall_s"]
            return found
        self.say(label)
        api.begun(config, path).run(lambda row: None)
        return found
