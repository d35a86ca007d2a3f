"""Trackers: where a run's records go besides its folder.

A tracker is a function ``(folder, config, step) -> Sink``: the path of the run
folder, the resolved settings, and the step at which the run begins or goes on.
Trait ``package``: what must be installed (extra ``[track]``). Its keyword-only
parameters are settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from decentral.blame import words_and_place
from decentral.errors import ConfigError, PluginError, exit_place, install_command
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin, build, plugin
from decentral.traits import TrackerTraits, traits_of


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
        """Log the numbers of a record; what a merge gives at a step already logged
        has its phase.
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
        raise ConfigError(
            f"tracker {tracker.name!r} needs {package}: {install_command('track')}."
        )
    return tracker


# --- TensorBoard ------------------------------------------------------------------


class Board:
    """Writes scalars into a folder that ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Write into a folder.

        Args:
            folder: The folder.
            config: What is shown beside the scores of the run.
            step: What the folder holds beyond it is hidden.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(
            str(folder), purge_step=step + 1 if step else None
        )
        #: Settings that no table shows yet; a run that goes on has its table.
        self.settings = {} if step else flatten(config)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add one point to every curve."""
        scores = {key: 0.0 for key in numbers if key.endswith("/merged")}
        if self.settings and scores:
            # The table of HPARAMS takes its scores from the curves of these names.
            from torch.utils.tensorboard.summary import hparams

            for part in hparams(self.settings, scores):
                self.writer.file_writer.add_summary(part)
            self.settings = {}
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


@plugin("tracker", package="tensorboard")
def tensorboard(folder: Path, config: Mapping[str, Any], step: int) -> Board:
    """Curves for ``tensorboard --logdir runs``, in the folder ``tensorboard`` of
    the run, and its settings beside the scores of merged models (HPARAMS).

    Args:
        folder: The run folder.
        config: The resolved configuration.
        step: Step that the run begins at.
    """
    return Board(folder / "tensorboard", config, step)


def flatten(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return settings by keys with dots, what is neither number nor text as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= flatten(value, f"{name}.")
        elif value is not None:
            found[name] = value if isinstance(value, bool | int | float) else str(value)
    return found


# --- MLflow -----------------------------------------------------------------------

#: Numbers and settings that MLflow takes at a time; characters of a setting.
_NUMBERS, _SETTINGS, _LETTERS = 1000, 100, 6000


class Experiment:
    """One run of MLflow."""

    def __init__(self, client: Any, run: str, mark: Path, done: int) -> None:
        """Log into a run that was begun.

        Args:
            client: What speaks with MLflow.
            run: Its number there.
            mark: The file that keeps run and last step across restarts.
            done: The last step that was logged before.
        """
        self.client, self.run, self.mark, self.done = client, run, mark, done

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log the numbers of a step, unless they were logged before a restart."""
        if step <= self.done:
            return
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        made = [Metric(key, value, now, step) for key, value in numbers.items()]
        for first in range(0, len(made), _NUMBERS):
            self.client.log_batch(self.run, metrics=made[first : first + _NUMBERS])
        text = json.dumps({"run": self.run, "step": step})
        self.mark.write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Finish the run."""
        self.client.set_terminated(self.run)


@plugin("tracker", package="mlflow")
def mlflow(
    folder: Path,
    config: Mapping[str, Any],
    step: int,
    *,
    uri: str | None = None,
    experiment: str = "decentral",
) -> Experiment:
    """A run of MLflow, by default in the folder ``mlflow`` of the run:
    ``mlflow ui --backend-store-uri RUN/mlflow/store``.

    Args:
        folder: The run folder.
        config: The resolved configuration.
        step: Step that the run begins at.
        uri: Where MLflow keeps its runs, such as ``http://HOST:5000``; none: a
            folder.
        experiment: Experiment that the run belongs to.
    """
    # MLflow 3 refuses to keep runs in files unless it is told that this is meant.
    if uri is None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    place, library = folder / "mlflow", import_module("mlflow")
    place.mkdir(exist_ok=True)
    client: Any = library.MlflowClient(uri or (place / "store").as_uri())
    mark = place / "run.json"
    if step and mark.exists():
        known: dict[str, Any] = json.loads(mark.read_text("utf-8"))
        client.update_run(known["run"], status="RUNNING")
        return Experiment(client, known["run"], mark, known["step"])
    found = client.get_experiment_by_name(experiment)
    number = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(number, run_name=folder.name).info.run_id
    from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

    # Once: MLflow refuses a setting of another value, as a longer run has it.
    given = [Param(k, str(v)[:_LETTERS]) for k, v in flatten(config).items()]
    for first in range(0, len(given), _SETTINGS):
        client.log_batch(run, params=given[first : first + _SETTINGS])
    return Experiment(client, run, mark, -1)


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
