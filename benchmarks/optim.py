"""Optimizers of many nodes: all rows at once against one by one, and what GradPower adds to a step.

    python benchmarks/optim.py

"step" is a whole training step: gradient, then optimizer. GradPower costs a few nanoseconds per
parameter, so what it adds to a step depends on how many samples each parameter sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from common import model_of, table, threads

# isort: split
import torch
from torch import Tensor, nn

from decentral.config import make_config
from decentral.exchange.base import LocalExchange
from decentral.layout import Layout
from decentral.loop.block import Block
from decentral.loop.preparing import prepare
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.registry import build

NODES = 16


def best(run: Callable[[], object], repeats: int = 15) -> float:
    """Return the least seconds of CPU that one call takes: others on the machine count little."""
    run()
    times: list[float] = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


#: Matrices of two LLaMA layers of width 64, by name.
TRANSFORMER = {
    f"layers.{layer}.{name}.weight": shape
    for layer in range(2)
    for name, shape in {
        **{f"self_attn.{p}_proj": (64, 64) for p in "qkvo"},
        "mlp.gate_proj": (170, 64), "mlp.up_proj": (170, 64), "mlp.down_proj": (64, 170),
        "norm": (64,),
    }.items()
}  # fmt: skip


class Named(nn.Module):
    """Parameters with the names and shapes of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in TRANSFORMER.items():
            place: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.register_parameter(last, nn.Parameter(0.02 * torch.randn(shape)))


def update(spec: Any, layout: Layout, rows: Tensor, grads: Tensor) -> Callable[[], None]:
    """Return one update of all rows."""
    optimizer = BlockOptimizer(build("optimizer", spec), layout, rows, grads)
    return lambda: optimizer.step(1e-4)


def one_by_one(
    spec: Any, layout: Layout, rows: Tensor, grads: Tensor
) -> Callable[[], None]:
    """Return one update of all rows, each by an optimizer of its own."""
    parts = [
        update(spec, layout, rows[i : i + 1], grads[i : i + 1]) for i in range(len(rows))
    ]
    return lambda: [part() for part in parts] and None


def torchs_muon(layout: Layout, rows: Tensor, grads: Tensor) -> Callable[[], None]:
    """Return one update of all rows by torch's Muon for matrices, fused AdamW for the rest."""
    optimizers: list[torch.optim.Optimizer] = []
    for row, grad in zip(rows, grads, strict=True):
        kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for entry in layout.parameters:
            parameter = nn.Parameter(row[entry.start : entry.stop].view(entry.shape))
            parameter.grad = grad[entry.start : entry.stop].view(entry.shape)
            kinds[len(entry.shape) == 2].append(parameter)
        optimizers.append(torch.optim.Muon(kinds[True], lr=1e-4))
        optimizers.append(torch.optim.AdamW(kinds[False], lr=1e-4, fused=True))
    return lambda: [optimizer.step() for optimizer in optimizers] and None


def together(name: str, model: nn.Module) -> list[list[object]]:
    """Compare all rows at once with one by one, for every optimizer of matrices."""
    layout = Layout.of(model)
    rows, grads = torch.randn(NODES, layout.width), torch.randn(NODES, layout.width)
    adamw = best(update("adamw", layout, rows, grads))
    theirs = best(torchs_muon(layout, rows, grads))
    found: list[list[object]] = []
    for spec in ("muon", "muon(precision=bfloat16)", "muon_lite", "soap", "soap_lite"):
        ours = best(update(spec, layout, rows, grads))
        apart = best(one_by_one(spec, layout, rows, grads))
        torchs = theirs / ours if spec.startswith("muon(") or spec == "muon" else "-"
        found.append([name, spec, ours * 1e3, apart / ours, torchs, ours / adamw])
    return found


def stepping(settings: dict[str, Any], optimizer: dict[str, Any]) -> Callable[[], None]:
    """Return one training step of a run: gradient, clipping, optimizer."""
    config = make_config(
        {**settings, "optimizer": optimizer, "algorithm": "local", "threads": 1}
    )
    setup = prepare(config)
    block = Block(
        setup, LocalExchange(config.nodes, ordered=False), lambda event, details: None
    )
    return lambda: setup.algorithm(block, None)


def power(name: str, settings: dict[str, Any]) -> Iterator[list[object]]:
    """Yield what GradPower adds to a training step, the best of interleaved tries."""
    for kind in ("adamw", "muon"):
        plain, more = (
            stepping(settings, {"name": kind, "grad_power": p}) for p in (1.0, 1.2)
        )
        pairs = [(best(plain), best(more)) for _ in range(5)]
        base, powered = (min(column) for column in zip(*pairs, strict=True))
        yield [name, kind, base * 1e3, 100 * (powered / base - 1)]


RUNS: dict[str, dict[str, Any]] = {
    "gpt, 1 node, 1024 tokens": {"task": "text", "nodes": 1, "batch": 16},
    "gpt, 4 nodes, 4096 tokens": {"task": "text", "nodes": 4, "batch": 16},
    "mlp, 16 nodes, 512 images": {"task": "digits", "batch": 32},
    "cnn, 16 nodes, 512 images": {"task": "digits", "model": "cnn", "batch": 32},
}


if __name__ == "__main__":
    title = (
        f"Optimizers of matrices, {NODES} nodes, {threads()} thread (ratios of CPU time)"
    )
    head = (
        "model",
        "optimizer",
        "all at once, ms",
        "one by one",
        "torch's, one by one",
        "adamw = 1",
    )
    models = {"mlp": model_of("mlp"), "transformer layers": Named()}
    table(
        title,
        head,
        [line for name, model in models.items() for line in together(name, model)],
    )
    lines = [line for name, settings in RUNS.items() for line in power(name, settings)]
    table(
        "GradPower: what it adds to a training step",
        ("run", "optimizer", "step, ms", "more, %"),
        lines,
    )
