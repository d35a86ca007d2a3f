"""All rows together: vmap over views of the block."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from decentral.gradients.draws import key_buffers
from decentral.gradients.kernels import kernels_of
from decentral.gradients.layers import layer_forward
from decentral.layout import Layout
from decentral.pytree import Tree, tree_at

Buffers = dict[str, Tensor]


def stacked_forward(
    model: nn.Module, layout: Layout, own: bool = False
) -> Callable[[Tensor, Buffers, Tree], Tree]:
    """Return ``forward(rows, integers, inputs) -> outputs``: every row on the same inputs.

    rows [n, P], inputs [B, ...] (with ``own``, every row its own: [n, B, ...]), outputs
    [n, B, ...]. Buffers are read, not updated: ``model`` is in evaluation mode.

    Args:
        model: The module, in evaluation mode.
        layout: Where each parameter stands in a row.
        own: Whether every row has inputs of its own.
    """
    kernels = kernels_of(model, layout)
    return layer_forward(kernels, layout, own) if kernels else _vmap_forward(model, layout, own)


@contextmanager
def plain_attention() -> Generator[None]:
    """Compute attention from matrix products: vmap would take fused kernels row by row."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _vmap_forward(
    model: nn.Module, layout: Layout, own: bool
) -> Callable[[Tensor, Buffers, Tree], Tree]:
    def one(parameters: Buffers, buffers: Buffers, inputs: Tree) -> Tree:
        return functional_call(model, {**layout.frozen, **parameters, **buffers}, (inputs,))

    # An error rather than one draw for all rows: keyed dropout draws nothing here,
    # and other random layers are left to the loop.
    mapped = vmap(one, in_dims=(0, 0, 0 if own else None), randomness="error")

    def forward(rows: Tensor, integers: Buffers, inputs: Tree) -> Tree:
        buffers = layout.views(rows.detach(), layout.buffers)
        floats = {k: v.contiguous() for k, v in buffers.items()}
        copies = {k: v.clone() for k, v in integers.items()}
        with plain_attention():
            return mapped(layout.views(rows), {**floats, **copies}, inputs)

    return forward


class VmapGradient:
    """Differentiates all rows of a block at once with ``vmap(grad)``."""

    kind = "vmap"

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        loss: Callable[[Tensor, Tensor], Tensor],
        at_once: int | None = None,
    ) -> None:
        """Prepare for one model, its layout, and a loss that averages over a batch.

        Rows are computed ``at_once`` (None: all), since memory grows with their number.
        """
        self.layout, self.at_once = layout, at_once
        self.key_names = key_buffers(model)

        def objective(
            parameters: Buffers, buffers: Buffers, inputs: Tree, targets: Tree
        ) -> tuple[Tensor, Buffers]:
            everything = {**layout.frozen, **parameters, **buffers}
            found = loss(functional_call(model, everything, (inputs,)), targets)
            # Buffers that the forward pass assigned anew stand in what it was called with.
            return found, {name: everything[name] for name in buffers}

        self.mapped: Any = vmap(grad_and_value(objective, has_aux=True), randomness="error")

    def compile(self, mode: str) -> None:
        """Let ``torch.compile`` make one program of all rows, in one of its modes.

        What was compiled before is dropped: torch counts it against one limit for all models, and
        behind that limit it would compute as if nothing were compiled.
        """
        torch.compiler.reset()
        self.mapped = torch.compile(self.mapped, mode=mode, dynamic=False)

    def __call__(self, rows: Tensor, integers: Buffers, batch: Any, out: Tensor) -> Tensor:
        """Write the gradients of all rows into ``out``; return losses [n]."""
        size = self.at_once or len(rows)
        losses = [
            self._part(slice(start, start + size), rows, integers, batch, out)
            for start in range(0, len(rows), size)
        ]
        return torch.cat(losses)

    def _part(
        self, some: slice, rows: Tensor, integers: Buffers, batch: Any, out: Tensor
    ) -> Tensor:
        """Write the gradients of some rows; return their losses."""
        layout, own = self.layout, rows[some]
        # A strided running buffer is not updated under vmap, so buffers enter as copies.
        floats = {
            k: v.clone(memory_format=torch.contiguous_format)
            for k, v in layout.views(own, layout.buffers).items()
        }
        # Dropout layers find the keys of their samples in a buffer, as what can be
        # mapped.
        keys: Any = dict.fromkeys(self.key_names, batch.keys[some])
        buffers = {**floats, **{k: v[some] for k, v in integers.items()}, **keys}
        with plain_attention():
            inputs, targets = tree_at(batch.inputs, some), tree_at(batch.targets, some)
            grads, (losses, after) = self.mapped(layout.views(own), buffers, inputs, targets)
        for name, view in layout.views(out[some]).items():
            view.copy_(grads[name])
        # Statistics of BatchNorm, which the copies have gathered, go back into the
        # rows.
        for name, view in layout.views(own, layout.buffers).items():
            view.copy_(after[name])
        for name, value in integers.items():
            value[some].copy_(after[name])
        return cast(Tensor, losses).clone()  # a CUDA graph writes into the same memory next time
