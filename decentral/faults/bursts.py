"""Messages that are lost in bursts."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from decentral.faults import _chain
from decentral.registry import plugin


@plugin("fault", strikes="messages")
def bursts(
    receivers: NDArray[np.int64],
    senders: NDArray[np.int64],
    slot: int,
    seed: int,
    *,
    share: Annotated[float, Ge(0), Lt(1)] = 0.1,
    length: Annotated[float, Ge(1)] = 10.0,
    both: bool = False,
) -> NDArray[np.bool_]:
    """Lose a ``share`` of the messages of a link, ``length`` slots in a row on average.

    (Gilbert, "Capacity of a burst-noise channel", 1960; Elliott, 1963, with a good state that loses
    nothing and a bad one that loses all.)
    """
    return _chain.bad("faults: bursts", share, length, slot, seed, receivers, senders)
