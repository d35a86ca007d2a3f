"""The records of what the loop itself logs, whichever metrics are measured."""

from __future__ import annotations

from fnmatch import fnmatchcase

from decentral.records import Panel, Record, Records, Table

_NOWHERE: tuple[Table, ...] = ()

LOSSES = Panel(
    "Training and evaluation loss",
    "Loss on training batches, and in evaluations.",
    absent="No loss was logged.",
)


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
    "time/wall_s", "Seconds since the run began", "s", label="wall time", tables=("compare",)
)
STEP = _own("step", "Optimizer steps that every node has done", "", ",d")
INTENSITY = _own("comm/intensity", "What the communication schedule asks for, 0 to 1")
SIMULATED = _own("time/simulated_s", "Seconds on the simulated network so far", "s")
PACE = _own("time/steps_per_s", "Steps of one node per second since the run began", "steps/s", ",g")
ROUNDS = _own("comm/rounds", "Rounds in which something was sent so far", "", ",d")
TRAINING = Record(
    "loss/train", "Mean loss of the last mini-batches", "training", unit="loss", better="lower",
    headline=True, panel=LOSSES, tables=_NOWHERE,
)  # fmt: skip

#: What an evaluation adds where there are validation samples.
VALIDATION = (
    _own("val/loss_merged", "Validation loss of the average of all models"),
    _own("val/accuracy_merged", "Validation accuracy of the average of all models", "%"),
)

#: Where a row stands: no part of what a run ended with.
PLACE = ("step", "phase")

#: What the loop and the engine put into a row.
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
    SIMULATED,
    WALL,
    PACE,
    _own("time/*_s", "Mean seconds of a step that workers spent so", "s"),
    _own("feedback/consensus", "Consensus distance as the schedule was told"),
    _own("feedback/spent", "Share of all-reduce's bytes as the schedule was told", "share"),
)
#: What a row holds beside the returns of the metrics.
QUANTITIES = (*LOOP, *VALIDATION)


def is_own(key: str) -> bool:
    """Tell whether a key of a row is the loop's own, and no metric's."""
    return any(fnmatchcase(key, one.key) for one in LOOP)


def records_of(declared: tuple[Record, ...]) -> Records:
    """Return the records of a run from those that its metrics declare."""
    return Records(declared, QUANTITIES)
