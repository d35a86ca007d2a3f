"""A run, looked at through its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from decentral.api.changing import refuse_edited
from decentral.config import LISTS, Config, Engine, make_config, merge_layers, read_file
from decentral.errors import ConfigError, RunError, nearest, shell_word
from decentral.loop.preparing import prepare
from decentral.loop.setup import write_in_list
from decentral.loop.trained import TrainedModels, differing
from decentral.registry import PYTHON
from decentral.run.checkpoint import good_checkpoints, newest_checkpoint
from decentral.run.digests import find_moved
from decentral.run.folder import FORMAT, READ, format_of, present
from decentral.spec import spell

#: Called with what is being measured, how many parts are done, and how many there
#: are.
Progress = Callable[[str, int, int], None]


class Run:
    """A finished or unfinished run: its folder, read when asked.

    ``objects`` are the parts of its configuration that were given as Python
    objects.

    >>> Run("runs/digits-ring-late-1").path.name
    'digits-ring-late-1'
    """

    def __init__(
        self, path: str | Path, objects: Mapping[str, Any] | None = None
    ) -> None:
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
        """Every logged row: a pandas frame where pandas is installed, else a dict
        of arrays.
        """
        rows = self.rows
        # Rows hold only what was measured at their step; a table needs all keys.
        keys = list(dict.fromkeys(key for row in rows for key in row))
        columns = {key: _column([row.get(key) for row in rows]) for key in keys}
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame(columns)

    def merged_model(self) -> Any:
        """Return the merged model as a ``torch.nn.Module`` in evaluation mode."""
        state = self._read_merged_state()
        setup = prepare(run_config(self.path, **self.objects))
        return setup.module(state)

    def _read_merged_state(self) -> dict[str, Any]:
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
        """Measure how mergeable the models of a checkpoint are, and return it as
        plain data.

        Barriers between ``pairs`` pairs of nodes and between as many nodes and the
        merged model, losses on two planes of ``points`` x ``points``, curvature,
        and what layers and updates have in common, on ``samples`` samples; ``seed``
        draws all of these. The models are those of the newest checkpoint in which
        they differ, or of ``step``; ``watch(what, done, of)`` is told what is being
        measured. `decentral.report.analysis` draws it.
        """
        from decentral.loop.analysis import Analysis, Extent

        extent = Extent(pairs, points, samples, seed)
        models = models_of(self.path, step, **self.objects)
        found = Analysis(models, extent, watch or (lambda what, done, of: None))
        return {"run": self.path.name, **found.record()}

    def export(self, out: str | Path, *, rule: str | None = None) -> dict[str, str]:
        """Write a model into the empty folder ``out``; return the lines that load
        it.

        It is the merged model of the finished run, or what a merge ``rule`` makes
        of the newest models that differ. The lines are by what they need: PyTorch
        alone, or transformers.
        """
        from decentral.loop.trained import by_rule, export

        if rule is not None:
            models = models_of(self.path, **self.objects)
            return export(*by_rule(models, rule, self.path.name), Path(out))
        state, summary = self._read_merged_state(), self.summary
        setup, final = prepare(run_config(self.path, **self.objects)), summary["final"]
        shown = self._data().records.merged(final)
        about = {
            "run": self.path.name,
            "merge": setup.merge.name,
            "nodes": summary["nodes"],
        }
        about["scores"] = {one.of_merge: final[one.key] for one in shown}
        return export(setup, state, about, Path(out))

    def plot(self) -> Any:
        """Return a matplotlib figure: accuracy (or loss), consensus and bytes over
        steps.
        """
        from decentral.report import figures

        return figures.overview(self._data())

    def report(self) -> Path:
        """Write ``report.html`` into the run folder and return its path."""
        from decentral.report.run import write_report

        try:
            return write_report(self.path)
        except OSError as error:
            cause = os.strerror(error.errno or 0)
            raise RunError(
                f"the report of run {self.path} cannot be written ({cause}); "
                f"make room, then `decentral report {shell_word(self.path)}`."
            ) from error

    def _data(self) -> Any:
        from decentral.report.reader import read_run

        return read_run(self.path)


def _column(values: list[Any]) -> Any:
    """Return numbers as an array of numbers, NaN where there is none; anything else
    as objects.
    """
    import numpy as np

    if any(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    return np.array([np.nan if value is None else value for value in values])


def run_config(
    path: str | Path,
    *,
    goes_on: bool = False,
    change: Mapping[str, Any] | None = None,
    **objects: Any,
) -> Config:
    """Read a run folder's configuration.

    Args:
        path: The run folder.
        goes_on: Whether the run will be trained on: then all that its configuration
            says must be known, and its format the present one.
        change: Settings that are no longer what they were.
        objects: Parts that were given from Python, and where it runs now.
    """
    stored = run_settings(path, goes_on=goes_on)
    settings = stored | _elsewhere(stored, objects)
    for key in [key for key, value in settings.items() if _from_python(value)]:
        if objects.get(key) is None:
            raise ConfigError(
                f"run {path}: its {key} {'were' if key in LISTS else 'was'} given from Python; "
                f"use decentral.resume({str(path)!r}, {key}=...)."
            )
        settings[key] = objects[key]
    changed = {key.partition(".")[0] for key in change or ()}
    if "data" in changed or (settings.get("data") is not None and "batch" in changed):
        settings["steps"] = None  # they follow from those
    config = make_config(
        {k: v for k, v in settings.items() if v is not None}, change or {}
    )
    _check_lists(path, stored, config, goes_on)
    there, here = stored["engine"].get("wire", "same"), config.engine.wire
    if goes_on and there != here:
        raise ConfigError(
            f"engine.wire cannot change when a run goes on ({there} there, {here} here): "
            "it is part of the result."
        )
    return config


def _check_lists(
    path: str | Path, stored: Mapping[str, Any], config: Config, goes_on: bool
) -> None:
    """Refuse a list, some of which was given from Python, that is not the one of a run.

    Args:
        path: The run folder.
        stored: Its settings.
        config: The configuration as it is given again.
        goes_on: Whether the run will be trained on: else no list changes its models.
    """
    for key in LISTS if goes_on else ():
        now = [write_in_list(one) for one in getattr(config, key)]
        if PYTHON in (stored.get(key) or ()) and now != stored[key] and key != "faults":
            raise ConfigError(
                f"run {path}: its {key} were {spell(stored[key])}; give them again so, a "
                "function in the place of each python."
            )


def run_settings(path: str | Path, *, goes_on: bool = False) -> dict[str, Any]:
    """Read the settings that a run folder keeps, as the present format has them.

    Args:
        path: The run folder.
        goes_on: Whether the run will be trained on; a reader takes another format,
            and leaves out settings that a later version has added.
    """
    source = Path(path) / "config.yaml"
    if not source.exists():
        siblings = [p.parent.name for p in Path(path).parent.glob("*/config.yaml")]
        hint = nearest(Path(path).name, siblings)
        raise ConfigError(f"{path} is not a run folder: it has no config.yaml.{hint}")
    settings = present(read_file(source), _readable(path, goes_on))
    engine = settings.get("engine", {})
    strangers = [key for key in settings if key not in Config.model_fields]
    strangers += [f"engine.{key}" for key in engine if key not in Engine.model_fields]
    if strangers and goes_on:
        raise ConfigError(
            f"run folder {path} holds the setting {strangers[0]!r}, which this version of "
            "decentral does not know; its env.json names the version to use."
        )
    inside = {key: value for key, value in engine.items() if key in Engine.model_fields}
    known = {key: value for key, value in settings.items() if key in Config.model_fields}
    find_moved(Path(path), known)
    return known | {"engine": inside}


def _readable(path: str | Path, goes_on: bool) -> int:
    """Return the format of a run folder, if it can be read, or gone on with."""
    found = format_of(Path(path) / "config.yaml")
    name = "an unknown format" if found is None else f"format {found}"
    if goes_on and found in READ and found != FORMAT:
        raise ConfigError(
            f"run folder {path} is in {name}, which is read only; this version of decentral goes "
            f"on with runs of format {FORMAT}. Its env.json names the version to use."
        )
    if found is None or found not in READ:
        raise ConfigError(
            f"run folder {path} is in {name}; this version of decentral reads formats "
            f"{' and '.join(map(str, READ))}. Its env.json names the version to use."
        )
    return found


def _from_python(value: Any) -> bool:
    """Whether a setting, or one of a list, was an object that no file holds."""
    return value == PYTHON or (isinstance(value, list) and PYTHON in value)


def _elsewhere(stored: Mapping[str, Any], objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given anew of where a run is: of its engine, above what was
    stored.
    """
    found = {key: objects[key] for key in ("faults",) if key in objects}
    given = {key: objects[key] for key in objects if key.partition(".")[0] == "engine"}
    if given:
        asked = merge_layers(given)["engine"]
        # without a name: several workers now
        local = stored["engine"].get("name") == "local"
        below = {"name": "auto"} if local else stored["engine"]
        found |= merge_layers({"engine": below}, {"engine": asked})
    return found


def models_of(path: Path, step: int | None = None, **objects: Any) -> TrainedModels:
    """Return the models of a run: of a checkpoint, or the newest one in which they
    differ.
    """
    setup = prepare(run_config(path, **objects))
    # which says what is wrong
    saved = list(good_checkpoints(path)) or [newest_checkpoint(path)]
    refuse_edited(saved[0], run_settings(path))
    if step is None:
        return differing(setup, saved)
    for each in saved:
        if each.step == step:
            return TrainedModels(setup, each)
    there = ", ".join(str(each.step) for each in reversed(saved))
    raise ConfigError(f"run {path} has no checkpoint of step {step}; there are {there}.")
