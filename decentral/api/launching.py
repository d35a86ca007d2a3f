"""The library's door: launch a run, resume it, look at it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from decentral.config import PARTS, Config, by_name, make_config, read_file, read_settings
from decentral.engines import engine_of
from decentral.engines.base import EngineRun, given_up
from decentral.engines.ranks import refuse_ranks
from decentral.errors import ConfigError, RunError, nearest
from decentral.loop.afterwards import Afterwards, differing
from decentral.loop.setup import Setup, prepare
from decentral.registry import PYTHON
from decentral.run.checkpoint import good_checkpoints, has_checkpoint, newest_checkpoint
from decentral.run.folder import FORMAT, RunFolder

#: Called with every row of metrics that is logged.
Watch = Callable[[dict[str, Any]], None]
#: Called with what is being measured, how many parts are done, and how many there are.
Progress = Callable[[str, int, int], None]


#: Settings of a run that may change when it goes on: they are no part of its result.
WHEREABOUTS = (
    "engine", "workers", "address", "placement", "on_failure", "max_failures", "liveness_s",
    "progress_s", "dashboard_port", "faults",
)  # fmt: skip


class Run:
    """A finished or unfinished run: its folder, read when asked.

    ``objects`` are the parts of its configuration that were given as Python objects.

    >>> Run("runs/digits-ring-late-1").path.name
    'digits-ring-late-1'
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any] | None = None) -> None:
        """Look at the run in a folder."""
        self.path, self.objects = Path(path), dict(objects or {})

    def __repr__(self) -> str:
        """Say where the run is."""
        return f"Run({str(self.path)!r})"

    @property
    def summary(self) -> dict[str, Any]:
        """The headline numbers, nested as in ``summary.json``."""
        return self._data().summary

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every logged row; a row holds only what was measured at its step."""
        return [dict(row) for row in self._data().metrics]

    @property
    def metrics(self) -> Any:
        """Every logged row: a pandas frame where pandas is installed, else a dict of arrays."""
        rows = self.rows
        keys = list(dict.fromkeys(key for row in rows for key in row))
        columns = {key: _column([row.get(key) for row in rows]) for key in keys}
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame(columns)

    def merged_model(self) -> Any:
        """Return the merged model as a ``torch.nn.Module`` in evaluation mode."""
        state = self._merged_state()
        setup = prepare(run_config(self.path, **self.objects))
        setup.model.load_state_dict(state)
        return setup.model.eval()

    def _merged_state(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        if not (self.path / "merged.safetensors").exists():
            raise ConfigError(f"run {self.path} has no merged model; it did not finish.")
        return load_file(self.path / "merged.safetensors")

    def analyze(
        self,
        *,
        step: int | None = None,
        pairs: int = 8,
        points: int = 25,
        samples: int = 1024,
        seed: int = 0,
        watch: Progress | None = None,
    ) -> dict[str, Any]:
        """Measure how mergeable the models of a checkpoint are, and return it as plain data.

        Barriers between ``pairs`` pairs of nodes and between as many nodes and the merged model,
        losses on two planes of ``points`` x ``points``, curvature, and what layers and updates have
        in common, on ``samples`` samples; ``seed`` draws all of these. The models are those of the
        newest checkpoint in which they differ, or of ``step``; ``watch(what, done, of)`` is told
        what is being measured. `decentral.report.analysis` draws it.
        """
        from decentral.loop.analysis import Analysis, Extent

        extent = Extent(pairs, points, samples, seed)
        models = models_of(self.path, step, **self.objects)
        found = Analysis(models, extent, watch or (lambda what, done, of: None))
        return {"run": self.path.name, **found.record()}

    def export(self, out: str | Path, *, rule: str | None = None) -> dict[str, str]:
        """Write a model into the empty folder ``out``; return the lines that load it.

        It is the merged model of the finished run, or what a merge ``rule`` makes of the newest
        models that differ. The lines are by what they need: PyTorch alone, or transformers.
        """
        from decentral.loop.export import by_rule, export

        if rule is not None:
            models = models_of(self.path, **self.objects)
            return export(*by_rule(models, rule, self.path.name), Path(out))
        state, summary = self._merged_state(), self.summary
        setup, final = prepare(run_config(self.path, **self.objects)), summary["final"]
        scores = {name: final.get(f"{name}/merged") for name in ("accuracy", "loss")}
        about = {"run": self.path.name, "merge": setup.merge.name, "nodes": summary["nodes"]}
        about |= scores
        return export(setup, state, about, Path(out))

    def plot(self) -> Any:
        """Return a matplotlib figure: accuracy (or loss), consensus and bytes over steps."""
        from decentral.report import figures

        return figures.overview(self._data())

    def report(self) -> Path:
        """Write ``report.html`` into the run folder and return its path."""
        from decentral.report.html import write_report

        try:
            return write_report(self.path)
        except OSError as error:
            cause = os.strerror(error.errno or 0)
            raise RunError(
                f"the report of run {self.path} cannot be written ({cause}); "
                f"make room, then `decentral report {self.path}`."
            ) from error

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
    >>> run.summary["counters"]["comm/rounds"]  # doctest: +SKIP
    20
    """
    layers = [read_settings(config)] if config is not None else []
    given = by_name({key: value for key, value in settings.items() if value is not None})
    return _train(start(make_config(*layers, given)), settings, watch)


