"""What a run tells Ray's metrics, which Prometheus reads and the dashboards of ``launch/`` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Gauges by name (Prometheus prefixes ``ray_``), tagged with the run; and the key of a row.
ROWS = {
    "decentral_step": "step",
    "decentral_accuracy_local": "accuracy/local_mean",
    "decentral_accuracy_merged": "accuracy/merged",
    "decentral_loss_train": "loss/train",
    "decentral_loss_local": "loss/local_mean",
    "decentral_loss_merged": "loss/merged",
    "decentral_consensus_distance": "consensus/distance",
    "decentral_mergeability_gap": "mergeability/gap",
    "decentral_bytes": "comm/bytes",
    "decentral_wire_bytes": "comm/wire_bytes",
    "decentral_messages": "comm/messages",
    "decentral_live_nodes": "nodes/healthy",
    "decentral_steps_per_s": "time/steps_per_s",
}
#: What every gauge shows.
GAUGES = {
    "decentral_step": "Optimizer steps that every node has done",
    "decentral_accuracy_local": "Mean test accuracy of the local models",
    "decentral_accuracy_merged": "Test accuracy of the average of all models",
    "decentral_loss_train": "Mean loss of the last mini-batches",
    "decentral_loss_local": "Mean test loss of the local models",
    "decentral_loss_merged": "Test loss of the average of all models",
    "decentral_consensus_distance": "Root mean square distance of the models from their average",
    "decentral_mergeability_gap": "How much better the average is than the models it averages",
    "decentral_bytes": "Logical bytes sent so far, over all nodes",
    "decentral_wire_bytes": "Bytes that really left a worker so far",
    "decentral_messages": "Messages sent so far, over all nodes",
    "decentral_live_nodes": "Nodes that take part",
    "decentral_failures": "Failures so far",
    "decentral_steps_per_s": "Steps of one node per second since the run began",
    "decentral_step_seconds": "Mean seconds of a step by worker and part: compute, wait, mix",
}
#: The parts of a step's time.
PARTS = ("compute", "wait", "mix")


class Monitor:
    """Gauges of one run."""

    def __init__(self, run: str) -> None:
        """Register the gauges in this process."""
        from ray.util.metrics import Gauge

        self.gauges: dict[str, Any] = {}
        self.shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for name, text in GAUGES.items():
            more = ("worker", "part") if name == "decentral_step_seconds" else ()
            self.gauges[name] = Gauge(name, description=text, tag_keys=("run", *more))
            self.gauges[name].set_default_tags({"run": run})
        self.failures(0)

    def row(self, row: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
        """Show a row of metrics, and every worker's own times."""
        for name, key in ROWS.items():
            if row.get(key) is not None:
                self._set(name, row[key])
        for worker, own in enumerate(parts):
            for part in PARTS:
                seconds = own[f"time/{part}_s"]
                self._set("decentral_step_seconds", seconds, worker=str(worker), part=part)

    def failures(self, count: int) -> None:
        """Show how many failures there were."""
        self._set("decentral_failures", count)
        times = [key for key in self.shown if key[0] == "decentral_step_seconds"]
        for key in times:  # of workers that may be no more
            del self.shown[key]

    def repeat(self) -> None:
        """Show everything again: Ray drops a gauge that is not set for some 30 s."""
        for (name, tags), value in self.shown.items():
            self.gauges[name].set(value, dict(tags))

    def _set(self, name: str, value: float, **tags: str) -> None:
        self.shown[name, tuple(tags.items())] = value
        self.gauges[name].set(value, tags)
