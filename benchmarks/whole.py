"""A whole run: where its time goes, and its cost in nodes.

python benchmarks/whole.py [--threads 2]
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import table, threads

# isort: split
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.loop.block import Block
from decentral.loop.measure import Evaluator
from decentral.run.folder import RunFolder

STAGES: dict[str, tuple[tuple[type, str], ...]] = {
    "compute": ((Block, "gradient"), (Block, "adapt")),
    "decide and mix": ((Block, "decide"), (Block, "combine")),
    "evaluate": ((Evaluator, "__call__"),),
    "check": ((Block, "finish_step"), (Block, "check")),
    "log": ((LocalRun, "record"),),
    "save": ((LocalRun, "save"),),
}


class Clock:
    """Adds up the seconds that are spent inside methods."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        for stage, methods in STAGES.items():
            for owner, name in methods:
                setattr(owner, name, self.timed(stage, getattr(owner, name)))

    def timed(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **settings: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **settings)
            finally:
                self.spent[stage] += time.perf_counter() - begin

        return run

    def measure(self, **settings: Any) -> tuple[float, dict[str, float]]:
        """Return the seconds of a run and those of its stages."""
        self.spent.clear()
        with tempfile.TemporaryDirectory() as folder:
            run = LocalRun(make_config(settings))
            run.begin(RunFolder.create(Path(folder)))
            begin = time.perf_counter()
            run.run(lambda row: None)
            return time.perf_counter() - begin, dict(self.spent)


if __name__ == "__main__":
    count = threads()
    clock = Clock()
    whole, spent = min(
        (clock.measure(threads=count) for _ in range(2)), key=lambda pair: pair[0]
    )
    rows = [[stage, spent[stage], 100 * spent[stage] / whole] for stage in STAGES]
    rest = whole - sum(spent.values())
    rows += [["the rest", rest, 100 * rest / whole], ["run", whole, 100.0]]
    table(f"The default run, {count} threads", ("stage", "s", "%"), rows)
    linear: list[list[object]] = []
    for nodes in (64, 256, 1024):
        seconds, stages = clock.measure(
            threads=count, nodes=nodes, steps=60, checkpoint_every=60
        )
        each = 1e6 / 60 / nodes
        parts = [
            stages[stage] * each for stage in ("compute", "decide and mix", "evaluate")
        ]
        linear.append([nodes, seconds, seconds * each, *parts])
    head = "nodes", "s", "us per node and step", "compute", "mix", "evaluate"
    table(f"60 steps of more nodes, {count} threads", head, linear)
