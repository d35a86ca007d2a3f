"""A few that are slow."""

from __future__ import annotations

from typing import Literal

import numpy as np

from decentral import rng
from decentral.network.compute import Floats, Integers
from decentral.registry import Share, plugin
from decentral.units import Seconds


@plugin("compute")
def stragglers(
    nodes: Integers,
    step: int,
    seed: int,
    *,
    seconds: Seconds = 20e-3,
    factor: float = 5.0,
    share: Share = 0.1,
    who: Literal["nodes", "steps"] = "nodes",
) -> Floats:
    """Slow a share of the nodes, or of all steps, down by a factor.

    With ``who=nodes`` the same machines are slow in every step; with ``who=steps`` any node is, in
    any step, with probability ``share``.
    """
    counters = (nodes,) if who == "nodes" else (nodes, step)
    slow = rng.uniform(seed, f"compute/{who}", *counters) < share
    return seconds * np.where(slow, factor, 1.0)
