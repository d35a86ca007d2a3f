"""What is told of a simulation: what a log line shows, and what a checkpoint keeps,
from which it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from decentral.algorithms.node import Part, Version
from decentral.network.queue import Event, Leaving, Moment
from decentral.run.checkpoint import Checkpoint
from decentral.simulation.nodes import SimulatedNode
from decentral.simulation.traffic import Meeting
from decentral.simulation.world import World
from decentral.topology.labels import NodeId

#: Notes a model that is kept, once, and returns its number.
Keep = Callable[[Version], int]

#: Plain numbers of a simulation, and of a node, that a checkpoint keeps by name.
_COUNTS = (
    "updates", "begun", "dropped", "lost", "versions", "communications", "carried",
    "longest_delay", "last_begun", "tail",
)  # fmt: skip
_OF_NODE = (
    "numbers", "updates", "begun", "has_gradient", "is_in_flight", "has_stopped", "value",
    "changes", "changes_at_snapshot", "made_at_snapshot", "taken", "is_patient", "is_held",
    "busy_s", "due_s", "draws",
)  # fmt: skip


class Simulation(World):
    """All nodes of a block at work, with all that is under way kept in checkpoints."""

    @property
    def open_bytes_s(self) -> float:
        """Bytes times seconds that messages of open rounds have yet to travel."""
        return self.rounds.open_bytes_s

    def figures(self) -> dict[str, float]:
        """Return what a log line shows of the simulation."""
        now_s = self.now_s
        training = self.nodes[1:] if self.setup.traits.server else self.nodes
        counts = [node.updates for node in training]
        # Of a server the model of the run is its own, whatever clients hold.
        held = self.nodes[:1] if self.setup.traits.server else self.nodes
        mean = sum(node.mean_value for node in held) / len(held)
        busy = sum(node.busy_s - max(0.0, node.due_s - now_s) for node in training)
        applied = max(1, self.updates - self.updates_before)
        tail_s, tail_bytes = self.tail
        return {
            "simulation/gain": mean * len(training) / max(1, self.updates),
            "simulation/staleness": self.staleness / applied,
            "simulation/delay": self.delay / applied,
            "simulation/delay_max": self.longest_delay,
            "simulation/idle": 1.0 - busy / (len(training) * now_s) if now_s else 0.0,
            "simulation/lines": self.line_use,
            "simulation/in_flight": self.mean_under_way,
            "simulation/width": self.flight.computed / max(1, self.flight.calls),
            "simulation/updates_min": min(counts),
            "simulation/updates_max": max(counts),
            "simulation/replaced": self.dropped,
            **({"simulation/lost": self.lost} if self.loses else {}),
            **(
                {"simulation/tail_s": tail_s, "simulation/tail_bytes": tail_bytes}
                if self.is_done
                else {}
            ),
        }

    # --- checkpoints --------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[NodeId, dict[str, Tensor]]]:
        """Return everything that is under way: plain data, and tensors by node.

        Gradients that have begun are computed first, so that no snapshot is kept; a
        model that was sent is kept once, with its sender.
        """
        self.flight.compute()
        tensors: dict[NodeId, dict[str, Tensor]] = {}
        versions: dict[str, Any] = {}

        def keep(version: Version) -> int:
            if str(version.number) not in versions:
                part = version.part and [version.part.index, version.part.count]
                said = [version.owner, version.value, version.numbers, part]
                versions[str(version.number)] = said
                mine = tensors.setdefault(version.owner, {})
                mine[f"simulation/version/{version.number}"] = version.row
            return version.number

        for node in self.nodes:
            mine = tensors.setdefault(node.id, {})
            mine |= self.flight.state_of(node.index)
        return {**self._list(keep), "versions": versions}, tensors

    def count_held(self) -> int:
        """Return how many models are under way, wait for lines, or lie in
        mailboxes.
        """
        numbers: set[int] = set()

        def keep(version: Version) -> int:
            numbers.add(version.number)
            return version.number

        self._list(keep)
        return len(numbers)

    def _list(self, keep: Keep) -> dict[str, Any]:
        """Return what is under way as plain data.

        Args:
            keep: Notes a model.
        """
        return {
            "now_s": self.now_s,
            "queue": [_pack_event(one, keep) for one in self.queue.listed()],
            "lines": self.lines.state(),
            "rounds": self.rounds.state(keep),
            "waiting": [
                [n, [[to, keep(version)] for to, version in one]]
                for n, one in self.waiting.items()
            ],
            "meetings": [_pack_meeting(one, keep) for one in self.meetings],
            "meeting": sorted(self.meeting),
            "counts": {name: getattr(self, name) for name in _COUNTS},
            "pushed": self.queue.count,
            "strip": self.strip.state(),
            "losses": [self.losses, self.flight.losses],
            "nodes": [_pack_node(node, keep) for node in self.nodes],
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where a simulation stood when its checkpoint was taken."""
        plain = checkpoint.counters["simulation"]
        versions: dict[int, Version] = {}
        for number, (owner, value, numbers, cut) in plain["versions"].items():
            row = checkpoint.nodes[owner][f"simulation/version/{number}"]
            row = row.to(self.block.rows, copy=True)
            place = int(number)
            part = Part(*cut) if cut else None
            settle = self.operations.finish
            versions[place] = Version(
                place, NodeId(owner), value, settle, dict(numbers), part, row
            )
        self.now_s = plain["now_s"]
        events = (_unpack_event(one, versions) for one in plain["queue"])
        self.queue.restore(events, plain["pushed"])
        self.lines.restore(plain["lines"])
        self.rounds.restore(plain["rounds"], versions)
        self.waiting = {
            NodeId(n): [([NodeId(j) for j in to], versions[v]) for to, v in one]
            for n, one in plain["waiting"]
        }
        self.meetings = [_unpack_meeting(one, versions) for one in plain["meetings"]]
        self.meeting = {NodeId(n) for n in plain["meeting"]}
        for name, value in plain["counts"].items():
            setattr(self, name, value)
        self.losses, self.flight.losses = (list(one) for one in plain["losses"])
        if "strip" in plain:
            self.strip.restore(plain["strip"])
        else:  # of an older checkpoint, whose first seconds are over
            self.strip.is_over = True
        for node, kept in zip(self.nodes, plain["nodes"], strict=True):
            for name in _OF_NODE:
                if name in kept:  # older checkpoints hold fewer
                    setattr(node, name, kept[name])
            node.mailbox = {int(k): versions[v] for k, v in kept["mailbox"].items()}
            node.offsets = {
                Part(index, count): offset for index, count, offset in kept["offsets"]
            }
            self.flight.restore(node.index, checkpoint.nodes[node.id])


