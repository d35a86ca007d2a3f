"""Messages that are lost, each by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.registry import Share, plugin


@plugin("fault", strikes="messages")
def lost(
    receivers: NDArray[np.int64],
    senders: NDArray[np.int64],
    slot: int,
    seed: int,
    *,
    share: Share = 0.1,
    both: bool = False,
) -> NDArray[np.bool_]:
    """Lose each message with probability ``share``; with ``both``, two of a link go together."""
    return rng.uniform(seed, "lost", slot, receivers, senders) < share
