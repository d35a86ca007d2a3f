"""Gradients of many nodes: all rows together against one row at a time.

    python benchmarks/rows.py [--threads 2] [--compiled]

"hot" are the products of the same gradient alone, on weights of a few rows that stay in the cache;
"floor" its operations at the rate of MKL for 512 x 512 matrices, "roof" at the better of MKL's
and oneDNN's. In both tables they are of what computes all rows together.
The second table is of larger models, in time of the CPU, and says what ``replicas: auto`` takes.
``--compiled`` adds all rows by vmap as one program of torch.compile, which takes minutes to make.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from common import MODELS, Rows, best, model_of, table, threads

# isort: split
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.functional import linear as linear_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from decentral.gradients import (
    Batch,
    Gradient,
    LayerGradient,
    LoopGradient,
    VmapGradient,
    choose,
    kernels_of,
)
from decentral.gradients.autograd import plain_attention
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


#: Rows whose products are timed by themselves: 0.4 MB of weights for the perceptron.
HOT = 4
#: What counts as a product: of matrices, of a convolution, of attention.
PRODUCTS = (
    "mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
)  # fmt: skip


class Products(TorchDispatchMode):
    """Notes the products that are computed under it, to do them again."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        again = partial(func, *args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            self.found.append(again)
        return again()


def hot_s(gradient: Gradient, layout: Layout, batch: Batch, model: nn.Module) -> float:
    """Return the CPU time of the products of a gradient and of nothing else, on few rows."""
    nodes = len(batch.inputs)
    few = Batch(batch.inputs[:HOT], batch.targets[:HOT], batch.keys[:HOT])
    with Products() as products:
        gradient(*_block(model, layout, HOT)[:2], few, torch.zeros(HOT, layout.width))

    def every() -> None:
        with torch.no_grad():
            for product in products.found:
                product()

    return best(every, clock=time.process_time) * nodes / HOT


def operations(model: nn.Module, layout: Layout, loss: Any, batch: Batch) -> float:
    """Return the floating-point operations of a gradient's products, attention as if nothing
    in it were masked."""
    one = Batch(batch.inputs[:1], batch.targets[:1], batch.keys[:1])
    rows, integers = _block(model, layout, 1)
    with FlopCounterMode(display=False) as counter, plain_attention():
        LoopGradient(model, layout, loss)(rows, integers, one, torch.zeros_like(rows))
    return float(counter.get_total_flops()) * len(batch.inputs)


def rates() -> tuple[float, float]:
    """Return the operations a second of MKL and of oneDNN, 512 x 512 by 512 x 512."""
    square = torch.randn(512, 512)
    blocked = square.to_mkldnn()
    tries = (lambda: square @ square), (lambda: linear_of(blocked, blocked))
    mkl, onednn = (2 * 512**3 / best(one, clock=time.process_time) for one in tries)
    return mkl, onednn


def compare(name: str, nodes: int) -> list[object]:
    model = model_of(MODELS[name])
    rows = Rows(model, nodes)
    kernels = kernels_of(model, rows.layout)
    assert kernels
    loop = rows.step(LoopGradient(model, rows.layout, cross_entropy))
    mapped = rows.step(VmapGradient(model, rows.layout, cross_entropy))
    gradient = LayerGradient(kernels, rows.layout, cross_entropy)
    layers = rows.step(gradient)
    ratios = limits(layers, gradient, model, rows.layout, cross_entropy, rows.batch)
    return [name, nodes, layers * 1e3, loop / mapped, loop / layers, *ratios]


def limits(
    spent_s: float,
    gradient: Gradient,
    model: nn.Module,
    layout: Layout,
    loss: Any,
    batch: Batch,
) -> list[object]:
    """Return a gradient's time over that of its hot products, and of its operations at the rate
    of MKL and at the better one."""
    work, (mkl, onednn) = operations(model, layout, loss, batch), rates()
    hot = hot_s(gradient, layout, batch, model)
    return [spent_s / hot, spent_s / work * mkl, spent_s / work * max(mkl, onednn)]


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
    spent = {key: _cpu_s(way, model, layout, batch) for key, way in ways.items()}
    ratios = {key: loop / seconds for key, seconds in spent.items()}
    best_way = min(("vmap", "layers"), key=lambda key: spent.get(key, inf))
    whole = spent[best_way], ways[best_way], model, layout, loss, batch
    over: list[object] = limits(*whole) if kernels else ["-"] * 3
    taken, _ = choose("auto", model, layout, loss, nodes, lambda: batch)
    return [
        name, nodes, f"{layout.parameter_count:,}", f"{kept:,}", at_once, loop * 1e3,
        *(ratios.get(way, "-") for way in ("vmap", "layers", "compiled")),
        *over, type(taken).__name__.removesuffix("Gradient"),
    ]  # fmt: skip


def _batch(nodes: int, size: int, shape: tuple[int, ...]) -> Batch:
    keys = torch.zeros(nodes, size, dtype=torch.int64)
    if len(shape) == 1:
        tokens = torch.randint(0, TOKENS, (2, nodes, size, *shape))
        return Batch(tokens[0], tokens[1], keys)
    return Batch(
        torch.randn(nodes, size, *shape), torch.randint(0, 10, (nodes, size)), keys
    )


def _block(
    model: nn.Module, layout: Layout, nodes: int
) -> tuple[Tensor, dict[str, Tensor]]:
    rows = torch.zeros(nodes, layout.width)
    for row in rows:
        layout.pack(model, row)
    return rows, {k: torch.stack([v] * nodes) for k, v in layout.integers.items()}


def _cpu_s(gradient: Gradient, model: nn.Module, layout: Layout, batch: Batch) -> float:
    rows, whole = _block(model, layout, len(batch.inputs))
    out, times = torch.zeros_like(rows), list[float]()
    for _ in range(TRIES):
        begin = time.process_time()
        gradient(rows, whole, batch, out)
        times.append(time.process_time() - begin)
    return min(times)


if __name__ == "__main__":
    title = f"All rows together, {threads(FLAG)} threads (ratios: higher is faster)"
    head = (
        "model", "nodes", "layers, ms", "loop/vmap", "loop/layers", "layers/hot",
        "layers/floor", "layers/roof",
    )  # fmt: skip
    table(title, head, [compare(name, nodes) for name in MODELS for nodes in NODES])
    head = (
        "model", "nodes", "parameters", "kept per row", "rows at once", "loop, CPU ms",
        "loop/vmap", "loop/layers", "loop/compiled", "over hot", "over floor", "over roof",
        "auto takes",
    )  # fmt: skip
    table("Larger models, CPU time", head, [compare_larger(*case) for case in LARGER])
