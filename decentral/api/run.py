"""A run, looked at through its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from decentral.api.again import from_python, refuse_kept
from decentral.api.changing import refuse_edited, run_config, run_settings
from decentral.api.tables import column
from decentral.config import LISTS, PARTS, Config, refuse_unknown, resolve_aliases
from decentral.config.schema import Parts
from decentral.errors import ConfigError, RunError, shell_word
from decentral.limits import named_folder
from decentral.loop.preparing import prepare
from decentral.loop.trained import TrainedModels, differing, prepare_again
from decentral.merging.base import merge_models
from decentral.report.reader import read_whole
from decentral.run.checkpoint import good_checkpoints, newest_checkpoint
from decentral.trust import NOTHING, Given, Trust

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Nodes that are named where models are written in a line.
_NAMED = 8
#: Called with what is being measured, how many parts are done, and how many there
#: are.
Progress = Callable[[str, int, int], None]


class Run:
    """A finished or unfinished run: its folder, read when asked.

    Parts of its configuration that were Python objects are in no folder: what models
    and data are made of is given again, as ``Run(path, task=task, topology=graph)``,
    where models are asked for. Schedules, callbacks and trackers are not needed, and of
    metrics those that are not given again judge no merge.

    >>> Run("runs/digits-ring-late-1").path.name
    'digits-ring-late-1'
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any] | None = None,
        *,
        trust: Given | Trust = False,
        **parts: Unpack[Parts],
    ) -> None:
        """Look at the run in a folder.

        Args:
            path: The run folder.
            objects: Parts that were Python objects, by setting, and others that the
                folder keeps.
            trust: Digests of code that the folder names and that you have not run, as
                the refusal shows them; True for all of it.
            parts: The same by name; what the folder keeps is refused.
        """
        given = resolve_aliases({k: v for k, v in parts.items() if v is not None})
        for key, value in given.items():
            refuse_unknown(key.partition(".")[0], value)
            if key not in PARTS and key not in LISTS:
                raise ConfigError(
                    f"Run takes no {key}, which the folder keeps; it takes parts that "
                    "were given from Python, such as task and model."
                )
        self.path, self.objects = named_folder(path), {**(objects or {}), **given}
        self._named, self._newest = frozenset(given), None
        self._trust = Trust.of(trust, self.objects)

    def __repr__(self) -> str:
        """Say where the run is."""
        return f"Run({str(self.path)!r})"

    @property
    def summary(self) -> dict[str, Any]:
        """The headline numbers, nested as in ``summary.json``."""
        return self._data().summary

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every logged record; it holds only what was measured at its step."""
        return [dict(record) for record in self._data(whole=True).metrics]

    @property
    def metrics(self) -> Any:
        """Every logged record: a pandas frame, or a dict of arrays without pandas."""
        records = self.rows
        # Records hold only what was measured at their step; a table needs all keys.
        keys = list(dict.fromkeys(key for record in records for key in record))
        columns = {key: column([record.get(key) for record in records]) for key in keys}
        try:
            import pandas
        except ImportError:
            return columns
        return pandas.DataFrame(columns)

    def config(self) -> Config:
        """Return its configuration, with the parts that were given again; ConfigError
        where one is missing, or was given though the folder keeps it.
        """
        self._refuse_kept()
        return run_config(self.path, trust=self._trust, **self.objects)

    def models_config(self) -> Config:
        """Return the same without what watches training: no tracker is loaded."""
        self._refuse_kept()
        return run_config(self.path, models_only=True, trust=self._trust, **self.objects)

    def trained(self, at: int | None = None, *, needed: bool = True) -> TrainedModels:
        """Return the models of a checkpoint, or the newest in which they differ.

        Args:
            at: The step of the checkpoint.
            needed: Whether models that are all the same are refused.
        """
        self._refuse_kept()
        return models_of(self.path, at, needed=needed, trust=self._trust, **self.objects)

    def trusting(self, given: Given, *named: Any) -> Run:
        """Return the same run, with more of its code allowed.

        Args:
            given: Digests, or True for all that its folder names.
            named: What the user has written beside it.
        """
        allowed = Trust.of(given, named)
        if allowed == NOTHING:
            return self
        return Run(self.path, self.objects, trust=self._trust.joined(allowed))

    def _refuse_kept(self) -> None:
        """Raise ConfigError where a part was given that the folder keeps."""
        named = {key: self.objects[key] for key in self._named}
        refuse_kept(self.path, run_settings(self.path) if named else {}, named)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """The steps of which models are kept, ascending."""
        return tuple(sorted({one.step for one in good_checkpoints(self.path)}))

    def models(self, at: int | None = None) -> NodeModels:
        """Return the models of all nodes: a mapping from nodes to modules in
        evaluation mode.

        They are those of the checkpoint of step ``at``; unless given, of the newest
        in which they differ, before a final merge made them one.
        """
        checkpoints = list(good_checkpoints(self.path))
        newest = checkpoints[0].path if checkpoints else None
        if self._newest is None or self._newest[:2] != (at, newest):
            found = self.trained(at, needed=False)
            self._newest = (at, newest, NodeModels(found))
        return self._newest[2]

    def model(self, node: int | str, at: int | None = None) -> nn.Module:
        """Return a model as a module in evaluation mode.

        Args:
            node: The number or the label of a node; ``"merged"`` for the merged
                model, of the run's own merge rule; ``"mean"`` for the plain average.
            at: The step of a checkpoint, as for ``models``; the merged model of a
                finished run is that of its end.
        """
        if node == "merged" and at is None and self._has_merged:
            return self.merged_model()
        return self.models(at).module(node)

    def state_dict(self, node: int | str, at: int | None = None) -> dict[str, Tensor]:
        """Return the parameters and buffers of a model, on the CPU.

        Args:
            node: A node, ``"merged"`` or ``"mean"``, as for ``model``.
            at: The step of a checkpoint, as for ``model``.
        """
        if node == "merged" and at is None and self._has_merged:
            return self._read_merged_state()
        return self.models(at).state_dict(node)

    def merged_model(self) -> nn.Module:
        """Return the merged model as a module in evaluation mode."""
        state = self._read_merged_state()
        return prepare_again(self.models_config(), self.path).module(state)

    @property
    def _has_merged(self) -> bool:
        return os.path.lexists(self.path / "merged.safetensors")

    def _read_merged_state(self) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not self._has_merged:
            raise ConfigError(f"run {self.path} has no merged model; it did not finish.")
        try:
            return load(read_whole(self.path, "merged.safetensors"))
        except SafetensorError as error:
            raise ConfigError(
                f"{self.path / 'merged.safetensors'}: cannot be read ({error}); restore the "
                "file, or give --rule to merge the models of a checkpoint."
            ) from error

    def analyze(
        self,
        *,
        at: int | None = None,
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
        they differ, or of step ``at``; ``watch(what, done, of)`` is told what is
        being measured. `decentral.analyze` draws it as well.
        """
        from decentral.loop.analysis import Analysis, Extent

        extent = Extent(pairs, points, samples, seed)
        models = self.trained(at)
        found = Analysis(models, extent, watch or (lambda what, done, of: None))
        return {"run": self.path.name, **found.record()}

    def export(
        self,
        out: str | Path,
        *,
        method: Any = None,
        at: int | None = None,
        nodes: bool = False,
    ) -> dict[str, str]:
        """Write a model into the empty folder ``out``; return the lines that load
        it.

        It is the merged model of the finished run, or what a merge rule makes of the
        newest models that differ. The lines are by what they need.

        Args:
            out: An empty folder, or a new one.
            method: The merge rule.
            at: The step of the checkpoint; its models are merged by the run's own
                rule, unless ``method`` is given.
            nodes: Whether every node's model is written, too.
        """
        from decentral.loop.exporting import by_rule, export, export_nodes

        config = self.models_config()
        if method is not None or at is not None or nodes:
            models = self.trained(at)
            rule = config.merge if method is None else method
            lines = export(*by_rule(models, rule, self.path.name), Path(out))
            return lines | (export_nodes(models, Path(out)) if nodes else {})
        state, summary = self._read_merged_state(), self.summary
        if not summary:
            raise ConfigError(f"run {self.path} has no summary.json; it did not finish.")
        setup, final = prepare_again(config, self.path), summary["final"]
        shown = self._data().records.merged(final)
        about: dict[str, Any] = {"run": self.path.name, "merge": setup.merge.name}
        about |= {"nodes": summary["nodes"]}
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

    def _repr_html_(self) -> str:
        from decentral.report.run import cell_html

        try:
            return cell_html(self._data())
        except ConfigError as error:  # a folder that is not there yet, or no run
            return escape(f"{self!r}: {error}")

    def _data(self, *, whole: bool = False) -> Any:
        from decentral.report.reader import read_run

        return read_run(self.path, whole=whole)


