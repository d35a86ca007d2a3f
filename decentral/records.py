"""What is known of a measured number besides its value: how it is written, judged
and drawn.

Everything that shows a number (terminal, summary, report, comparison, sweep,
cluster monitor) iterates over these records; no other module lists keys. A metric
declares the records of what it returns; a key that nobody declared has the defaults
that its name suggests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

#: The tables that can list a number, with what it is called there.
Table = Literal["progress", "results", "compare", "sweep"]
EVERYWHERE: tuple[Table, ...] = ("progress", "results", "compare", "sweep")

#: Names that say whose number it is: ``accuracy/local_mean``, ``accuracy/merged``.
ROLES = ("local_mean", "local_min", "local_max", "merged")


@dataclass(frozen=True, slots=True)
class Panel:
    """A figure of the report, shared by the records that name it.

    ``absent`` is said in its place where nothing was logged; without it the figure
    is left out. ``leads``: it stands before the figures of what a run cost.
    """

    title: str
    caption: str = ""
    absent: str = ""
    log: bool = False
    leads: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One measured quantity.

    Attributes:
        key: Its name on disk and in Python, ``group/name``; may hold ``*`` where it
            declares many.
        text: What it is, in one sentence without a full stop.
        label: What tables and legends call it; by default the key, in its own panel
            the name.
        unit: ``%`` or ``share`` (a fraction, written in percent, with one digit
            behind the point or three in all), ``loss`` (with four digits behind the
            point), ``B``, ``s``, or text behind the number.
        format: Format specification of the number; by default three significant
            digits.
        better: Which direction is an improvement; None where neither is.
        headline: Whether its group can judge a run, by ``group/local_mean`` and
            ``group/merged``.
        panel: The figure it is drawn in; None is a figure for its group.
        draw: A line, the ``local_min`` to ``local_max`` of a band over nodes, or
            nowhere.
        tables: Which tables list it beside the headline.
        moment: Whether a table of ends shows it before the final merge or after it.
    """

    key: str
    text: str = ""
    label: str = ""
    unit: str = ""
    format: str = ""
    better: Literal["higher", "lower"] | None = None
    headline: bool = False
    panel: Panel | None = None
    draw: Literal["line", "band", "none"] = "line"
    tables: tuple[Table, ...] = EVERYWHERE
    moment: Literal["before_merge", "final"] = "final"

    @property
    def group(self) -> str:
        """What stands before the stroke of the key; the key itself where there is
        none.
        """
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """What stands behind the stroke of the key; the key itself where there is
        none.
        """
        return self.key.partition("/")[2] or self.key

    @property
    def title(self) -> str:
        """What it is called where nothing else says its group."""
        if self.label and self.name in ROLES:
            return f"{self.group} {self.label}"
        return self.label or self.key

    @property
    def of_merge(self) -> str:
        """What it is called where all numbers are those of a merged model.

        >>> Record("f1/merged").of_merge, Record("score/top5_merged").of_merge
        ('f1', 'score/top5')
        """
        return self.key.removesuffix("merged")[:-1]

    def local(self, found: Mapping[str, float], best: bool = False) -> float | None:
        """Return, for the record of a merged model, the same of the local models.

        Args:
            found: Numbers by key.
            best: Of the best of them, instead of their mean.
        """
        role = ("local_max" if self.sign > 0 else "local_min") if best else "local_mean"
        return found.get(self.key.removesuffix("merged") + role)

    @property
    def sign(self) -> int:
        """1 where higher is better or neither is, -1 where lower is."""
        return -1 if self.better == "lower" else 1

    @property
    def figure(self) -> Panel:
        """The panel it is drawn in."""
        return self.panel or Panel(self.group.replace("_", " ").capitalize())


def make_undeclared(key: str) -> Record:
    """Return the record of a key that nobody declared: a plain number, drawn as a
    line.

    >>> make_undeclared("norm/local_max").draw, make_undeclared("norm/local_max").moment
    ('band', 'before_merge')
    """
    name = key.rpartition("/")[2]
    band = name in ("local_min", "local_max")
    # After the final merge local models are alike: said is what they were before.
    moment = "before_merge" if name.startswith("local_") else "final"
    return Record(key, draw="band" if band else "line", moment=moment)


def scores(group: str, text: str, **traits: Any) -> tuple[Record, ...]:
    """Return the records of a headline quantity: of the local models and of their
    average.

    Args:
        group: Its name, the first part of its keys.
        text: What is measured, to stand behind "Mean", "Lowest" and "Highest".
        traits: Further fields that all four share.
    """
    words = {
        "local_mean": ("local mean", f"Mean {text} of the local models"),
        "local_min": ("lowest", f"Lowest {text} of a local model"),
        "local_max": ("highest", f"Highest {text} of a local model"),
        "merged": (
            "merged",
            f"{text[:1].upper()}{text[1:]} of the average of all models",
        ),
    }
    return tuple(
        replace(make_undeclared(f"{group}/{role}"), label=words[role][0], text=words[role][1],
                headline=True, **traits)
        for role in ROLES
    )  # fmt: skip


