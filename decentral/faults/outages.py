"""Links that are down."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from decentral.faults import _chain
from decentral.registry import plugin


@plugin("fault", strikes="links")
def outages(
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    slot: int,
    seed: int,
    *,
    share: Annotated[float, Ge(0), Lt(1)] = 0.1,
    length: Annotated[float, Ge(1)] = 10.0,
) -> NDArray[np.bool_]:
    """Let links be down a ``share`` of the time, for ``length`` slots on average, both ways.

    Both ends know, and weigh the links that are left as if there were no others.
    """
    return _chain.bad("faults: outages", share, length, slot, seed, low, high)
