"""What every benchmark shares: timing as ratios within one process, and tables."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import decentral  # noqa: F401  (before torch: sets how threads wait)

# isort: split
import torch
from torch import Tensor, nn

from decentral.engines.worker import configure_process
from decentral.gradients import Batch
from decentral.layout import Layout
from decentral.registry import build

INPUT, CLASSES, BATCH = (1, 8, 8), 10, 32

MODELS = {
    "mlp": "mlp",
    "cnn": "cnn",
    "cnn, batch norm": {"name": "cnn", "norm": "batch"},
    "cnn, group norm": {"name": "cnn", "norm": "group"},
}


def best(
    run: Callable[[], object],
    repeats: int = 7,
    budget_s: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the least seconds of one call by ``clock``, over repeats that take about
    ``budget_s`` together."""
    run()
    times: list[float] = []
    stop = time.perf_counter() + budget_s
    while len(times) < repeats or (
        time.perf_counter() < stop and len(times) < 20 * repeats
    ):
        begin = clock()
        run()
        times.append(clock() - begin)
    return min(times)


def model_of(spec: Any) -> nn.Module:
    return build("model", spec)(INPUT, CLASSES)


class Rows:
    """Some nodes at work on digits-shaped noise."""

    def __init__(self, model: nn.Module, nodes: int) -> None:
        self.layout = Layout.of(model)
        self.block = torch.zeros(nodes, self.layout.width)
        for row in self.block:
            self.layout.pack(model, row)
        self.out = torch.zeros_like(self.block)
        self.integers = {
            k: torch.stack([v] * nodes) for k, v in self.layout.integers.items()
        }
        self.batch = Batch(
            torch.randn(nodes, BATCH, *INPUT),
            torch.randint(0, CLASSES, (nodes, BATCH)),
            torch.zeros(nodes, BATCH, dtype=torch.int64),
        )

    def step(self, gradient: Callable[..., Tensor]) -> float:
        return best(lambda: gradient(self.block, self.integers, self.batch, self.out))


def threads(*flags: str) -> int:
    """Read --threads, and set them; the ``flags`` of a benchmark may be there, too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    chosen: int = parser.parse_args().threads
    configure_process(chosen)
    return chosen


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table in Markdown."""
    print(f"\n{title}\n", flush=True)
    cells = [
        [f"{c:.2f}" if isinstance(c, float) else str(c) for c in row] for row in rows
    ]
    widths = [
        max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))
    ]
    for line in [list(head), ["-" * w for w in widths], *cells]:
        print(
            "| "
            + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True))
            + " |"
        )
