"""Gradients of many nodes: all rows together against one row at a time.

    python benchmarks/rows.py [--threads 2]

"floor" is the same floating-point operations at the rate of a product of two 512 x 512 matrices.
"""

from __future__ import annotations

from common import BATCH, MODELS, Rows, best, model_of, table, threads

# isort: split
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from decentral.gradients import LayerGradient, LoopGradient, VmapGradient, kernels_of

NODES = 8, 16, 64, 256


def floor_s(model: nn.Module, nodes: int) -> float:
    """Return the floor of a perceptron; the first layer needs no gradient of its input."""
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)]
    flops = 2 * nodes * BATCH * (3 * sum(linear) - linear[0])
    square = torch.randn(512, 512)
    return flops / (2 * 512**3) * best(lambda: square @ square)


def compare(name: str, nodes: int) -> list[object]:
    model = model_of(MODELS[name])
    rows = Rows(model, nodes)
    kernels = kernels_of(model, rows.layout)
    assert kernels
    loop = rows.step(LoopGradient(model, rows.layout, cross_entropy))
    mapped = rows.step(VmapGradient(model, rows.layout, cross_entropy))
    layers = rows.step(LayerGradient(kernels, rows.layout, cross_entropy))
    floor = layers / floor_s(model, nodes) if name == "mlp" else "-"
    return [name, nodes, layers * 1e3, loop / mapped, loop / layers, floor]


if __name__ == "__main__":
    title = f"All rows together, {threads()} threads (ratios: higher is faster)"
    head = "model", "nodes", "layers, ms", "loop/vmap", "loop/layers", "layers/floor"
    table(title, head, [compare(name, nodes) for name in MODELS for nodes in NODES])
