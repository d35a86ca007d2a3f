"""Gradients of a block of rows: ``gradient(rows, batch) -> losses``, gradients
written to a block.

``replicas: vmap`` differentiates all rows together, ``loop`` one after the other
through a module whose parameters are views of the row; chosen once per run. All
rows together means layer by layer for sequential models of known layers and
``torch.func.vmap`` for any other. All are pure in the rows and the batch except for
the model's buffers, which they update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from decentral.layout import share_parameters
from decentral.pytree import Tree, tree_map
from decentral.rng import fork_rng

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Batch:
    """One step's samples of a block: inputs [n, B, ...], targets [n, B, ...],
    sample keys [n, B].

    Inputs and targets are tensors, tuples of tensors, or tensors by name. ``keys``
    names every sample visit by 63 random bits, from which keyed dropout draws its
    masks.
    """

    inputs: Tree
    targets: Tree
    keys: Tensor


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


# --- how many rows at a time ------------------------------------------------------

#: Most rows at a time: more of them leave the cache, unless they are this few
#: numbers in all.
ROWS, _FEW = 32, 1 << 17
#: Numbers that the rows of one time may keep between forward and backward, by
#: device.
_KEPT = {"cpu": 1 << 26, "cuda": 1 << 30}


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """Return the outermost layers that stand in lists, such as a transformer's.

    Lists of lists are entered; a layer of no parts, such as Linear, is none.
    """
    found: list[nn.Module] = []
    lists = (nn.ModuleList, nn.Sequential)
    for part in model.children():
        if isinstance(model, lists) and not isinstance(part, lists):
            found += [part] if next(part.children(), None) is not None else []
        else:
            found += repeated_layers(part)
    return found


def _told_by_layer(
    layers: Sequence[nn.Module],
) -> tuple[dict[nn.Module | None, dict[int, int]], list[nn.Module | None]]:
    """Return numbers by place in memory, by layer, and the layer that is at work.

    None stands for what belongs to no layer. Into it goes what each is given.
    """
    within: dict[nn.Module | None, dict[int, int]] = {None: {}}
    now: list[nn.Module | None] = [None]

    def enter(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        now[0], within[layer] = layer, {}
        for tensor in (*given, *named.values()):
            if isinstance(tensor, Tensor):
                within[None][tensor.untyped_storage().data_ptr()] = tensor.numel()

    def leave(*_: Any) -> None:
        now[0] = None

    for layer in layers:
        layer.register_forward_pre_hook(enter, with_kwargs=True)
        layer.register_forward_hook(leave)
    return within, now


def count_saved_numbers(model: nn.Module, inputs: Tree, again: bool = False) -> int:
    """Return how many numbers a model keeps for its backward pass on ``inputs`` [B,
    ...].

    Args:
        model: The module.
        inputs: Inputs of one batch.
        again: Whether repeated layers are computed again on the way back: all keep
            their inputs, and one at a time the rest.
    """
    probe = share_parameters(model).eval()
    own = {
        tensor.untyped_storage().data_ptr()
        for tensor in [*probe.parameters(), *probe.buffers()]
    }
    within, now = _told_by_layer(repeated_layers(probe) if again else [])

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        # Parameters are kept as well, but are there anyway; what two layers keep
        # counts once.
        if place not in own:
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            within[now[0]][place] = size
        return tensor

    def unpack(tensor: Any) -> Any:
        return tensor

    # What is kept stays alive until the end, so that no place in memory is used
    # twice.
    with (
        fork_rng(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
    ):
        output = probe(tree_map(Tensor.clone, inputs))
    del output
    always, *layers = (sum(kept.values()) for kept in within.values())
    return always + max(layers, default=0)


def rows_at_once(kept: int, parameters: int, device: torch.device) -> int:
    """Return how many rows to compute at a time.

    Args:
        kept: Numbers that one keeps for its backward pass.
        parameters: Numbers of a row.
        device: Where they are computed.
    """
    budget = _KEPT.get(device.type, _KEPT["cuda"])
    # More than ``ROWS`` where models are so small that all stay in the cache.
    return max(1, min(ROWS, budget // max(1, kept)), _FEW // (kept + parameters))


# --- in bfloat16 ------------------------------------------------------------------


class Reduced:
    """Lets torch's autocast run a gradient's products in bfloat16; rows and sums
    stay float32.

    Weights are cast at each use, since the tensors behind a module's parameters
    change from row to row and autocast would remember those of the first.
    """

    def __init__(self, inner: Gradient) -> None:
        """Compute as ``inner`` does, in bfloat16."""
        self.inner, self.kind = inner, inner.kind

    def __call__(
        self, rows: Tensor, integers: dict[str, Tensor], batch: Batch, out: Tensor
    ) -> Tensor:
        """Write the gradients of all rows into ``out``; return losses [n]."""
        with torch.autocast(rows.device.type, torch.bfloat16, cache_enabled=False):
            return self.inner(rows, integers, batch, out)