def _pack_node(node: SimulatedNode, keep: Keep) -> dict[str, Any]:
    cuts = [[part.index, part.count, offset] for part, offset in node.offsets.items()]
    return {
        **{name: getattr(node, name) for name in _OF_NODE},
        "mailbox": {str(k): keep(v) for k, v in node.mailbox.items()},
        "offsets": cuts,
    }


def _pack_event(event: Event, keep: Keep) -> list[Any]:
    what = event.what
    packed: Any = None
    match what:
        case Version():
            packed = keep(what)
        case Meeting():
            packed = _pack_meeting(what, keep)
        case (Leaving() as leaving, Version() as version):
            packed = [
                leaving.left_s,
                leaving.begins_s,
                leaving.arrives_s,
                keep(version),
            ]
        case _:
            packed = what
    return [event.time_s, int(event.moment), event.node, event.number, packed]


def _unpack_event(packed: list[Any], versions: Mapping[int, Version]) -> Event:
    time_s, moment, node, number, what = packed
    match Moment(moment):
        case Moment.TRANSFER:
            what = _unpack_meeting(what, versions)
        case Moment.BEGINNING:
            what = Leaving(*what[:3]), versions[what[3]]
        case Moment.MESSAGE if isinstance(what, int):
            what = versions[what]
        case _:
            pass
    return Event(time_s, Moment(moment), NodeId(node), number, what)


def _pack_meeting(one: Meeting, keep: Keep) -> list[Any]:
    kept = [keep(version) for version in one.versions] if one.versions else None
    return [one.node, one.other, one.alone, kept]


def _unpack_meeting(packed: list[Any], versions: Mapping[int, Version]) -> Meeting:
    node, other, alone, kept = packed
    pair = (versions[kept[0]], versions[kept[1]]) if kept else None
    return Meeting(NodeId(node), NodeId(other), alone, pair)
