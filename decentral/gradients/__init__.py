"""Gradients of a block of rows: ``gradient(rows, batch) -> losses``, written into a
block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.gradients.autograd import (
        LoopGradient,
        VmapGradient,
        make_looped_forward,
        make_stacked_forward,
    )
    from decentral.gradients.base import Batch, Gradient, Loss, Reduced
    from decentral.gradients.choice import choose
    from decentral.gradients.draws import key_dropout
    from decentral.gradients.kernels import kernels_of
    from decentral.gradients.layers import LayerGradient

__all__ = [
    "Batch",
    "Gradient",
    "LayerGradient",
    "LoopGradient",
    "Loss",
    "Reduced",
    "VmapGradient",
    "choose",
    "kernels_of",
    "key_dropout",
    "make_looped_forward",
    "make_stacked_forward",
]

__getattr__ = lazy_names(
    __name__,
    {
        "autograd": [
            "LoopGradient",
            "VmapGradient",
            "make_looped_forward",
            "make_stacked_forward",
        ],
        "base": ["Batch", "Gradient", "Loss", "Reduced"],
        "choice": ["choose"],
        "draws": ["key_dropout"],
        "kernels": ["kernels_of"],
        "layers": ["LayerGradient"],
    },
)
