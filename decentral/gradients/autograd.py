"""Gradients by autograd: one row at a time, or all rows together by vmap.

One at a time, a module has parameters that are views of the row; together, vmap
goes over views of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from decentral.gradients.base import repeated_layers
from decentral.gradients.draws import key_buffers
from decentral.gradients.kernels import kernels_of
from decentral.gradients.layers import layer_forward
from decentral.layout import Layout, share_parameters
from decentral.pytree import Tree, tree_at, tree_stack
from decentral.rng import fork_rng

# --- one row at a time ------------------------------------------------------------


def make_looped_forward(
    model: nn.Module, layout: Layout, own: bool = False
) -> Callable[[Tensor, dict[str, Tensor], Tree], Tree]:
    """Return ``forward(rows, integers, inputs) -> outputs`` that runs one row at a
    time.

    With ``own`` every row has inputs of its own, [n, B, ...].

    Args:
        model: The module that is run, its parameters those of one row after the
            other.
        layout: Where each parameter stands in a row.
        own: Whether every row has inputs of its own.
    """
    rescales = any(getattr(module, "max_norm", None) for module in model.modules())

    def forward(rows: Tensor, integers: dict[str, Tensor], inputs: Tree) -> Tree:
        outputs: list[Tree] = []
        for index in range(rows.shape[0]):
            one = rows[index : index + 1]
            if rescales:  # an embedding with max_norm writes into its weight: into a copy
                one = one.clone()
            named = {k: v[0] for k, v in layout.views(one, layout.parameters).items()}
            # Copies, so that a module which changes its buffers does not reach into
            # rows.
            floats = {
                k: v[0].clone()
                for k, v in layout.views(one.detach(), layout.buffers).items()
            }
            whole = {k: v[index].clone() for k, v in integers.items()}
            state = {**layout.frozen, **named, **floats, **whole}
            given = tree_at(inputs, index) if own else inputs
            outputs.append(functional_call(model, state, (given,)))
        return tree_stack(outputs)

    return forward


class LoopGradient:
    """Differentiates the rows one after the other, as any PyTorch training loop
    does.

    The module's parameters and their gradients point into the row and the gradient
    block, so that autocast, compilation and accumulation work as everywhere.
    ``draws`` marks a model that draws random numbers of its own: torch's generator
    is then seeded by the key of each row's first sample.
    """

    kind = "loop"

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        loss: Callable[[Tensor, Tensor], Tensor],
        again: bool = False,
    ) -> None:
        """Prepare for one model.

        Args:
            model: The module.
            layout: Where each parameter stands in a row.
            loss: Averages over a batch.
            again: Whether repeated layers keep their inputs only, and are computed
                again on the way back.
        """
        self.layout, self.loss = layout, loss
        self.model = share_parameters(model).train()
        for layer in repeated_layers(self.model) if again else ():
            # Over the method, so that no parameter gets another name.
            whole = partial(checkpoint, layer.forward, use_reentrant=False)
            object.__setattr__(layer, "forward", whole)
        self.parameters = dict(self.model.named_parameters())
        self.buffers = dict(self.model.named_buffers())
        #: Where the module keeps each buffer: the module of which it is, and its
        #: name there.
        self.owners = [
            (
                self.model.get_submodule(name.rpartition(".")[0]),
                name.rpartition(".")[2],
                buffer,
            )
            for name, buffer in self.buffers.items()
        ]
        self.key_names = key_buffers(model)
        self.draws = False
        self.blocks: tuple[Tensor, dict[str, Tensor], Tensor] | None = None

    def __call__(
        self, rows: Tensor, integers: dict[str, Tensor], batch: Any, out: Tensor
    ) -> Tensor:
        """Write the gradients of all rows into ``out``; return losses [n]."""
        blocks = rows, integers, out
        bound = self.blocks and all(
            a is b for a, b in zip(self.blocks, blocks, strict=True)
        )
        losses: list[Tensor] = []
        for index in range(rows.shape[0]):
            # With a single row the module still points where it did at the last
            # step.
            if not bound or rows.shape[0] > 1:
                self._bind(index, rows, integers, out)
            losses.append(self._one(index, batch, out[index]))
        self.blocks = blocks
        return torch.stack(losses)

    def _bind(
        self, index: int, rows: Tensor, integers: dict[str, Tensor], out: Tensor
    ) -> None:
        """Point the module's parameters, gradients and buffers into one row."""
        row, grad = rows[index], out[index]
        for entry in self.layout.parameters:
            parameter = self.parameters[entry.name]
            # ``data``, since the parameter has to stay the object that the module
            # holds.
            parameter.data = row[entry.start : entry.stop].view(entry.shape)
            parameter.grad = grad[entry.start : entry.stop].view(entry.shape)
        for entry in self.layout.buffers:
            self.buffers[entry.name].data = row[entry.start : entry.stop].view(
                entry.shape
            )
        for name, value in integers.items():
            self.buffers[name].data = value[index]

    def _one(self, index: int, batch: Any, grad: Tensor) -> Tensor:
        # Gradients add up where they point to, and padding must stay 0.
        grad.zero_()
        with (
            fork_rng(int(batch.keys[index].flatten()[0])) if self.draws else nullcontext()
        ):
            loss = self.forward(index, batch)
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
        self.keep_assigned()
        return loss.detach()

    def keep_assigned(self) -> None:
        """Write buffers that the forward pass has assigned anew into the row, as
        those it changed.

        ``self.mean = 0.9 * self.mean + 0.1 * x.mean()`` leaves another tensor in
        the module.
        """
        for owner, name, bound in self.owners:
            now = getattr(owner, name)
            if now is not bound:
                with torch.no_grad():
                    bound.copy_(now)
                setattr(owner, name, bound)

    def forward(self, index: int, batch: Any) -> Tensor:
        """Return the loss of the model, as it stands, on the batch of one row."""
        for name in self.key_names:
            self.buffers[name].data = batch.keys[index]
        return self.loss(
            self.model(tree_at(batch.inputs, index)), tree_at(batch.targets, index)
        )