class Records:
    """The records of a run: what its metrics declared, and what the loop itself
    logs.
    """

    def __init__(self, declared: Iterable[Record], own: Iterable[Record] = ()) -> None:
        """Take the records of the metrics, in the order of these, and the loop's
        ``own``.
        """
        self.metrics, self.own = tuple(declared), tuple(own)
        self.declared = (*self.metrics, *self.own)
        self.exact = {record.key: record for record in reversed(self.declared)}
        self.patterns = [record for record in self.declared if "*" in record.key]

    def of(self, key: str) -> Record:
        """Return the record of a key: declared, declared by a pattern, or by
        default.
        """
        if key in self.exact:
            return self.exact[key]
        for pattern in self.patterns:
            if fnmatchcase(key, pattern.key):
                return replace(pattern, key=key)
        return make_undeclared(key)

    def score(self, logged: Collection[str]) -> str:
        """Return the group that judges a run: the first headline among the
        ``logged`` keys.

        What is better when higher (an accuracy) goes before what is better when
        lower (the loss that was trained on); without either, the latter.
        """
        groups = dict.fromkeys(
            record.group for record in self.declared if record.headline
        )
        ranked = sorted(groups, key=lambda group: self.of(f"{group}/merged").sign < 0)
        measured = [g for g in ranked if {f"{g}/local_mean", f"{g}/merged"} & {*logged}]
        return (measured or ranked[::-1])[0]

    def merged(self, logged: Iterable[str]) -> list[Record]:
        """Return the records of ``logged`` keys that say how good one merged model
        is.

        These are ``group/merged`` and ``group/NAME_merged``, unless a metric lists
        them nowhere; the group that judges a run comes first, then the order of
        ``logged``.
        """
        keys = list(dict.fromkeys(logged))
        judge = f"{self.score(keys)}/merged"
        found = [self.of(key) for key in keys if key.endswith(("/merged", "_merged"))]
        shown = [one for one in found if one.headline or one.tables]
        return sorted(shown, key=lambda one: one.key != judge)

    def list_for(self, logged: Iterable[str], table: Table) -> list[Record]:
        """Return the records of ``logged`` keys that a table lists beside the
        headline.

        Those of the metrics come first, then the loop's own, in the order of their
        declaration.
        """
        keys = list(dict.fromkeys(logged))
        group, last = (
            self.score(keys),
            {one.key: place for place, one in enumerate(self.own)},
        )
        found = [self.of(key) for key in keys]
        shown = [one for one in found if table in one.tables and one.group != group]
        return sorted(shown, key=lambda one: last.get(one.key, -1))

    def plain(self) -> list[dict[str, Any]]:
        """Return what the metrics declared as plain data, for the run folder."""
        return [asdict(record) for record in self.metrics]


def read_records(loaded: Iterable[Mapping[str, Any]]) -> tuple[Record, ...]:
    """Read declarations from plain data; fields that this version does not know are
    left out.
    """
    return tuple(
        _load_known(Record, {**one, "panel": _panel(one.get("panel"))}) for one in loaded
    )


def _panel(loaded: Mapping[str, Any] | None) -> Panel | None:
    return None if loaded is None else _load_known(Panel, loaded)


def _load_known(kind: Any, loaded: Mapping[str, Any]) -> Any:
    names = {field.name for field in fields(kind)}
    given = {key: value for key, value in loaded.items() if key in names}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


# --- of what the loop itself logs -------------------------------------------------


_NOWHERE: tuple[Table, ...] = ()

LOSSES = Panel(
    "Training and evaluation loss",
    "Loss on training batches, and in evaluations.",
    absent="No loss was logged.",
)

SIMULATION = Panel(
    "Event by event",
    "Length of the mean model's steps (1 in rounds), staleness of updates, shares of the time in "
    "which nodes wait and lines send.",
)
UNDER_WAY = Panel("Under way", "Bytes on their way between nodes, on average so far.")


def _own(
    key: str, text: str, unit: str = "", format: str = "", *, label: str = "",
    tables: tuple[Table, ...] = _NOWHERE,
) -> Record:  # fmt: skip
    """Return a record that has a place of its own in the report, and no panel."""
    return Record(key, text, label, unit, format, draw="none", tables=tables)


