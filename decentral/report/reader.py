"""A run folder, read into memory; whatever an unfinished run lacks is absent."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from decentral.config import read_file
from decentral.errors import ConfigError
from decentral.limits import JSON_BYTES, LINES_BYTES, open_file, parse_json, read_bytes
from decentral.records import Record, Records, read_records, records_of
from decentral.report.lines import add_to_digest, sample_lines
from decentral.run.digests import format_of, is_sealed, present

Row = Mapping[str, Any]
T = TypeVar("T")

#: Log lines, and evaluations, that a page or table needs at least to show how a run
#: went: a curve has no more pixels.
MOST_RECORDS = 1000

_REQUIRED = ("config.yaml", "metrics.jsonl")
#: What tells a run from a project, whose configuration stands alone.
_PARTS = ("config.yaml", "events.jsonl", "metrics.jsonl", "summary.json")
#: What a summary says of files, which are no results.
_STATED = ("digests", "sha256")


@dataclass(frozen=True, slots=True)
class Topology:
    """Who may send to whom: ``nodes`` vertices and the links between their ids."""

    nodes: int
    links: tuple[tuple[int, int], ...]
    directed: bool = False
    time_varying: bool = False


@dataclass(frozen=True, slots=True)
class Shards:
    """Samples per node: one row per node, one column per class (one column without classes)."""

    counts: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class RunData:
    """The content of a run folder; ``summary``, ``topology`` and ``shards`` may be missing."""

    path: Path
    config: Row
    env: Row
    metrics: tuple[Row, ...]
    events: tuple[Row, ...]
    summary: Row | None
    topology: Topology | None
    shards: Shards | None
    records: Records

    @property
    def name(self) -> str:
        """Return the name of the run, which is that of its folder."""
        return self.path.name

    @cached_property
    def metric(self) -> str:
        """Return the group of keys that judges the run."""
        return self.records.score(self.logged)

    @cached_property
    def logged(self) -> list[str]:
        """Return the keys of all rows and of the summary, in the order in which
        they came.
        """
        rows = dict.fromkeys(key for row in self.metrics for key in row)
        ends = ((self.summary or {}).get(part) or {} for part in ("final", "counters"))
        # Dictionaries as ordered sets: metrics keep the order in which they were
        # asked for.
        return list(rows | dict.fromkeys(key for end in ends for key in end))

    def record(self, role: str) -> Record:
        """Return the record of what judges the run, for ``merged``, ``local_mean``,
        ...
        """
        return self.records.of(f"{self.metric}/{role}")

    @property
    def steps(self) -> int | None:
        """Return the planned number of steps, or ``None`` where the run does not
        say.
        """
        planned = self.number("steps")
        if planned is None and _is_number(self.config.get("steps")):
            planned = float(self.config["steps"])
        return None if planned is None else int(planned)

    @property
    def last_step(self) -> int:
        """Return the last logged step, 0 before the first."""
        return max((int(row["step"]) for row in self.metrics), default=0)

    @property
    def merged(self) -> bool:
        """Tell whether the run ended in one global merge, its last action."""
        return any(row.get("phase") == "before_merge" for row in self.metrics)

    def series(self, key: str, *, final: bool = False) -> tuple[list[int], list[float]]:
        """Return the steps and finite values of one metric, the final merge only if
        ``final``.
        """
        steps, values, _ = self.pair(key, key, final=final)
        return steps, values

    def pair(
        self, key: str, other: str, *, final: bool = False
    ) -> tuple[list[int], list[float], list[float]]:
        """Return steps, values of ``key`` and the latest value of ``other`` at each
        of them.
        """
        steps: list[int] = []
        values: list[float] = []
        others: list[float] = []
        latest: float | None = None
        for row in self.metrics:
            # After the merge all models are the same one: a curve of local models
            # ends before it.
            if row.get("phase") == "final" and self.merged and not final:
                continue
            # Counters and metrics are not always in the same row: the last value
            # known counts.
            latest = float(row[other]) if _is_number(row.get(other)) else latest
            if _is_number(row.get(key)) and latest is not None:
                steps.append(int(row["step"]))
                values.append(float(row[key]))
                others.append(latest)
        return steps, values, others

    def last(self, key: str, *, final: bool = False) -> float | None:
        """Return the last finite value of a metric, or ``None`` where it was never
        logged.
        """
        values = self.series(key, final=final)[1]
        return values[-1] if values else None

    def number(self, dotted: str) -> float | None:
        """Return a number of the summary such as ``final.loss/merged``, or
        ``None``.
        """
        value: Any = self.summary
        for part in dotted.split("."):
            value = cast(Row, value).get(part) if isinstance(value, Mapping) else None
        return float(value) if _is_number(value) else None


def read_run(path: str | Path, *, whole: bool = False) -> RunData:
    """Read a run folder; a last line cut off by a kill is ignored.

    Args:
        path: The folder.
        whole: Whether all records of metrics are wanted; otherwise, of more than
            ``2 * MOST_RECORDS``, an evenly spread part.

    Raises:
        ConfigError: The folder is missing, is not a run, or holds a file that
            cannot be read.
    """
    folder = Path(path)
    _check_is_run(folder)
    summary = read_summary(folder)
    stated: Mapping[str, str] = (summary or {}).get("digests", {})
    files = _Files(folder, stated)
    return RunData(
        path=folder.resolve(),
        config=_config(folder / "config.yaml"),
        env=files.read_json("env.json") or {},
        metrics=files.read_lines("metrics.jsonl", None if whole else MOST_RECORDS),
        events=files.read_lines("events.jsonl"),
        summary=summary and _result(summary),
        topology=files.parse("topology.json", _topology),
        shards=files.parse("data.json", _shards),
        records=files.read_records(),
    )


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a run as it is written; None: it is not finished.

    Raises ConfigError where it is not what the run has written.
    """
    path = folder / "summary.json"
    loaded = _Files(folder, {}).read_json(path.name)
    if loaded is not None and not is_sealed(loaded):
        raise _make_broken(path, "it is not what it was: its digest differs")
    if loaded is not None and not isinstance(loaded.get("digests", {}), dict):
        raise _make_broken(path, "its digests are none")
    return loaded


