"""Gradients of many nodes: all rows together against one row at a time.

    python benchmarks/rows.py [--threads 2] [--compiled]

"floor" is the same floating-point operations at the rate of a product of two 512 x 512 matrices,
"hot" the same batched products alone, with weights that stay in the second-level cache, "roof" the
operations at the best rate that the processor shows: the larger of those that MKL and oneDNN reach.
The second table is of larger models, in time of the CPU, and says what ``replicas: auto`` takes.
``--compiled`` adds all rows by vmap as one program of torch.compile, which takes minutes to make.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from common import BATCH, MODELS, Rows, best, model_of, table, threads

# isort: split
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.functional import linear as linear_of

from decentral.gradients import (
    Batch,
    Gradient,
    LayerGradient,
    LoopGradient,
    VmapGradient,
    choose,
    kernels_of,
)
from decentral.gradients.base import count_saved_numbers, rows_at_once
from decentral.layout import Layout
from decentral.registry import build
from decentral.tasks.text import next_token

NODES = 8, 16, 64, 256

IMAGE, TOKENS = (3, 32, 32), 103
#: Model, nodes, samples per node, shape of an input.
LARGER: list[tuple[str, int, int, tuple[int, ...]]] = [
    ("cnn", 16, 32, IMAGE),
    ("resnet20(width=4)", 16, 32, IMAGE),
    ("resnet20", 4, 32, IMAGE),
    ("resnet20(norm=group)", 4, 32, IMAGE),
    ("resnet18(width=8)", 8, 16, IMAGE),
    ("vit(layers=2, width=64)", 8, 16, IMAGE),
    ("gpt", 8, 16, (64,)),
    ("gpt(width=32)", 16, 8, (32,)),
    ("gpt(width=16, layers=1)", 16, 8, (16,)),
]
FLAG = "--compiled"
COMPILED = FLAG in sys.argv
#: Times that each way is tried; the least counts.
TRIES = 3


def floor_s(model: nn.Module, nodes: int) -> float:
    """Return the floor of a perceptron; the first layer needs no gradient of its input."""
    square = torch.randn(512, 512)
    return cubes(model, nodes) * best(lambda: square @ square)


def cubes(model: nn.Module, nodes: int) -> float:
    """Return the operations of a gradient, in those of a product of 512 x 512 matrices."""
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
    return 2 * nodes * BATCH * (3 * sum(linear) - linear[0]) / (2 * 512**3)


def roof_s(model: nn.Module, nodes: int) -> float:
    """Return the same at the better rate of the two libraries that torch has for products."""
    square = torch.randn(512, 512)
    blocked = square.to_mkldnn()
    rates = best(lambda: square @ square), best(lambda: linear_of(blocked, blocked))
    return cubes(model, nodes) * min(rates)


#: Nodes whose weights stay in a second-level cache of 1 MB: 0.4 MB for the perceptron.
HOT = 4


def hot_s(model: nn.Module, nodes: int) -> float:
    """Return the time of the products of a perceptron's gradient, and of nothing else."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    shapes = [(m.in_features, m.out_features) for m in layers]
    inputs = [torch.randn(HOT, BATCH, width) for width, _ in shapes]
    errors = [torch.randn(HOT, BATCH, width) for _, width in shapes]
    weights = [torch.randn(HOT, *shape) for shape in shapes]

    def products() -> None:
        for place, (x, error, weight) in enumerate(
            zip(inputs, errors, weights, strict=True)
        ):
            torch.bmm(x, weight)
            torch.bmm(x.transpose(1, 2), error)
            if place:  # nobody asks for the gradient of the inputs
                torch.bmm(error, weight.transpose(1, 2))

    return best(products) * nodes / HOT


def compare(name: str, nodes: int) -> list[object]:
    model = model_of(MODELS[name])
    rows = Rows(model, nodes)
    kernels = kernels_of(model, rows.layout)
    assert kernels
    loop = rows.step(LoopGradient(model, rows.layout, cross_entropy))
    mapped = rows.step(VmapGradient(model, rows.layout, cross_entropy))
    layers = rows.step(LayerGradient(kernels, rows.layout, cross_entropy))
    limits = (floor_s, hot_s, roof_s)
    over = [layers / of(model, nodes) if name == "mlp" else "-" for of in limits]
    return [name, nodes, layers * 1e3, loop / mapped, loop / layers, *over]


def compare_larger(
    name: str, nodes: int, size: int, shape: tuple[int, ...]
) -> list[object]:
    """Return the time of one row at a time over that of rows together, as far as memory allows."""
    of_tokens = len(shape) == 1
    model: nn.Module = build("model", name)(shape, TOKENS if of_tokens else 10)
    loss = next_token if of_tokens else cross_entropy
    batch = _batch(nodes, size, shape)
    layout, kept = Layout.of(model), count_saved_numbers(model, batch.inputs[0])
    at_once = rows_at_once(kept, layout.width, torch.device("cpu"))
    kernels = kernels_of(model, layout)
    ways: dict[str, Gradient] = {"vmap": VmapGradient(model, layout, loss, at_once)}
    if kernels:
        ways["layers"] = LayerGradient(kernels, layout, loss, at_once)
    if COMPILED:
        ways["compiled"] = program = VmapGradient(model, layout, loss, at_once)
        program.compile("default")
    loop = _cpu_s(LoopGradient(model, layout, loss), model, layout, batch)
    ratios = {key: loop / _cpu_s(way, model, layout, batch) for key, way in ways.items()}
    taken, _ = choose("auto", model, layout, loss, nodes, lambda: batch)
    return [
        name, nodes, f"{layout.parameter_count:,}", f"{kept:,}", at_once, loop * 1e3,
        *(ratios.get(way, "-") for way in ("vmap", "layers", "compiled")),
        type(taken).__name__.removesuffix("Gradient"),
    ]  # fmt: skip


def _batch(nodes: int, size: int, shape: tuple[int, ...]) -> Batch:
    keys = torch.zeros(nodes, size, dtype=torch.int64)
    if len(shape) == 1:
        tokens = torch.randint(0, TOKENS, (2, nodes, size, *shape))
        return Batch(tokens[0], tokens[1], keys)
    return Batch(
        torch.randn(nodes, size, *shape), torch.randint(0, 10, (nodes, size)), keys
    )


def _cpu_s(gradient: Gradient, model: nn.Module, layout: Layout, batch: Batch) -> float:
    nodes = len(batch.inputs)
    rows = torch.zeros(nodes, layout.width)
    for row in rows:
        layout.pack(model, row)
    whole: dict[str, Any] = {
        k: torch.stack([v] * nodes) for k, v in layout.integers.items()
    }
    out, times = torch.zeros_like(rows), list[float]()
    for _ in range(TRIES):
        begin = time.process_time()
        gradient(rows, whole, batch, out)
        times.append(time.process_time() - begin)
    return min(times)


if __name__ == "__main__":
    title = f"All rows together, {threads(FLAG)} threads (ratios: higher is faster)"
    head = (
        "model", "nodes", "layers, ms", "loop/vmap", "loop/layers", "layers/floor",
        "layers/hot", "layers/roof",
    )  # fmt: skip
    table(title, head, [compare(name, nodes) for name in MODELS for nodes in NODES])
    head = (
        "model", "nodes", "parameters", "kept per row", "rows at once", "loop, CPU ms",
        "loop/vmap", "loop/layers", "loop/compiled", "auto takes",
    )  # fmt: skip
    table("Larger models, CPU time", head, [compare_larger(*case) for case in LARGER])
