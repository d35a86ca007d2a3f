"""What one asks of runs: side by side, merged, analyzed, exported; and what there is
to choose from. Answers are records and modules; the command line prints the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from decentral.api.run import AnyRun, Progress, run_of
from decentral.api.tables import Table
from decentral.errors import ConfigError
from decentral.limits import named_folder
from decentral.plugins import Plugin, kind_called, plain
from decentral.records import Record
from decentral.registry import KINDS, ConfiguredPlugin, build, members
from decentral.report import compare as side_by_side
from decentral.report.facts import facts_of, flatten
from decentral.signature import first_sentence
from decentral.traits import MergeTraits, traits_of
from decentral.trust import Given

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decentral.loop.trained import TrainedModels

#: A merge rule: its name, perhaps with settings, or a function.
Method = str | Mapping[str, Any] | Callable[..., Any]


# --- side by side -----------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Compared(Table):
    """Runs side by side: a record for each, with its numbers by key and the settings
    in which they differ.

    ``comparison`` is the same in words; ``page`` the page that was written, if any.
    """

    comparison: side_by_side.Comparison
    page: Path | None = None

    def write(self, out: str | Path) -> Path:
        """Write a page with the table and the curves, and return its path."""
        return side_by_side.write_comparison(self.comparison, out)


def compare(*runs: AnyRun, out: str | Path | None = None) -> Compared:
    """Put runs side by side.

    Args:
        runs: Runs, or their folders.
        out: A page to write, with the table and the curves.

    Raises:
        ConfigError: No run was given, one is none, or the folder of ``out`` is
            missing.
    """
    found = side_by_side.compare([run_of(run).path for run in runs])
    records: list[Mapping[str, Any]] = []
    for row, data in zip(found.rows, found.runs, strict=True):
        facts, settings = facts_of(data), flatten(data.config)
        keys = [f"{facts.metric}/{role}" for role in side_by_side.SCORES.values()]
        keys += [one.key for one in found.listed]
        numbers = {key: facts.values[key] for key in keys if key in facts.values}
        differing = {key: settings.get(key) for key in found.differing}
        records.append({"run": row["run"], **numbers, **differing})
    page = None if out is None else side_by_side.write_comparison(found, out)
    return Compared(records, found, page)


# --- merged -----------------------------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """The one model that a merge rule makes of all models of a run.

    ``scores`` are what the metrics of the run say of it on test data, by key
    (``accuracy/merged``); ``distance`` is how far its parameters are from the plain
    average.
    """

    rule: ConfiguredPlugin
    step: int
    scores: Mapping[str, float]
    distance: float
    _models: TrainedModels = field(repr=False)
    _row: Tensor = field(repr=False)

    @property
    def method(self) -> str:
        """The name of the rule."""
        return self.rule.name

    def model(self) -> nn.Module:
        """Return it as a module in evaluation mode, BatchNorm re-estimated."""
        return self._models.setup.module(self.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Return its parameters and buffers, on the CPU."""
        return self._models.merged_state(self._row)


@dataclass(frozen=True, repr=False)
class Merges(Table):
    """What several rules make of the same models; the first records are of the local
    models: their mean, and the best.

    ``merged`` are the merged models, in the order of the rules; ``shown`` the records
    of what is in the columns.
    """

    nodes: int
    step: int
    merged: Sequence[Merged]
    shown: Sequence[Record]


@overload
def merge(
    run: AnyRun,
    method: Method,
    *,
    at: int | None = None,
    watch: Progress | None = None,
    trust: Given = False,
) -> Merged: ...
@overload
def merge(
    run: AnyRun,
    method: list[Method] | tuple[Method, ...] | None = None,
    *,
    at: int | None = None,
    watch: Progress | None = None,
    trust: Given = False,
) -> Merges: ...
def merge(
    run: AnyRun,
    method: Method | list[Method] | tuple[Method, ...] | None = None,
    *,
    at: int | None = None,
    watch: Progress | None = None,
    trust: Given = False,
) -> Merged | Merges:
    """Merge the models of a run by another rule than its own, or by several.

    Args:
        run: A run, or its folder.
        method: A merge rule, such as ``"fisher"``: the answer is the merged model. A
            list of them, or none for all there are: the answer is a table.
        at: The step of a checkpoint; unless given, the newest in which models
            differ.
        watch: Told which rule is at work, how many are done, and how many there are.
        trust: Digests of code that the run names, or True, as for `resume`.
    """
    found = run_of(run).trusting(trust, method)
    one = not isinstance(method, list | tuple | None)
    asked: Any = [method] if one else method
    rules = None if asked is None else [build("merge", each) for each in asked]
    models = found.trained(at)
    merged = _merge_all(models, rules, watch or _ignore)
    if one:
        return merged[0]
    judged = merged[0].scores if merged else models.judge(models.rows.mean(0))
    shown = models.judges[1].merged(judged)
    local = [
        {"merge": name, **{each.of_merge: each.local(judged, best) for each in shown}}
        for name, best in (("the mean model", False), ("the best model", True))
    ]
    made = [
        {"merge": each.method, **{r.of_merge: each.scores.get(r.key) for r in shown}}
        | {"distance": each.distance}
        for each in merged
    ]
    return Merges([*local, *made], len(models.rows), models.step, merged, shown)


