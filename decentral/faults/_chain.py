"""Two states that last: the chain of Gilbert (1960) and Elliott (1963), without a memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError

Integers = NDArray[np.int64]


def bad(
    what: str, share: float, length: float, slot: int, seed: int, *who: Integers
) -> NDArray[np.bool_]:
    """Return who is in the bad state in a slot: a ``share`` of all slots, ``length`` at a time.

    A chain enters the bad state with probability e = share / ((1 - share) length) and leaves it
    with 1 / length. One uniform draw u per slot decides: u < e is bad and u >= 1 - 1 / length good
    whatever was before; else the slot before counts. So the state is found by looking back.
    """
    if share >= 1:
        return np.ones(len(who[0]), bool)
    if length * (1 - share) < 1 - 1e-9:
        raise ConfigError(
            f"{what}: stretches of {length:g} slots cannot take {share:.0%} of the time; let "
            f"length be at least {1 / (1 - share):.3g}."
        )
    enter = share / ((1 - share) * length)
    found, open_ = np.zeros(len(who[0]), bool), np.ones(len(who[0]), bool)
    for earlier in range(slot, 0, -1):
        draw = rng.uniform(seed, "chain", earlier, *(each[open_] for each in who))
        found[np.flatnonzero(open_)[draw < enter]] = True
        open_[np.flatnonzero(open_)[(draw < enter) | (draw >= 1 - 1 / length)]] = False
        if not open_.any():
            return found
    found[open_] = rng.uniform(seed, "chain/start", *(each[open_] for each in who)) < share
    return found
