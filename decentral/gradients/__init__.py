"""Gradients of a block of rows: ``gradient(rows, batch) -> losses``, gradients written to a block.

``replicas: vmap`` differentiates all rows together, ``loop`` one after the other through a module
whose parameters are views of the row; chosen once per run. All rows together means layer by layer
for sequential models of known layers and ``torch.func.vmap`` for any other. All are pure in the
rows and the batch except for the model's buffers, which they update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.gradients.dropout import keyed
from decentral.gradients.layers import LayerGradient, kernels_of
from decentral.gradients.loop import LoopGradient, looped_forward
from decentral.gradients.stacked import VmapGradient, stacked_forward
from decentral.layout import Layout, shadow

__all__ = [
    "Batch",
    "Gradient",
    "LayerGradient",
    "LoopGradient",
    "VmapGradient",
    "choose",
    "kernels_of",
    "keyed",
    "looped_forward",
    "stacked_forward",
]

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """One step's samples of a block: inputs [n, B, ...], targets [n, B, ...], sample keys [n, B].

    ``keys`` names every sample visit by 63 random bits, from which keyed dropout draws its masks.
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor

    def micro(self, size: int | None) -> list[Batch]:
        """Split into micro-batches of ``size`` samples (the last may be smaller)."""
        if size is None or size >= self.inputs.shape[1]:
            return [self]
        parts = (t.split(size, dim=1) for t in (self.inputs, self.targets, self.keys))
        return [Batch(*triple) for triple in zip(*parts, strict=True)]


class Gradient(Protocol):
    """Computes the gradients of all rows of a block."""

    kind: str

    def __call__(
        self, rows: Tensor, integers: dict[str, Tensor], batch: Batch, out: Tensor
    ) -> Tensor:
        """Write the gradient of every row into ``out`` [n, P]; return losses [n].

        Buffers inside ``rows`` and ``integers`` are updated by the forward pass.
        """
        ...


#: Where computing rows together beats one after the other: least rows and most parameters of a
#: model, by class and device (CPU: benchmarks/rows.py; CUDA: launches bound small models).
_TOGETHER: dict[tuple[type, str], tuple[int, float]] = {
    (LayerGradient, "cpu"): (2, inf),
    (VmapGradient, "cpu"): (8, 1 << 16),
    (LayerGradient, "cuda"): (2, inf),
    (VmapGradient, "cuda"): (2, inf),
}


def choose(
    replicas: str,
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    nodes: int,
    probe: Callable[[], Batch],
) -> tuple[Gradient, str]:
    """Return the gradient for ``replicas: vmap | loop | auto`` and, in words, why.

    ``auto`` takes what a shipped table says is faster, among what the model allows.
    """
    model, batch = shadow(model).train(), probe()
    kernels = kernels_of(model, layout)
    together: Gradient
    if kernels:
        together, how = LayerGradient(kernels, layout, loss), "layer by layer"
    else:
        together, how = VmapGradient(model, layout, loss), "by vmap"
    slower = replicas == "auto" and _slower(together, batch.inputs.device, nodes, layout)
    why = "as asked" if replicas == "loop" else slower
    if not why:
        problem = _trial(together, model, layout, batch)
        if problem is None:
            return together, f"all rows together, {how}"
        if replicas == "vmap":
            raise ConfigError(
                f"replicas: vmap cannot run this model ({problem}); use replicas: loop."
            )
        why = f"vmap cannot run this model ({problem})"
    return _loop(model, layout, loss, batch), f"one row at a time: {why}"


def _slower(gradient: Gradient, device: torch.device, nodes: int, layout: Layout) -> str | None:
    """Return, in words, why computing rows together would not be faster, None where it is."""
    rows, parameters = _TOGETHER.get((type(gradient), device.type), (2, inf))
    if nodes == 1:
        return "there is one"
    if nodes >= rows and layout.parameter_count <= parameters:
        return None
    return f"faster than vmap for {nodes} rows of {layout.parameter_count:,} parameters"


def _loop(model: nn.Module, layout: Layout, loss: Loss, batch: Batch) -> LoopGradient:
    loop = LoopGradient(model, layout, loss)
    before = torch.get_rng_state()
    problem = _problem(lambda: loop.forward(0, batch).item())
    if problem:
        raise ConfigError(
            f"the model and the loss fail on a batch {list(batch.inputs.shape[1:])} of the task "
            f"({problem}); check shapes and types."
        )
    loop.draws = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    return loop


def _trial(gradient: Gradient, model: nn.Module, layout: Layout, batch: Batch) -> str | None:
    """Return why a gradient cannot run on two rows, in one line, or None if it can."""
    batch = Batch(batch.inputs[:2], batch.targets[:2], batch.keys[:2])
    rows = next(model.parameters()).new_zeros(len(batch.inputs), layout.width)
    for row in rows:
        layout.pack(model, row)
    integers = {k: torch.stack([v] * len(rows)).to(rows.device) for k, v in layout.integers.items()}
    return _problem(lambda: gradient(rows, integers, batch, torch.zeros_like(rows)))


def _problem(run: Callable[[], object]) -> str | None:
    """Return why ``run`` fails, in one line, or None if it does not."""
    try:
        run()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return str(error).strip().splitlines()[0][:120]
    return None