BYTES = _own(
    "comm/bytes", "Logical bytes sent so far, over all nodes", "B", label="bytes",
    tables=("compare",),
)  # fmt: skip
RELATIVE = _own(
    "comm/relative", "Share of the bytes of all-reduce", "share", label="of all-reduce",
    tables=("compare", "sweep"),
)  # fmt: skip
WALL = _own(
    "time/wall_s",
    "Seconds since the run began",
    "s",
    label="wall time",
    tables=("compare",),
)
STEP = _own("step", "Optimizer steps that every node has done", "", ",d")
INTENSITY = _own("comm/intensity", "What the communication schedule asks for, 0 to 1")
SIMULATED = _own("time/simulated_s", "Seconds on the simulated network so far", "s")
PACE = _own(
    "time/steps_per_s",
    "Steps of one node per second since the run began",
    "steps/s",
    ",g",
)
ROUNDS = _own("comm/rounds", "Rounds in which something was sent so far", "", ",d")
TRAINING = Record(
    "loss/train", "Mean loss of the last mini-batches", "training", unit="loss", better="lower",
    headline=True, panel=LOSSES, tables=_NOWHERE,
)  # fmt: skip

#: What an evaluation adds where there are validation samples.
VALIDATION = (
    replace(
        _own("val/loss_merged", "Validation loss of the average of all models"),
        better="lower",
    ),
    replace(
        _own(
            "val/accuracy_merged", "Validation accuracy of the average of all models", "%"
        ),
        better="higher",
    ),
)

#: What a run in simulated time logs beside its seconds.
EVENTS = (
    Record("simulation/gain", "Growth of the mean model per update, 1 in rounds", "gain",
           panel=SIMULATION, tables=("compare",)),
    Record("simulation/staleness", "Changes by others between a snapshot and its update",
           "staleness", panel=SIMULATION, tables=_NOWHERE),
    Record("simulation/idle", "Share of the simulated time in which nodes wait", "idle", "share",
           panel=SIMULATION, tables=("compare",)),
    Record("simulation/lines", "Share of the simulated time in which lines send", "lines in use",
           "share", panel=SIMULATION, tables=_NOWHERE),
    Record("simulation/in_flight", "Bytes under way, on average so far", "in flight", "B",
           panel=UNDER_WAY, tables=_NOWHERE),
    _own("simulation/delay", "Updates of all between a snapshot and its update"),
    _own("simulation/delay_max", "The most of these so far", "", ",d"),
    _own("simulation/tail_s", "Seconds after the last gradient began", "s"),
    _own("simulation/tail_bytes", "Bytes sent after the last gradient began", "B"),
    _own("simulation/width", "Gradients that were computed together, on average"),
    _own("simulation/updates_*", "Updates of the slowest and the fastest node", "", ",d"),
    _own("simulation/replaced", "Messages replaced before they left", "", ",d"),
    _own("simulation/lost", "Messages to nodes that were away", "", ",d"),
)  # fmt: skip

#: Where a record of metrics stands: no part of what a run ended with.
PLACE = ("step", "phase")

#: What the loop and the engine put into a record of metrics.
LOOP = (
    STEP,
    _own("phase", "Which end of the run a row shows: before_merge or final"),
    TRAINING,
    _own("samples", "Samples that every node has seen", "", ",d"),
    _own("learning_rate", "Peak learning rate of the nodes at this step", "", "g"),
    _own("batch/size", "Samples of a batch of one node", "", ",d"),
    _own("batch/global", "Samples of a batch of all healthy nodes", "", ",d"),
    BYTES,
    _own("comm/wire_bytes", "Bytes that really left a worker so far", "B"),
    _own("comm/measure_bytes", "Bytes that evaluations would have sent so far", "B"),
    _own("comm/messages", "Messages sent so far, over all nodes", "", ",d"),
    ROUNDS,
    INTENSITY,
    RELATIVE,
    _own("nodes/healthy", "Nodes that take part", "", ",d"),
    _own("nodes/training", "Of these, nodes drawn for the round", "", ",d"),
    SIMULATED,
    WALL,
    PACE,
    *EVENTS,
    _own("time/*_s", "Mean seconds of a step that workers spent so", "s"),
    _own("feedback/consensus", "Consensus distance as the schedule was told"),
    _own(
        "feedback/spent", "Share of all-reduce's bytes as the schedule was told", "share"
    ),
)
#: What a record of metrics holds beside the returns of the metrics.
QUANTITIES = (*LOOP, *VALIDATION)


def is_own(key: str) -> bool:
    """Tell whether a key is the loop's own, and no metric's."""
    return any(fnmatchcase(key, one.key) for one in LOOP)


def records_of(declared: tuple[Record, ...]) -> Records:
    """Return the records of a run from those that its metrics declare."""
    return Records(declared, QUANTITIES)
