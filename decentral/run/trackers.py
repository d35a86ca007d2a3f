"""Trackers: where a run's records go besides its folder.

A tracker is a function ``(folder, config, step) -> Sink``: the path of the run
folder, the resolved settings, and the step at which the run begins or goes on.
Trait ``package``: what must be installed (extra ``[track]``). Its keyword-only
parameters are settings.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from decentral.blame import words_and_place
from decentral.errors import ConfigError, PluginError, exit_place
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, build, plugin
from decentral.traits import TrackerTraits, traits_of

INSTALL = "pip install -c constraints.txt -e '.[track]'"


class Sink(Protocol):
    """Takes numbers by name."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Hand over what is left."""


class Trackers:
    """The sinks of a run. One that fails is told and left out: the folder holds
    everything.
    """

    def __init__(
        self, specs: Sequence[str | ConfiguredPlugin], tell: Callable[[str], None]
    ) -> None:
        """Find the trackers; ``tell`` is told of those that fail later.

        Raises ConfigError where a package is missing.
        """
        self.made = [_require_package(build("tracker", spec)) for spec in specs]
        self.tell = tell
        self.sinks: dict[str, Sink] = {}
        self.step = -1

    def begin(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Open every sink.

        Args:
            folder: The run folder.
            config: The resolved configuration.
            step: Step that the run begins at.
        """
        for tracker in self.made:
            try:
                self.sinks[tracker.name] = _sink(
                    tracker, tracker(folder.resolve(), config, step)
                )
            except (Exception, SystemExit) as error:
                self._lose(tracker.name, error)

    def record(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of a record; what a merge gives at a step already logged has
        its phase.
        """
        step = int(record["step"])
        # Services take one value for a name and step: what was before the merge
        # keeps its own.
        again = step == self.step and "phase" in record
        prefix = f"{record['phase']}/" if again else ""
        self.step = step
        numbers = {
            prefix + key: float(value)
            for key, value in record.items()
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
            except (
                Exception,
                SystemExit,
            ) as error:  # whatever a service does, training goes on
                del self.sinks[name]
                self._lose(name, error)

    def _lose(self, name: str, error: Exception | SystemExit) -> None:
        said = (
            exit_place(error) if isinstance(error, SystemExit) else _describe_error(error)
        )
        self.tell(f"tracker {name} failed ({said}); the run goes on without it.")


def _describe_error(error: Exception) -> str:
    """Say what a tracker raised, and where, if it is a user's."""
    if isinstance(error, PluginError):
        return f"{error.said}, {error.place}"
    if isinstance(error, ConfigError):
        return str(error).rstrip(".")
    return words_and_place(error, 200)


def _sink(tracker: ConfiguredPlugin, found: Any) -> Sink:
    """Return what a tracker has opened, if numbers can be logged there."""
    if not all(callable(getattr(found, name, None)) for name in ("log", "close")):
        raise wrong(tracker, describe(found), "a sink with the methods log and close")
    return found


def _require_package(tracker: ConfiguredPlugin) -> ConfiguredPlugin:
    package = traits_of(tracker, TrackerTraits).package
    spec = find_spec(package) if package else None
    if package and (spec is None or spec.origin is None):  # a folder of that name is none
        raise ConfigError(f"tracker {tracker.name!r} needs {package}: {INSTALL}.")
    return tracker


# --- TensorBoard ------------------------------------------------------------------


class Board:
    """Writes scalars into a folder that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path, step: int) -> None:
        """Write into ``folder``; what it holds beyond ``step`` is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(
            str(folder), purge_step=step + 1 if step else None
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add one point to every curve."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


@plugin("tracker", package="tensorboard")
def tensorboard(folder: Path, config: Mapping[str, Any], step: int) -> Board:
    """Curves for ``tensorboard --logdir runs``, in the folder ``tensorboard`` of
    the run.

    Args:
        folder: The run folder.
        config: The resolved configuration.
        step: Step that the run begins at.
    """
    return Board(folder / "tensorboard", step)


# --- Weights & Biases -------------------------------------------------------------


class Journal:
    """One run of Weights & Biases."""

    def __init__(self, run: Any, mark: Path, resumed: bool) -> None:
        """Log into a run that was begun; ``mark`` keeps the last step across
        restarts.
        """
        self.run, self.mark = run, mark
        self.done = int(mark.read_text()) if resumed and mark.exists() else -1
        self.last = self.done

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step, unless they were logged before a restart.

        Weights & Biases drops what goes back; the run repeats it with the same
        numbers.
        """
        if step <= self.done or step < self.last:
            return
        self.run.log(dict(numbers), step=step)
        self.last = step
        self.mark.write_text(str(step))

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()  # silent by its settings: ``quiet`` came and went


@plugin("tracker", package="wandb")
def wandb(
    folder: Path,
    config: Mapping[str, Any],
    step: int,
    *,
    project: str = "decentral",
    mode: Literal["auto", "online", "offline"] = "auto",
) -> Journal:
    """A run of Weights & Biases; ``auto`` is online where a key is known, else
    offline.

    Offline it writes into the run folder; ``wandb sync RUN/wandb/offline-run-*``
    uploads it later. The environment variable WANDB_MODE decides where ``mode`` is
    auto.

    Args:
        folder: The run folder.
        config: The resolved configuration.
        step: Step that the run begins at.
        project: Project that the run belongs to.
        mode: ``online``, ``offline`` or ``auto``.
    """
    client: Any = import_module("wandb")  # an extra that need not be there
    known = "WANDB_MODE" in os.environ or client.api.api_key is not None
    chosen = mode if mode != "auto" else None if known else "offline"
    run = client.init(
        project=project, name=folder.name, id=_identity(folder), dir=str(folder),
        config=dict(config), mode=chosen, resume="allow" if step else None,
        settings=client.Settings(silent=True, console="off"),
    )  # fmt: skip
    return Journal(run, folder / "wandb" / "last_step", step > 0)


def _identity(folder: Path) -> str:
    """Return what the same run has again when it is resumed, and no other: when it
    began.
    """
    with (folder / "events.jsonl").open(encoding="utf-8") as events:
        return hashlib.sha256(f"{folder}{events.readline()}".encode()).hexdigest()[:12]
