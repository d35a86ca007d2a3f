"""The few numbers that decide about a run, and the sentence that says what they
mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from decentral.records import (
    BYTES,
    PACE,
    PLACE,
    RELATIVE,
    ROLES,
    WALL,
    Record,
    Records,
    Table,
    records_of,
)
from decentral.report.reader import RunData
from decentral.run.lock import BEAT_S, NAME
from decentral.units import format_bytes

ABSENT = "—"
_LONG = 12  # Items of a list, beyond which only its ends are written.
#: Signs of life that a run may miss before it counts as stopped.
_MISSED = 3
_MERGED_WELL = 0.005  # A difference of half a point of accuracy is called none.


@dataclass(frozen=True, slots=True)
class Facts:
    """Headline numbers of a run; percentages are fractions, ``None`` is not
    measured.

    ``score`` is the record of what judges the run, for the merged model. ``values``
    holds everything that was measured, each at the moment that its record names.
    """

    score: Record
    nodes: int | None
    last_step: int
    steps: int | None
    finished: bool
    has_merge: bool
    local_mean: float | None
    local_min: float | None
    local_max: float | None
    merged: float | None
    bytes: float | None
    relative: float | None
    wall_s: float | None
    steps_per_s: float | None
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    records: Records = field(default_factory=lambda: records_of(()))

    @property
    def metric(self) -> str:
        """Return the name of what judges the run."""
        return self.score.group

    @property
    def gain(self) -> float | None:
        """Return the merged model minus the local mean before the merge; positive
        is better.
        """
        if self.merged is None or self.local_mean is None:
            return None
        return self.score.sign * (self.merged - self.local_mean)

    def list_records(self, table: Table) -> list[Record]:
        """Return the records of what was measured that a table lists beside the
        headline.
        """
        return self.records.list_for(self.values, table)


def facts_of(run: RunData) -> Facts:
    """Gather the headline numbers from the summary, else from the last records
    logged.
    """
    nodes = _nodes(run)
    values = {
        key: value for key in run.logged if (value := _read_number(run, key)) is not None
    }
    score: dict[str, float | None] = {
        role: values.get(f"{run.metric}/{role}") for role in ROLES
    }
    finished = (
        run.summary is not None and run.summary.get("status", "finished") == "finished"
    )
    return Facts(
        score=run.record("merged"),
        nodes=nodes,
        last_step=run.last_step,
        steps=run.steps,
        finished=finished,
        has_merge=finished and nodes != 1 and run.merged,
        **score,
        bytes=values.get(BYTES.key),
        relative=values.get(RELATIVE.key),
        wall_s=values.get(WALL.key),
        steps_per_s=values.get(PACE.key),
        values=values,
        records=run.records,
    )


def _read_number(run: RunData, key: str) -> float | None:
    """Return a number as a table of ends shows it: from the summary, else the last
    record logged.
    """
    if key in PLACE:
        return None
    moment = run.records.of(key).moment
    known = run.number(f"{moment}.{key}")
    # The summary first: it is written when all is done, records may end with a
    # kill.
    known = run.number(f"counters.{key}") if known is None else known
    return run.last(key, final=moment == "final") if known is None else known


def verdict(facts: Facts) -> str:
    """Say in words what the numbers of a run mean."""
    if not facts.finished:
        return f"{_progress(facts)} {_so_far(facts)}".strip()
    if facts.merged is None and facts.local_mean is None:
        return "The run has ended without an evaluation."
    if facts.nodes == 1 or facts.merged is None or facts.local_mean is None:
        reached = facts.local_mean if facts.merged is None else facts.merged
        who = "The single node" if facts.nodes == 1 else "The run"
        return f"{who} reached {value_text(reached, facts.score)}{_cost(facts)}."
    return _merge_verdict(facts)


def _merge_verdict(facts: Facts) -> str:
    local, merged = (value_text(v, facts.score) for v in (facts.local_mean, facts.merged))
    nodes = f"the {facts.nodes:,} local models" if facts.nodes else "the local models"
    gain = facts.gain or 0.0
    percent = facts.score.unit == "%"
    # Losses have no scale of their own, so that one percent of the loss is close.
    close = _MERGED_WELL if percent else 0.01 * abs(facts.local_mean or 0.0)
    if abs(gain) <= close:
        verb = "stays at" if local == merged else "is no different:"
    elif facts.score.sign > 0:
        verb = "reaches" if gain > 0 else "falls to"
    else:
        verb = "comes down to" if gain > 0 else "rises to"
    when = "Before the merge" if facts.has_merge else "At the end"
    return f"{when} {nodes} averaged {local}; their plain average {verb} {merged}{_cost(facts)}."


def _progress(facts: Facts) -> str:
    if not facts.steps:
        return f"This run has not finished: it stands at step {facts.last_step:,}."
    share = percent_text(facts.last_step / facts.steps, 0)
    return (
        f"This run has not finished: it stands at step {facts.last_step:,} "
        f"of {facts.steps:,} ({share})."
    )


def _so_far(facts: Facts) -> str:
    if facts.local_mean is None:
        return "Nothing has been evaluated yet."
    so_far = (
        f"So far the local models average {value_text(facts.local_mean, facts.score)}"
    )
    if facts.merged is None:
        return so_far + "."
    return f"{so_far}; their plain average would reach {value_text(facts.merged, facts.score)}."


def _cost(facts: Facts) -> str:
    if facts.nodes == 1 or not facts.bytes:
        return (
            ""
            if facts.nodes == 1 or facts.bytes is None
            else " without any communication"
        )
    if facts.relative is None:
        return f" with {format_bytes(facts.bytes)} of communication"
    return f" with {relative_text(facts.relative)} of all-reduce's bytes"


def state_of(run: RunData) -> str:
    """Return whether a run is finished, is training, or has stopped unfinished."""
    if run.summary is not None:
        return str(run.summary.get("status", "finished"))
    with suppress(OSError):  # nobody writes
        silent_s = time.time() - (run.path / NAME).stat().st_mtime
        if silent_s < _MISSED * BEAT_S:
            return "training"
    return "unfinished"


def _nodes(run: RunData) -> int | None:
    nodes = _first(run.number("nodes"), run.config.get("nodes"))
    if isinstance(nodes, int | float):
        return int(nodes)
    return run.topology.nodes if run.topology else None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def value_text(value: float | None, record: Record) -> str:
    """Write a score for a sentence: a percentage says what it is, a loss is named."""
    if value is None:
        return ABSENT
    text = number_text(value, record)
    return text if record.unit == "%" else f"a {record.group} of {text}"


def number_text(value: float | None, record: Record) -> str:
    """Write a number in its unit, without naming it, for tables and tiles.

    >>> (
    ...     number_text(0.9421, Record("f1/merged", unit="%")),
    ...     number_text(3.14159, Record("norm")),
    ... )
    ('94.2 %', '3.14')
    """
    if value is None:
        return ABSENT
    if record.unit in _UNITS and not record.format:
        return _UNITS[record.unit](value)
    text = f"{value:{record.format}}" if record.format else short_text(value)
    return f"{text} {record.unit}".rstrip()


def loss_text(value: float) -> str:
    """Write a loss with four digits behind the point, small ones with three
    significant digits.

    >>> [loss_text(loss) for loss in (1.43012, 0.00021649)]
    ['1.4301', '0.000216']
    """
    return f"{value:.4f}" if 0.00995 <= abs(value) < 999.5 else short_text(value)


def short_text(value: float) -> str:
    """Write a number with three significant digits.

    >>> short_text(0.21649)
    '0.216'
    """
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{value:,.0f}"


def percent_text(fraction: float, digits: int = 1) -> str:
    """Write a fraction as a percentage.

    >>> percent_text(0.9421)
    '94.2 %'
    """
    return f"{100 * fraction:.{digits}f} %"


def relative_text(fraction: float) -> str:
    """Write a share of all-reduce's bytes with three significant digits.

    >>> relative_text(0.02049)
    '2.05 %'
    """
    # Three digits of more than all-reduce would be written as a power of ten.
    return f"{100 * fraction:,.0f} %" if fraction >= 0.9995 else f"{100 * fraction:.3g} %"


def gain_text(facts: Facts) -> str:
    """Write what the merge gained over the local mean, with its sign."""
    if facts.gain is None:
        return ABSENT
    difference = facts.score.sign * facts.gain
    if facts.score.unit == "%":
        return f"{100 * difference:+.1f} points".replace("-", "−")
    fell = difference < 0 or (difference == 0 and facts.score.sign < 0)
    return f"{'−' if fell else '+'}{number_text(abs(difference), facts.score)}"


def duration_text(seconds: float | None) -> str:
    """Write a duration in seconds for people.

    >>> duration_text(41.2), duration_text(3_725)
    ('41.2 s', '1 h 02 min')
    """
    if seconds is None:
        return ABSENT
    # Where three digits would round to 100, minutes begin.
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


#: Units that are more than a word behind the number.
_UNITS: dict[str, Callable[[float], str]] = {
    "%": percent_text, "share": relative_text, "B": format_bytes, "s": duration_text,
    "loss": loss_text,
}  # fmt: skip


def plugin_text(setting: Any) -> str:
    """Write a setting as a person would: a plug-in with options as
    ``late(start=90%)``.
    """
    if isinstance(setting, Mapping):
        options = dict(cast("Mapping[str, Any]", setting))
        name = options.pop("name", None)
        inside = ", ".join(
            f"{key}={plugin_text(value)}" for key, value in options.items()
        )
        if not inside:
            return str(name or "none")
        return f"{name}({inside})" if name else f"{{{inside}}}"
    if isinstance(setting, list | tuple):
        items = [plugin_text(item) for item in cast("list[Any]", setting)]
        if len(items) > _LONG:
            items[2:-1] = [f"... ({len(items) - 3:,} more) ..."]
        return ", ".join(items) or "none"
    if isinstance(setting, bool):
        return "true" if setting else "false"
    return "none" if setting is None else f"{setting}"


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys.

    >>> flatten({"split": {"name": "dirichlet", "alpha": 0.1}})
    {'split.name': 'dirichlet', 'split.alpha': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