# --- all rows together ------------------------------------------------------------


Buffers = dict[str, Tensor]


def make_stacked_forward(
    model: nn.Module, layout: Layout, own: bool = False
) -> Callable[[Tensor, Buffers, Tree], Tree]:
    """Return ``forward(rows, integers, inputs) -> outputs``: every row on the same
    inputs.

    rows [n, P], inputs [B, ...] (with ``own``, every row its own: [n, B, ...]),
    outputs [n, B, ...]. Buffers are read, not updated: ``model`` is in evaluation
    mode.

    Args:
        model: The module, in evaluation mode.
        layout: Where each parameter stands in a row.
        own: Whether every row has inputs of its own.
    """
    kernels = kernels_of(model, layout)
    return (
        layer_forward(kernels, layout, own)
        if kernels
        else _vmap_forward(model, layout, own)
    )


@contextmanager
def plain_attention() -> Generator[None]:
    """Compute attention from matrix products: vmap would take fused kernels row by
    row.
    """
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
        return functional_call(
            model, {**layout.frozen, **parameters, **buffers}, (inputs,)
        )

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

        Rows are computed ``at_once`` (None: all), since memory grows with their
        number.
        """
        self.layout, self.at_once = layout, at_once
        self.key_names = key_buffers(model)

        def objective(
            parameters: Buffers, buffers: Buffers, inputs: Tree, targets: Tree
        ) -> tuple[Tensor, Buffers]:
            everything = {**layout.frozen, **parameters, **buffers}
            found = loss(functional_call(model, everything, (inputs,)), targets)
            # Buffers that the forward pass assigned anew stand in what it was
            # called with.
            return found, {name: everything[name] for name in buffers}

        self.mapped: Any = vmap(
            grad_and_value(objective, has_aux=True), randomness="error"
        )

    def compile(self, mode: str) -> None:
        """Let ``torch.compile`` make one program of all rows, in one of its modes.

        What was compiled before is dropped: torch counts it against one limit for
        all models, and behind that limit it would compute as if nothing were
        compiled.
        """
        torch.compiler.reset()
        self.mapped = torch.compile(self.mapped, mode=mode, dynamic=False)

    def __call__(
        self, rows: Tensor, integers: Buffers, batch: Any, out: Tensor
    ) -> Tensor:
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
        # A strided running buffer is not updated under vmap, so buffers enter as
        # copies.
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
            grads, (losses, after) = self.mapped(
                layout.views(own), buffers, inputs, targets
            )
        for name, view in layout.views(out[some]).items():
            view.copy_(grads[name])
        # Statistics of BatchNorm, which the copies have gathered, go back into the
        # rows.
        for name, view in layout.views(own, layout.buffers).items():
            view.copy_(after[name])
        for name, value in integers.items():
            value[some].copy_(after[name])
        return cast(
            Tensor, losses
        ).clone()  # a CUDA graph writes into the same memory next time
