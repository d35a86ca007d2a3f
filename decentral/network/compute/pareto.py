"""Heavy tails."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from decentral import rng
from decentral.network.compute import Floats, Integers
from decentral.registry import plugin
from decentral.units import Seconds


@plugin("compute")
def pareto(
    nodes: Integers,
    step: int,
    seed: int,
    *,
    least: Seconds = 20e-3,
    alpha: Annotated[float, Gt(1)] = 2.5,
) -> Floats:
    """Let steps take their least time mostly, and many times as long now and then.

    P(c > x) = (least / x)^alpha; the mean is alpha / (alpha - 1) of the least. (Dean & Barroso,
    "The tail at scale", Communications of the ACM, 2013, tell why such tails arise.)
    """
    chance = 1.0 - rng.uniform(seed, "compute/pareto", nodes, step)
    return least * chance ** (-1.0 / alpha)
