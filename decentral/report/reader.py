"""A run folder, read into memory; whatever an unfinished run lacks is simply
absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from decentral.config import read_file
from decentral.errors import ConfigError
from decentral.records import Record, Records, read_records, records_of
from decentral.run.folder import format_of, present

Row = Mapping[str, Any]
T = TypeVar("T")

#: Log lines, and evaluations, that a page or table needs at least to show how a run
#: went: a curve has no more pixels.
MOST_RECORDS = 1000

_REQUIRED = ("config.yaml", "metrics.jsonl")


@dataclass(frozen=True, slots=True)
class Topology:
    """Who may send to whom: ``nodes`` vertices and the links between their ids."""

    nodes: int
    links: tuple[tuple[int, int], ...]
    directed: bool = False
    time_varying: bool = False


@dataclass(frozen=True, slots=True)
class Shards:
    """Samples per node: one row per node, one column per class (one column without
    classes).
    """

    counts: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class RunData:
    """The content of a run folder; ``summary``, ``topology`` and ``shards`` may be
    missing.
    """

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
    return RunData(
        path=folder.resolve(),
        config=_config(folder / "config.yaml"),
        env=_read_json(folder / "env.json") or {},
        metrics=_read_lines(folder / "metrics.jsonl", None if whole else MOST_RECORDS),
        events=_read_lines(folder / "events.jsonl"),
        summary=_parse(folder / "summary.json", _summary),
        topology=_parse(folder / "topology.json", _topology),
        shards=_parse(folder / "data.json", _shards),
        records=_records(folder / "records.json"),
    )


def _config(path: Path) -> Row:
    return present(read_file(path), format_of(path))


def _check_is_run(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of a run.")
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
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


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _make_broken(path, error) from error
    if loaded is not None and not isinstance(loaded, dict):
        raise _make_broken(path, "not a JSON object")
    return cast("dict[str, Any] | None", loaded)


class _Sample:
    """Lines that are spread evenly over many, with the first and the last."""

    def __init__(self, most: int | None) -> None:
        """Keep ``most`` lines, or up to twice as many; None: all."""
        self.most, self.every, self.seen = most, 1, 0
        self.kept: list[tuple[int, bytes]] = []

    def add(self, number: int, line: bytes) -> None:
        """See the next line."""
        self.last = (number, line)
        if self.seen % self.every == 0:
            self.kept.append(self.last)
        self.seen += 1
        if self.most and len(self.kept) > 2 * self.most:
            self.kept, self.every = self.kept[::2], 2 * self.every

    @property
    def lines(self) -> list[tuple[int, bytes]]:
        """The lines, by their numbers."""
        whole = self.kept[-1][0] == self.last[0]
        return self.kept if whole else [*self.kept, self.last]


def _sampled(file: BinaryIO, most: int | None) -> list[tuple[int, bytes]]:
    """Return lines of a file, by their numbers.

    Evaluations are few among many log lines, and have more keys: so lines with
    equally many are sampled by themselves, and those that tell a phase are all kept.
    """
    samples: dict[int, _Sample] = {}
    for number, line in enumerate(file, start=1):
        kind = 0 if b'"phase"' in line else line.count(b'":')
        if (sample := samples.get(kind)) is None:
            sample = samples[kind] = _Sample(most if kind else None)
        sample.add(number, line)
    return sorted(line for sample in samples.values() for line in sample.lines)


def _read_lines(path: Path, most: int | None = None) -> tuple[Row, ...]:
    """Return the objects of a file of lines; of very many, ``most`` of each sort."""
    if not path.is_file():
        return ()
    # Bytes: a line cut off in the middle of a character must not hide the others.
    with path.open("rb") as file:
        lines = _sampled(file, most)
    rows: list[Row] = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                continue  # The writer was killed within its last line.
            raise _make_broken(path, f"line {number}: {error}") from error
        if not isinstance(row, dict) or not _is_number(cast(Row, row).get("step")):
            raise _make_broken(
                path, f"line {number} is not an object with a numeric step"
            )
        rows.append(cast(Row, row))
    return tuple(rows)


def _parse(path: Path, parse: Callable[[Row], T]) -> T | None:
    loaded = _read_json(path)
    if loaded is None:
        return None
    try:
        return parse(loaded)
    except (KeyError, TypeError, ValueError) as error:
        raise _make_broken(path, f"{type(error).__name__}: {error}") from error


def _records(path: Path) -> Records:
    """Read what the run's metrics declared, in older runs what built-in ones do."""
    if not path.is_file():
        from decentral.metrics.base import built_in_records

        return records_of(built_in_records())
    try:
        return records_of(read_records(json.loads(path.read_text(encoding="utf-8"))))
    except (AttributeError, TypeError, ValueError) as error:
        raise _make_broken(path, error) from error


def _summary(loaded: Row) -> Row:
    """Give the numbers of a summary the keys of the rows, as older runs spelt them
    otherwise.

    What they called ``final.loss_merged`` is ``final.loss/merged``; ``comm.bytes``
    is ``counters.comm/bytes``.
    """
    if "counters" in loaded or "final" not in loaded:
        return loaded
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
