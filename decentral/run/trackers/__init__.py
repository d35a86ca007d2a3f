"""Trackers: where a run's rows go besides its folder.

A tracker is a function ``(folder, config, step) -> Sink``: the path of the run folder, the resolved
settings, and the step at which the run begins or goes on. Trait ``package``: what must be installed
(extra ``[track]``). Its keyword-only parameters are settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from decentral.errors import ConfigError, exit_place
from decentral.registry import Bound, build

INSTALL = "pip install -c constraints.txt -e '.[track]'"


class Sink(Protocol):
    """Takes numbers by name."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Hand over what is left."""


class Trackers:
    """The sinks of a run. One that fails is told and left out: the folder holds everything."""

    def __init__(self, specs: Sequence[str], tell: Callable[[str], None]) -> None:
        """Find the trackers; ``tell`` is told of those that fail later.

        Raises ConfigError where a package is missing.
        """
        self.made = [_installed(build("tracker", spec)) for spec in specs]
        self.tell = tell
        self.sinks: dict[str, Sink] = {}
        self.step = -1

    def begin(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Open every sink."""
        for tracker in self.made:
            try:
                self.sinks[tracker.name] = tracker(folder.resolve(), config, step)
            except (Exception, SystemExit) as error:
                self._lose(tracker.name, error)

    def record(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row; what a merge gives at a step already logged has its phase."""
        step = int(row["step"])
        again = step == self.step and "phase" in row
        prefix = f"{row['phase']}/" if again else ""
        self.step = step
        numbers = {
            prefix + key: float(value)
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float)
        }
        self._each(lambda sink: sink.log(numbers, step))

    def close(self) -> None:
        """Close every sink."""
        self._each(lambda sink: sink.close())
        self.sinks.clear()

    def _each(self, act: Callable[[Sink], None]) -> None:
        for name, sink in list(self.sinks.items()):
            try:
                act(sink)
            except (Exception, SystemExit) as error:  # whatever a service does, training goes on
                del self.sinks[name]
                self._lose(name, error)

    def _lose(self, name: str, error: Exception | SystemExit) -> None:
        said = exit_place(error) if isinstance(error, SystemExit) else str(error)
        cause = " ".join(said.split()) or type(error).__name__
        self.tell(f"tracker {name} failed ({cause[:200]}); the run goes on without it.")


def _installed(tracker: Bound) -> Bound:
    package = tracker.plugin.traits.get("package")
    spec = find_spec(package) if package else None
    if package and (spec is None or spec.origin is None):  # a folder of that name is none
        raise ConfigError(f"tracker {tracker.name!r} needs {package}: {INSTALL}.")
    return tracker
