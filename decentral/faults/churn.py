"""Nodes that leave and return."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from decentral.faults import _chain
from decentral.registry import Share, plugin


@plugin("fault", strikes="nodes")
def churn(
    ids: NDArray[np.int64],
    slot: int,
    seed: int,
    *,
    share: Share = 0.1,
    length: Annotated[float, Ge(1)] = 10.0,
    nodes: list[int] | None = None,
) -> NDArray[np.bool_]:
    """Let nodes be away a ``share`` of the time, for ``length`` slots on average.

    Who is away trains on alone, and comes back with what it has. ``nodes`` are those that may leave
    (none: all); ``churn(nodes=[3], share=1, start=40%, stop=60%)`` takes one away once.
    """
    away = _chain.bad("faults: churn", share, length, slot, seed, ids)
    return away if nodes is None else away & np.isin(ids, nodes)
