"""What a run tells Ray's metrics, which Prometheus reads and the dashboards of
``launch/`` show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from decentral.records import Records

#: Prometheus prefixes ``ray_``.
PREFIX = "decentral_"
#: Gauges that are no key of a row.
FAILURES = "decentral_failures"
PARTS_S = "decentral_step_seconds"
#: The parts of a step's time, of every worker.
PARTS = ("compute", "wait", "mix")


def gauge_name(key: str) -> str:
    """Return the gauge of a key: Prometheus takes letters, digits and underscores.

    >>> gauge_name("accuracy/merged")
    'decentral_accuracy_merged'
    """
    return PREFIX + re.sub(r"[^A-Za-z0-9_]", "_", key)


class Monitor:
    """Gauges of one run: one for every number of its rows."""

    def __init__(self, run: str, records: Records) -> None:
        """Register the gauges that every run has in this process."""
        self.run, self.records = run, records
        self.gauges: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._register(FAILURES, "Failures so far")
        text = f"Mean seconds of a step by worker and part: {', '.join(PARTS)}"
        self._register(PARTS_S, text, "worker", "part")
        self.failures(0)

    def _register(self, name: str, text: str, *tags: str) -> None:
        from ray.util.metrics import Gauge

        self.gauges[name] = Gauge(name, description=text, tag_keys=("run", *tags))
        self.gauges[name].set_default_tags({"run": self.run})

    def row(self, row: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
        """Show a row of metrics, and every worker's own times."""
        for key, value in row.items():
            if not isinstance(value, int | float):
                continue
            self._set(self._gauge(key), value)
        for worker, own in enumerate(parts):
            for part in PARTS:
                seconds = own[f"time/{part}_s"]
                self._set(PARTS_S, seconds, worker=str(worker), part=part)

    def _gauge(self, key: str) -> str:
        """Return the gauge of a key, registered at its first number; no two keys
        share one.
        """
        if key not in self.names:
            name = gauge_name(key)
            while name in self.gauges:
                name += "_"
            self.names[key] = name
            self._register(
                name, self.records.of(key).text or f"{key}, a metric of the run"
            )
        return self.names[key]

    def failures(self, count: int) -> None:
        """Show how many failures there were."""
        self._set(FAILURES, count)
        times = [key for key in self.shown if key[0] == PARTS_S]
        for key in times:  # of workers that may be no more
            del self.shown[key]

    def repeat(self) -> None:
        """Show everything again: Ray drops a gauge that is not set for some 30 s."""
        for (name, tags), value in self.shown.items():
            self.gauges[name].set(value, dict(tags))

    def _set(self, name: str, value: float, **tags: str) -> None:
        self.shown[name, tuple(tags.items())] = value
        self.gauges[name].set(value, tags)