#: A run, or the folder of one.
AnyRun = Run | str | Path


def run_of(run: AnyRun) -> Run:
    """Return a run that was given as such, or as its folder."""
    return run if isinstance(run, Run) else Run(named_folder(run))


class NodeModels(Mapping[int | str, "nn.Module"]):
    """The models of a checkpoint by node, each made when it is asked for.

    A node is its number, as listed, or its label.
    """

    def __init__(self, trained: TrainedModels) -> None:
        """Offer the models of a checkpoint."""
        self._trained, self.step = trained, trained.step

    def __repr__(self) -> str:
        """Say whose they are, and of which step."""
        labels = self._trained.setup.node_labels.labels
        named = [labels[node] for node in self]
        some = named if len(named) <= _NAMED else [*named[: _NAMED - 1], "...", named[-1]]
        return f"<models of {len(self)} nodes at step {self.step}: {', '.join(some)}>"

    def __len__(self) -> int:
        """Return how many nodes have one."""
        return len(self._trained.live)

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the nodes."""
        return iter(self._trained.live)

    def __getitem__(self, node: int | str) -> nn.Module:
        """Return the model of a node as a module in evaluation mode."""
        if isinstance(node, int) and node not in self._trained.live:
            raise KeyError(node)
        return self.module(node)

    def module(self, node: int | str) -> nn.Module:
        """Return the model of a node, ``"merged"`` or ``"mean"``."""
        return self._trained.setup.module(self.state_dict(node))

    def state_dict(self, node: int | str) -> dict[str, Tensor]:
        """Return the same as parameters and buffers, on the CPU."""
        found = self._trained
        if node == "mean":
            return found.merged_state(found.rows.mean(0))
        if node == "merged":
            return found.merged_state(merge_models(found.setup.merge, found.models()))
        return found.state(found.setup.node_labels.numbers("model", [node])[0])


def models_of(
    path: Path,
    step: int | None = None,
    *,
    needed: bool = True,
    trust: Trust = NOTHING,
    **objects: Any,
) -> TrainedModels:
    """Return the models of a run: of a checkpoint, or the newest one in which they
    differ.

    Args:
        path: The run folder.
        step: The step of the checkpoint.
        needed: Whether models that are all the same are refused.
        trust: What code the user allows the run to name.
        objects: Parts that were given from Python.
    """
    setup = prepare(run_config(path, models_only=True, trust=trust, **objects))
    # which says what is wrong
    saved = list(good_checkpoints(path)) or [newest_checkpoint(path)]
    refuse_edited(saved[0], run_settings(path))
    if step is None:
        return differing(setup, saved, needed)
    for each in saved:
        if each.step == step:
            return TrainedModels(setup, each)
    there = ", ".join(str(each.step) for each in reversed(saved))
    raise ConfigError(f"run {path} has no checkpoint of step {step}; there are {there}.")


def parts_of(run: Run) -> dict[str, Any]:
    """Return the parts that were given to a run from Python, by setting."""
    stored = run_settings(run.path)
    return {k: v for k, v in run.objects.items() if from_python(stored.get(k))}