def read_whole(folder: Path, name: str) -> bytes:
    """Return a file of a run, as the run has left it.

    Raises ConfigError where it cannot be read, or is not what the summary says that
    it was.
    """
    stated: Mapping[str, str] = (read_summary(folder) or {}).get("digests", {})
    return _Files(folder, stated).read(name, LINES_BYTES)


def _config(path: Path) -> Row:
    try:
        return present(read_file(path), format_of(path))
    except AttributeError as error:  # an engine of format 2 that is none
        raise _make_broken(path, error) from error


def is_run(folder: Path) -> bool:
    """Whether a run has written into a folder, whatever has become of it."""
    held = [name for name in _PARTS if os.path.lexists(folder / name)]
    return "config.yaml" in held and len(held) > 1


def _check_is_run(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of a run.")
    missing = [name for name in _REQUIRED if not os.path.lexists(folder / name)]
    # One that failed before its first evaluation is a run, too.
    if missing and (not is_run(folder) or os.path.lexists(folder / "summary.json")):
        raise ConfigError(
            f"{folder}: not a run folder, {' and '.join(missing)} missing; "
            "give the folder that a run has written (it holds config.yaml and metrics.jsonl)."
        )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


@dataclass(frozen=True)
class _Files:
    """The files of a folder, with the digests that they had when the run ended."""

    folder: Path
    stated: Mapping[str, str]

    def read(self, name: str, most: int) -> bytes:
        """Return a file; raises ConfigError where it is not what it was."""
        path = self.folder / name
        try:
            data = read_bytes(path, most)
        except OSError as error:
            raise _make_broken(path, error.strerror) from error
        self._check(name, hashlib.sha256(data).hexdigest())
        return data

    def _check(self, name: str, digest: str) -> None:
        if self.stated.get(name) not in (None, digest):
            said = "it is not what it was: its digest differs"
            raise _make_broken(self.folder / name, said)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON object, None where there is no such file."""
        path = self.folder / name
        if not os.path.lexists(path):
            return None
        try:
            loaded = parse_json(self.read(name, JSON_BYTES))
        except ConfigError:
            raise
        except ValueError as error:
            raise _make_broken(path, error) from error
        if loaded is not None and not isinstance(loaded, dict):
            raise _make_broken(path, "not a JSON object")
        return cast("dict[str, Any] | None", loaded)

    def read_lines(self, name: str, most: int | None = None) -> tuple[Row, ...]:
        """Return the objects of a file of lines; of very many, ``most`` of each
        sort.

        One that a kill has cut is none.
        """
        path, digest = self.folder / name, hashlib.sha256()
        if not os.path.lexists(path):
            return ()
        try:
            # Bytes: a line cut off within a character must not hide the others.
            with open_file(path, LINES_BYTES) as file:
                lines = sample_lines(add_to_digest(file, digest), most)
        except OSError as error:
            raise _make_broken(path, error.strerror) from error
        self._check(name, digest.hexdigest())
        rows: list[Row] = []
        for number, line in lines:
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    continue  # The writer was killed within its last line.
                raise _make_broken(path, f"line {number}: {error}") from error
            if not isinstance(row, dict) or not _is_number(cast(Row, row).get("step")):
                said = f"line {number} is not an object with a numeric step"
                raise _make_broken(path, said)
            rows.append(cast(Row, row))
        return tuple(rows)

    def parse(self, name: str, parse: Callable[[Row], T]) -> T | None:
        """Return what a JSON object says, None where there is no such file."""
        loaded = self.read_json(name)
        if loaded is None:
            return None
        try:
            return parse(loaded)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise _make_broken(
                self.folder / name, f"{type(error).__name__}: {error}"
            ) from error

    def read_records(self) -> Records:
        """Read what the run's metrics declared, in older runs what built-in ones
        do.
        """
        name = "records.json"
        if not os.path.lexists(self.folder / name):
            from decentral.metrics.base import built_in_records

            return records_of(built_in_records())
        try:
            loaded = parse_json(self.read(name, JSON_BYTES))
            return records_of(read_records(loaded))
        except ConfigError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise _make_broken(self.folder / name, error) from error


def _result(loaded: Row) -> Row:
    """Give the numbers of a summary the keys of the rows, as older runs spelt them
    otherwise.

    What they called ``final.loss_merged`` is ``final.loss/merged``; ``comm.bytes``
    is ``counters.comm/bytes``.
    """
    if "counters" in loaded or "final" not in loaded:
        return {key: value for key, value in loaded.items() if key not in _STATED}
    known = dict(loaded)
    groups = {group: known.pop(group, {}) for group in ("comm", "time")}
    for moment in ("final", "before_merge"):
        scores: Row = known.get(moment, {})
        known[moment] = {
            key.replace("_", "/", 1): value
            for key, value in scores.items()
            if value is not None
        }
    known["counters"] = {
        f"{group}/{name}": value
        for group, numbers in groups.items()
        for name, value in numbers.items()
        if value is not None
    }
    return known


def _topology(loaded: Row) -> Topology:
    nodes = int(loaded["n"])
    links = tuple((int(a), int(b)) for a, b in loaded["links"])
    if any(not 0 <= end < nodes for link in links for end in link):
        raise ValueError(f"a link leaves the nodes 0..{nodes - 1}")
    return Topology(
        nodes, links, bool(loaded.get("directed")), bool(loaded.get("time_varying"))
    )


def _shards(loaded: Row) -> Shards:
    counts = tuple(tuple(int(count) for count in row) for row in loaded["counts"])
    classes = (
        None if loaded.get("classes") is None else tuple(map(str, loaded["classes"]))
    )
    width = 1 if classes is None else len(classes)
    if any(len(row) != width for row in counts):
        raise ValueError(f"every node needs {width} counts")
    return Shards(counts, classes)


def _make_broken(path: Path, reason: object) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be read ({reason}); restore the file or run again."
    )