def start(config: Config) -> EngineRun:
    """Prepare a run and open its folder; ``EngineRun.run`` trains it."""
    refuse_ranks(config)
    with ExitStack() as undo:
        run = undo.enter_context(closing(engine_of(config)(config)))
        if config.out:
            folder = undo.enter_context(RunFolder.create(config.out))
            _refuse_other(run, folder)
        else:
            folder = undo.enter_context(RunFolder.number(Path("runs"), _stem(run.setup)))
        run.begin(folder)
        undo.pop_all()
    return run


def _refuse_other(run: EngineRun, folder: RunFolder) -> None:
    """Refuse to begin where a run of another configuration has begun; ``auto`` is any value."""
    asked = {key for key, value in run.setup.config if value not in ("auto", "tune")}
    for key, (there, here) in folder.differences(run.settings).items():
        if key in asked - {*WHEREABOUTS, "out"}:
            raise ConfigError(
                f"{folder.path} holds a run of another configuration ({key}: {there} there, {here} "
                "here) that ended before its first checkpoint; choose another --out, or begin that "
                f"one again with `decentral resume {folder.path}`."
            )


def _train(run: EngineRun, given: dict[str, Any], watch: Watch | None) -> Run:
    done = Run(run.folder.path, by_name(given))
    for note in run.setup.notes:
        run.say(note)
    run.run(watch or (lambda row: None))
    done.report()
    return done


def _stem(setup: Setup) -> str:
    """Name a run after what runs are compared by: task, topology and communication."""
    talks = ("topology", "communication") if setup.conversation else ("algorithm",)
    names = [setup.parts[kind].name if kind in setup.parts else "own" for kind in ("task", *talks)]
    return "-".join(Path(name).stem for name in names)


