"""One node against a training loop written by hand: time of a step, and peak memory.

python benchmarks/single.py [--threads 2]
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from common import BATCH, best, model_of, table, threads

# isort: split
import torch
from torch.nn.functional import cross_entropy

from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.engines.worker import configure_process
from decentral.registry import build

MODELS: dict[str, Any] = {
    "mlp": "mlp",
    "mlp 1024": {"name": "mlp", "hidden": [1024, 1024]},
    "cnn": "cnn",
    "cnn, batch norm": {"name": "cnn", "norm": "batch"},
}


def ours(model: Any, count: int) -> Callable[[], object]:
    settings = {"nodes": 1, "steps": 100_000, "communication": "none", "threads": count}
    run = LocalRun(make_config({**settings, "model": model}))

    def step() -> None:
        run.setup.algorithm(run.block, run.block.decide())
        run.block.finish_step()

    return step


def by_hand(model: Any) -> Callable[[], object]:
    train = build("task", "digits")().splits[0]
    module = model_of(model)
    sgd = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        index = torch.randint(0, len(train), (BATCH,))
        sgd.zero_grad()
        cross_entropy(module(train.inputs[index]), train.targets[index]).backward()
        sgd.step()

    return step


def compare(name: str, count: int) -> list[object]:
    hand, mine = by_hand(MODELS[name]), ours(MODELS[name], count)
    pairs = [(best(hand, 50, 1.0), best(mine, 50, 1.0)) for _ in range(3)]
    theirs, our = (min(column) for column in zip(*pairs, strict=True))
    return [name, theirs * 1e6, our * 1e6, our / theirs]


def peak_rows(which: str) -> float:
    """Return what steps of a large model add to a process, in rows of parameters."""
    command = [sys.executable, __file__, "--peak", which]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(which: str) -> None:
    configure_process(1)
    small, large = ({"name": "mlp", "hidden": [width] * 16} for width in (8, 1024))
    make = by_hand if which == "hand" else lambda model: ours(model, 1)
    make(small)()
    before = resident()
    step = make(large)
    for _ in range(3):
        step()
    row = 4 * sum(p.numel() for p in model_of(large).parameters())
    print((resident() - before) / row)


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    if "--peak" in sys.argv:
        print_peak(sys.argv[-1])
        raise SystemExit
    count = threads()
    rows = [compare(name, count) for name in MODELS]
    title = f"One node, {count} threads"
    table(title, ("model", "by hand, us", "decentral, us", "ratio"), rows)
    hand, mine = peak_rows("hand"), peak_rows("decentral")
    head = "by hand", "decentral", "difference"
    table(
        "Peak memory of 3 steps, MLP of 16 hidden layers of 1024, in rows",
        head,
        [[hand, mine, mine - hand]],
    )
