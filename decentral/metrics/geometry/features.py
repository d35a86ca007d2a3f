"""What the layers of models see, and whether two models see the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decentral.layout import Layout


def gram(features: Tensor) -> Tensor:
    """Return the products of centred features of all pairs of samples, float64 [B, B].

    ``features`` [B, ...]: what a layer makes of every sample.
    """
    flat = features.flatten(1).double()
    centred = flat - flat.mean(0)
    return centred @ centred.T


def cka(one: Tensor, other: Tensor) -> float | None:
    """Return the linear CKA of two Gram matrices [B, B] of centred features, None where one is 0.

    <K, L> / (|K| |L|) = |Y^T X|^2 / (|X^T X| |Y^T Y|): 1 for features that differ in a rotation
    and a scale, 0 for features that have nothing in common. (Kornblith et al., "Similarity of
    neural network representations revisited", 2019.)
    """
    lengths = one.norm() * other.norm()
    return ((one * other).sum() / lengths).item() if lengths > 0 else None


def layer_names(layout: Layout) -> list[str]:
    """Return the modules that have parameters of their own, in their order in a row."""
    return list(dict.fromkeys(entry.name.rpartition(".")[0] for entry in layout.parameters))


class Features:
    """Computes the Gram matrices of all layers of one row after the other, on the same inputs.

    A layer is a module with parameters of its own; its features are its output, flattened, at its
    last call. A model that computes with parameters of its own beside those of its layers has one
    more layer, itself.
    """

    def __init__(self, model: nn.Module, layout: Layout, inputs: Tensor) -> None:
        """Look at ``inputs`` [B, ...] through the model."""
        self.model, self.layout, self.inputs = copy.deepcopy(model).eval(), layout, inputs

    def __call__(self, row: Tensor) -> dict[str, Tensor]:
        """Return the Gram matrix [B, B] of every layer of a row [P]."""
        self.layout.unpack(row, self.model)
        found: dict[str, Tensor] = {}
        modules = dict(self.model.named_modules())
        hooks = [
            modules[name].register_forward_hook(_keeper(found, name))
            for name in layer_names(self.layout)
        ]
        try:
            with torch.no_grad():
                self.model(self.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return found


def _keeper(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    """Return a hook that keeps the Gram matrix of what a module returns."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name] = gram(output)

    return keep


def agreement(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Return the linear CKA of two models, layer by layer."""
    return {name: cka(matrix, other[name]) for name, matrix in one.items() if name in other}
