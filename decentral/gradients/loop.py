"""One row at a time: a module whose parameters are views of the row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decentral.generator import fork_rng
from decentral.gradients.draws import key_buffers
from decentral.layout import Layout, share_parameters
from decentral.pytree import Tree, tree_at, tree_stack


def looped_forward(
    model: nn.Module, layout: Layout, own: bool = False
) -> Callable[[Tensor, dict[str, Tensor], Tree], Tree]:
    """Return ``forward(rows, integers, inputs) -> outputs`` that runs one row at a time.

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
                k: v[0].clone() for k, v in layout.views(one.detach(), layout.buffers).items()
            }
            whole = {k: v[index].clone() for k, v in integers.items()}
            state = {**layout.frozen, **named, **floats, **whole}
            given = tree_at(inputs, index) if own else inputs
            outputs.append(functional_call(model, state, (given,)))
        return tree_stack(outputs)

    return forward


class LoopGradient:
    """Differentiates the rows one after the other, as any PyTorch training loop does.

    The module's parameters and their gradients point into the row and the gradient block, so that
    autocast, compilation and accumulation work as everywhere. ``draws`` marks a model that draws
    random numbers of its own: torch's generator is then seeded by the key of each row's first
    sample.
    """

    kind = "loop"

    def __init__(
        self, model: nn.Module, layout: Layout, loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """Prepare for one model, its layout, and a loss that averages over a batch."""
        self.layout, self.loss = layout, loss
        self.model = share_parameters(model).train()
        self.parameters = dict(self.model.named_parameters())
        self.buffers = dict(self.model.named_buffers())
        #: Where the module keeps each buffer: the module of which it is, and its name there.
        self.owners = [
            (self.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], buffer)
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
        bound = self.blocks and all(a is b for a, b in zip(self.blocks, blocks, strict=True))
        losses: list[Tensor] = []
        for index in range(rows.shape[0]):
            # With a single row the module still points where it did at the last
            # step.
            if not bound or rows.shape[0] > 1:
                self._bind(index, rows, integers, out)
            losses.append(self._one(index, batch, out[index]))
        self.blocks = blocks
        return torch.stack(losses)

    def _bind(self, index: int, rows: Tensor, integers: dict[str, Tensor], out: Tensor) -> None:
        """Point the module's parameters, gradients and buffers into one row."""
        row, grad = rows[index], out[index]
        for entry in self.layout.parameters:
            parameter = self.parameters[entry.name]
            # ``data``, since the parameter has to stay the object that the module
            # holds.
            parameter.data = row[entry.start : entry.stop].view(entry.shape)
            parameter.grad = grad[entry.start : entry.stop].view(entry.shape)
        for entry in self.layout.buffers:
            self.buffers[entry.name].data = row[entry.start : entry.stop].view(entry.shape)
        for name, value in integers.items():
            self.buffers[name].data = value[index]

    def _one(self, index: int, batch: Any, grad: Tensor) -> Tensor:
        # Gradients add up where they point to, and padding must stay 0.
        grad.zero_()
        with fork_rng(int(batch.keys[index].flatten()[0])) if self.draws else nullcontext():
            loss = self.forward(index, batch)
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
        self.keep_assigned()
        return loss.detach()

    def keep_assigned(self) -> None:
        """Write buffers that the forward pass has assigned anew into the row, as those it changed.

        ``self.mean = 0.9 * self.mean + 0.1 * x.mean()`` leaves another tensor in the module.
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
        return self.loss(self.model(tree_at(batch.inputs, index)), tree_at(batch.targets, index))