def _merge_all(
    models: TrainedModels, rules: Sequence[ConfiguredPlugin] | None, watch: Progress
) -> list[Merged]:
    from decentral.merging.base import merge_models

    known, mean = models.models(), models.rows.mean(0)
    chosen = list(_fitting(len(models.rows))) if rules is None else rules
    merged: list[Merged] = []
    for done, rule in enumerate(chosen):
        watch(rule.name, done, len(chosen))
        row = merge_models(rule, known)
        # Weights only: running statistics of normalisations follow them in a row.
        away = (row - mean)[: known.layout.trainable].norm().item()
        merged.append(Merged(rule, models.step, models.judge(row), away, models, row))
    return merged


def _fitting(nodes: int) -> Iterator[ConfiguredPlugin]:
    """Yield every rule that takes so many models."""
    for one in members("merge")[0]:
        if traits_of(one, MergeTraits).nodes in (None, nodes):
            yield build("merge", one.name)


def _ignore(what: str, done: int, of: int) -> None:
    """Tell nobody."""


# --- analyzed, exported -----------------------------------------------------------


def analyze(
    run: AnyRun,
    *,
    at: int | None = None,
    out: str | Path | None = None,
    pairs: int = 8,
    points: int = 25,
    samples: int = 1024,
    seed: int = 0,
    watch: Progress | None = None,
    trust: Given = False,
) -> dict[str, Any]:
    """Measure how mergeable the models of a run are, and return it as plain data.

    Args:
        run: A run, or its folder.
        at: The step of a checkpoint; unless given, the newest in which models
            differ.
        out: A folder to write ``analysis.html``, ``.json`` and ``.png`` into.
        pairs: Pairs of nodes to look between.
        points: Points along a side of a plane of losses.
        samples: Samples for lines and planes.
        seed: Draws pairs, samples and directions.
        watch: Told what is being measured, how many parts are done, and how many
            there are.
        trust: Digests of code that the run names, or True, as for `resume`.
    """
    from decentral.report.studies import write_analysis

    found = run_of(run).trusting(trust)
    found.models_config()  # a mistake in the run comes before one in the folder
    folder = None if out is None else _make(named_folder(out))
    record = found.analyze(
        at=at, pairs=pairs, points=points, samples=samples, seed=seed, watch=watch
    )
    if folder is not None:
        write_analysis(record, folder)
    return record


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = os.strerror(error.errno or 0)
        raise ConfigError(
            f"--out {folder} cannot be written ({cause}); name a folder."
        ) from error
    return folder


def export(
    run: AnyRun,
    to: str | Path,
    *,
    method: Method | None = None,
    at: int | None = None,
    nodes: bool = False,
    trust: Given = False,
) -> dict[str, str]:
    """Write a model of a run so that it loads without decentral.

    Args:
        run: A run, or its folder.
        to: An empty folder, or a new one.
        method: A merge rule for the models of a checkpoint; unless given, the model
            is the merged one of the finished run.
        at: The step of the checkpoint; unless given, the newest in which models
            differ.
        nodes: Whether every node's model is written beside what their merge is, with
            configurations for mergekit.
        trust: Digests of code that the run names, or True, as for `resume`.

    Returns:
        The lines of Python that load it, by what they need.
    """
    found = run_of(run).trusting(trust, method)
    return found.export(to, method=method, at=at, nodes=nodes)


# --- what there is ----------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Plugins(Table):
    """What there is to choose from: a record for each, and the plug-ins by name.

    ``missing`` says of those that cannot be used here why not.
    """

    plugins: Sequence[Plugin]
    missing: Mapping[str, str]


def list_plugins(kind: str | None = None) -> Plugins:
    """List what there is to choose from, with what it is and its settings.

    Args:
        kind: A kind, such as ``"topology"`` or ``"schedules"``; all unless given.

    >>> "ring" in {one["name"] for one in list_plugins("topologies")}
    True
    """
    kinds = KINDS if kind is None else [kind_called(kind, KINDS)]
    plugins: list[Plugin] = []
    missing: dict[str, str] = {}
    for each in kinds:
        usable, broken = members(each)
        plugins += usable
        missing |= {f"{each} {name}": reason for name, reason in broken.items()}
    records = [
        {
            "kind": one.kind,
            "name": one.name,
            "about": first_sentence(one.help),
            "settings": {
                key: "required" if setting.required else plain(setting.default)
                for key, setting in one.accepts.items()
            },
        }
        for one in plugins
    ]
    return Plugins(records, plugins, missing)
