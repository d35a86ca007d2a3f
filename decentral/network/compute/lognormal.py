"""Uneven machines, uneven steps."""

from __future__ import annotations

import numpy as np

from decentral import rng
from decentral.network.compute import Floats, Integers
from decentral.registry import NonNegative, plugin
from decentral.units import Seconds


@plugin("compute")
def lognormal(
    nodes: Integers,
    step: int,
    seed: int,
    *,
    median: Seconds = 20e-3,
    nodes_spread: NonNegative = 0.2,
    steps_spread: NonNegative = 0.1,
) -> Floats:
    """Draw speeds of machines, and of their single steps, from log-normal distributions.

    c_i(t) = median exp(a u_i + b v_i(t)) with standard normal u_i, drawn once per node, and v_i(t)
    in every step; a is ``nodes_spread``, b is ``steps_spread``.
    """
    own = nodes_spread * rng.normal(seed, "compute/node", nodes)
    now = steps_spread * rng.normal(seed, "compute/step", nodes, step)
    return median * np.exp(own + now)