def _column(values: list[Any]) -> Any:
    """Return numbers as an array of numbers, NaN where there is none; anything else as objects."""
    import numpy as np

    if any(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    return np.array([np.nan if value is None else value for value in values])


def run_config(path: str | Path, **objects: Any) -> Config:
    """Read a run folder's configuration; ``objects`` replace parts that were given from Python."""
    source = Path(path) / "config.yaml"
    if not source.exists():
        siblings = [p.parent.name for p in Path(path).parent.glob("*/config.yaml")]
        hint = nearest(Path(path).name, siblings)
        raise ConfigError(f"{path} is not a run folder: it has no config.yaml.{hint}")
    head = source.read_text(encoding="utf-8").partition("\n")[0]
    if f"format {FORMAT}:" not in head:
        found = re.search(r"format \d+", head)
        raise ConfigError(
            f"run folder {path} is in {found[0] if found else 'an unknown format'}; this version "
            f"of decentral reads format {FORMAT}. Its env.json names the version to use."
        )
    settings = read_file(source)
    elsewhere = {key: value for key, value in objects.items() if key in WHEREABOUTS}
    settings |= elsewhere
    for key in [key for key, value in settings.items() if value == PYTHON]:
        if objects.get(key) is None:
            raise ConfigError(
                f"run {path}: its {key} was given from Python; "
                f"use decentral.resume({str(path)!r}, {key}=...)."
            )
        settings[key] = objects[key]
    return make_config({k: v for k, v in settings.items() if v is not None})


def models_of(path: Path, step: int | None = None, **objects: Any) -> Afterwards:
    """Return the models of a run: of a checkpoint, or the newest one in which they differ."""
    setup = prepare(run_config(path, **objects))
    saved = list(good_checkpoints(path)) or [newest_checkpoint(path)]  # which says what is wrong
    if step is None:
        return differing(setup, saved)
    for each in saved:
        if each.step == step:
            return Afterwards(setup, each)
    there = ", ".join(str(each.step) for each in reversed(saved))
    raise ConfigError(f"run {path} has no checkpoint of step {step}; there are {there}.")


def resume(path: str | Path, *, watch: Watch | None = None, **objects: Any) -> Run:
    """Continue an interrupted run from its newest checkpoint; the result is as if it never stopped.

    One that ended before its first checkpoint begins again. Parts that were Python objects (a task,
    a schedule, ...) must be given again; settings that say where it runs (``workers``, ``address``,
    ...) may be given anew. Raises RunError when every checkpoint is damaged, ConfigError when the
    folder is not a run, or while another process writes into it.
    """
    return _train(restart(path, **objects), objects, watch)


def begun(config: Config, path: Path) -> EngineRun:
    """Prepare a run in a folder of its own: from its newest checkpoint, or from the beginning.

    What a run has left there that ended before its first checkpoint is removed.
    """
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(path))
        if has_checkpoint(path):
            run = undo.enter_context(_going_on(folder, run_config(path)))
        else:
            folder.clear()
            config = config.model_copy(update={"out": str(path)})
            run = undo.enter_context(closing(engine_of(config)(config)))
            folder.prepare()
            run.begin(folder)
        undo.pop_all()
    return run


def restart(path: str | Path, **objects: Any) -> EngineRun:
    """Prepare a run from its newest checkpoint; ``EngineRun.run`` goes on with it."""
    if fixed := [key for key in objects if key not in {*WHEREABOUTS, *PARTS}]:
        raise ConfigError(
            f"{fixed[0]} cannot change when a run goes on; only where it runs can: "
            f"{', '.join(WHEREABOUTS)}."
        )
    config = run_config(path, **objects)
    refuse_ranks(config)
    _refuse_finished(Path(path))  # without touching its folder
    with ExitStack() as undo:
        folder = undo.enter_context(RunFolder.claim(Path(path)))
        run = undo.enter_context(_going_on(folder, config))
        undo.pop_all()
    return run


def _going_on(folder: RunFolder, config: Config) -> closing[EngineRun]:
    """Return a run that stands at a folder's newest checkpoint, or else at its beginning."""
    _refuse_finished(folder.path)
    saved = newest_checkpoint(folder.path) if has_checkpoint(folder.path) else None
    run = engine_of(config)(config)
    with given_up(run):
        if saved:
            run.go_on(folder, saved)
        else:
            folder.prepare()
            run.begin(folder)
    return closing(run)


def _refuse_finished(folder: Path) -> None:
    if (folder / "summary.json").exists():
        raise ConfigError(f"run {folder} is finished; `decentral report {folder}` shows it.")


__all__ = [
    "Run",
    "RunError",
    "begun",
    "launch",
    "models_of",
    "restart",
    "resume",
    "run_config",
    "start",
]
