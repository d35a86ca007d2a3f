"""Gradients of a block of rows: ``gradient(rows, batch) -> losses``, gradients written to a block.

Two ways, chosen once per run (``replicas``): ``vmap`` differentiates all rows together, ``loop`` one after
the other through a module whose parameters are views of the row. Both are pure in the rows and the
batch except for the model's buffers, which they update when asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.gradients.dropout import keyed
from decentral.gradients.loop import LoopGradient, looped_forward
from decentral.gradients.stacked import VmapGradient, stacked_forward
from decentral.layout import Layout

__all__ = [
    "Batch",
    "Gradient",
    "LoopGradient",
    "VmapGradient",
    "choose",
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


def choose(
    replicas: str, model: nn.Module, layout: Layout, loss: Loss, nodes: int, probe: Callable[[], Batch]
) -> tuple[Gradient, str]:
    """Return the gradient for ``replicas: vmap | loop | auto`` and, in words, why.

    ``auto`` takes vmap for more than one row wherever the model allows it.
    """
    if replicas == "vmap" or (replicas == "auto" and nodes > 1):
        stacked = VmapGradient(model, layout, loss)
        problem = _trial(stacked, model, layout, nodes, probe())
        if problem is None:
            return stacked, "all rows together"
        if replicas == "vmap":
            raise ConfigError(
                f"replicas: vmap cannot run this model ({problem}); use replicas: loop."
            )
        why = f"one row at a time: vmap cannot run this model ({problem})"
    else:
        why = "one row at a time" if replicas == "loop" else "one row"
    loop = LoopGradient(model, layout, loss)
    loop.draws = _draws(lambda: _trial(loop, model, layout, nodes, probe()))
    return loop, why


def _draws(run: Callable[[], object]) -> bool:
    """Return whether ``run`` takes numbers from torch's global generator."""
    before = torch.get_rng_state()
    run()
    return not torch.equal(before, torch.get_rng_state())


def _trial(
    gradient: Gradient, model: nn.Module, layout: Layout, nodes: int, batch: Batch
) -> str | None:
    """Return why a gradient cannot run, in one line, or None if it can."""
    rows = batch.inputs.new_zeros(nodes, layout.width, dtype=next(model.parameters()).dtype)
    for row in rows:
        layout.pack(model, row)
    integers = {k: torch.stack([v] * nodes).to(rows.device) for k, v in layout.integers.items()}
    try:
        gradient(rows, integers, batch, torch.zeros_like(rows))
    except (RuntimeError, ValueError) as error:
        return str(error).strip().splitlines()[0][:120]
    return None
