"""The library's door: launch a run, resume it, look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from decentral.config import Config, make_config, read_file
from decentral.engines.local import LocalRun
from decentral.errors import ConfigError, RunError, nearest
from decentral.registry import Bound
from decentral.run.checkpoint import load_checkpoint
from decentral.run.folder import FORMAT, RunFolder, next_name

#: Called with every row of metrics that is logged.
Watch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run: its folder, read when asked.

    >>> run = Run(Path("runs/digits-ring-late-1"))
    >>> run.path.name
    'digits-ring-late-1'
    """

    path: Path
    task: Any = None
    model: Any = None

    @property
    def summary(self) -> dict[str, Any]:
        """The headline numbers, nested as in ``summary.json``."""
        return self._data().summary

    @property
    def metrics(self) -> Any:
        """Every logged row: a pandas frame where pandas is installed, else a dict of arrays."""
        import numpy as np

        rows = self._data().metrics
        keys = list(dict.fromkeys(key for row in rows for key in row))
        columns = {key: np.array([row.get(key, np.nan) for row in rows]) for key in keys}
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame(columns)

    def merged_model(self) -> Any:
        """Return the merged model as a ``torch.nn.Module`` in evaluation mode."""
        from safetensors.torch import load_file

        from decentral.loop.setup import prepare

        if not (self.path / "merged.safetensors").exists():
            raise ConfigError(f"run {self.path} has no merged model; it did not finish.")
        setup = prepare(run_config(self.path, task=self.task, model=self.model))
        setup.model.load_state_dict(load_file(self.path / "merged.safetensors"))
        return setup.model.eval()

    def plot(self) -> Any:
        """Return a matplotlib figure: accuracy (or loss), consensus and bytes over steps."""
        from decentral.report import figures

        return figures.overview(self._data())

    def report(self) -> Path:
        """Write ``report.html`` into the run folder and return its path."""
        from decentral.report.html import write_report

        return write_report(self.path)

    def _data(self) -> Any:
        from decentral.report.reader import read_run

        return read_run(self.path)


def launch(config: str | Path | None = None, *, watch: Watch | None = None, **settings: Any) -> Run:
    """Train one model on many nodes and return the finished run.

    ``config`` is a YAML file; ``settings`` are the same names as in YAML (``nodes=8``,
    ``communication="late(start=80%)"``) and win over it. Plug-ins may be given as text, mappings or
    Python objects: a function for a topology or schedule, a ``Task``, a function that builds a
    model. ``watch`` is called with every logged row.

    >>> run = launch(task="quadratic", nodes=4, steps=20, out="runs/doc")  # doctest: +SKIP
    >>> run.summary["comm"]["rounds"]  # doctest: +SKIP
    20
    """
    layers = [read_file(config)] if config is not None else []
    return _run(make_config(*layers, _by_name(settings)), settings, watch)


def _by_name(settings: dict[str, Any]) -> dict[str, Any]:
    """Map the command line's short names to those of the configuration."""
    aliases = {"schedule": "communication", "lr": "learning_rate.lr"}
    return {aliases.get(k, k): v for k, v in settings.items() if v is not None}


def _run(config: Config, given: dict[str, Any], watch: Watch | None) -> Run:
    run = LocalRun(config)
    run.begin(RunFolder.create(config.out or next_name(Path("runs"), _stem(config))))
    return _train(run, given, watch)


def _train(run: LocalRun, given: dict[str, Any], watch: Watch | None) -> Run:
    done = Run(run.folder.path, task=given.get("task"), model=given.get("model"))
    run.run(watch or (lambda row: None))
    done.report()
    return done


def _stem(config: Config) -> str:
    """Name a run after what it compares: task, topology, communication."""
    talks = config.algorithm in ("dsgd",) or isinstance(config.algorithm, dict)
    parts = [
        config.task,
        *([config.topology, config.communication] if talks else [config.algorithm]),
    ]
    return "-".join(_short(part) for part in parts)


def _short(part: Any) -> str:
    from decentral.spec import parse_spec

    if isinstance(part, str | dict):
        name = parse_spec(cast(Any, part), "part").name
        return Path(name.rpartition(":")[2] or name).stem
    return part.name if isinstance(part, Bound) else getattr(part, "__name__", "python")


def run_config(path: str | Path, **objects: Any) -> Config:
    """Read a run folder's configuration; ``objects`` replace parts that were given from Python."""
    source = Path(path) / "config.yaml"
    if not source.exists():
        siblings = [p.parent.name for p in Path(path).parent.glob("*/config.yaml")]
        hint = nearest(Path(path).name, siblings)
        raise ConfigError(f"{path} is not a run folder: it has no config.yaml.{hint}")
    head = source.read_text(encoding="utf-8").partition("\n")[0]
    if f"format {FORMAT}:" not in head:
        raise ConfigError(
            f"run folder {path} was written in another format ({head.lstrip('# ')[:60]!r}); this "
            f"version of decentral reads format {FORMAT}. Its env.json names the version to use."
        )
    settings = read_file(source)
    for key in ("task", "model"):
        if settings.get(key) == "python":
            if objects.get(key) is None:
                raise ConfigError(
                    f"run {path}: its {key} was given from Python; "
                    f"use decentral.resume({str(path)!r}, {key}=...)."
                )
            settings[key] = objects[key]
    return make_config({k: v for k, v in settings.items() if v is not None})


def resume(path: str | Path, *, watch: Watch | None = None, **objects: Any) -> Run:
    """Continue an interrupted run from its newest checkpoint; the result is as if it never stopped.

    ``task`` and ``model`` must be given again if they were Python objects. Raises RunError when
    there is nothing to resume from, ConfigError when the folder is not a run.
    """
    folder = Path(path)
    config = run_config(folder, **objects)
    if (folder / "summary.json").exists():
        raise ConfigError(f"run {folder} is finished; `decentral report {folder}` shows it.")
    checkpoint = load_checkpoint(folder)
    run = LocalRun(config)
    run.go_on(RunFolder(folder), checkpoint)
    return _train(run, objects, watch)


__all__ = ["Run", "RunError", "launch", "resume", "run_config"]
