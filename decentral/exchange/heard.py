"""Who hears what on one worker in one round: a pure function of the mixing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decentral.mixing.base import Integers, Mixing


@dataclass(frozen=True)
class Heard:
    """What the nodes of one worker hear: row ``receivers[r]`` its span of ``senders``, itself too.

    Senders are indices of the hosted rows followed by the inbox, the rows of other workers that
    somebody here hears; ``offsets`` are where spans begin.
    """

    receivers: Integers
    senders: Integers
    weights: np.ndarray  # float64, one per sender
    offsets: Integers


def heard_by(mixing: Mixing, block: range, inbox: Integers) -> Heard:
    """Return who of the positions ``block`` hears what, rows ``inbox`` (ascending) from elsewhere.

    A row that nothing changes is left out: adding 0 to -0.0 would change its bits.

    Args:
        mixing: The weights of the round.
        block: Positions hosted here.
        inbox: Positions, ascending, whose rows came from other workers.
    """
    indptr = mixing.indptr[block.start : block.stop + 1]
    degrees = np.diff(indptr)
    listening = mixing.changes()[block.start : block.stop]
    span = slice(indptr[0], indptr[-1])
    heard = np.repeat(listening, degrees)
    senders, weights = mixing.senders[span][heard], mixing.weights[span][heard]
    here = (senders >= block.start) & (senders < block.stop)
    away = len(block) + np.searchsorted(inbox, senders)
    return Heard(
        np.flatnonzero(listening),
        np.where(here, senders - block.start, away),
        weights,
        np.cumsum(degrees[listening]) - degrees[listening],
    )
