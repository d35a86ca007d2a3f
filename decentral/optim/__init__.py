"""Optimizers: torch.optim, in place, over a block of rows; their classes serve any
script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.optim.base import LrInfo, default_lr, grouping, is_elementwise, updater
    from decentral.optim.block_optimizer import BlockOptimizer, state_numbers
    from decentral.optim.blocks import RATIOS, Blockwise, block_groups, block_of
    from decentral.optim.first_order import Lion, grad_power
    from decentral.optim.muon import Muon, MuonLite
    from decentral.optim.soap import Soap, SoapLite

__all__ = [
    "RATIOS",
    "BlockOptimizer",
    "Blockwise",
    "Lion",
    "LrInfo",
    "Muon",
    "MuonLite",
    "Soap",
    "SoapLite",
    "block_groups",
    "block_of",
    "default_lr",
    "grad_power",
    "grouping",
    "is_elementwise",
    "state_numbers",
    "updater",
]

__getattr__ = lazy_names(
    __name__,
    {
        "base": ["LrInfo", "default_lr", "grouping", "is_elementwise", "updater"],
        "block_optimizer": ["BlockOptimizer", "state_numbers"],
        "blocks": ["Blockwise", "RATIOS", "block_groups", "block_of"],
        "first_order": ["Lion", "grad_power"],
        "muon": ["Muon", "MuonLite"],
        "soap": ["Soap", "SoapLite"],
    },
    renamed={"Course": "LrInfo"},
)
