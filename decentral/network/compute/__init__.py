"""Seconds of computing: functions ``(nodes, step, seed) -> seconds [n]`` of a step of every node.

``nodes`` are ids [n]. Seconds are those of a step with the first batch size; a step with twice the
samples takes twice as long. A bare duration, ``compute: 20ms``, is ``constant``.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from decentral.registry import Plugin
from decentral.units import parse_seconds

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def resolve(name: str) -> Plugin | None:
    """Read a bare duration."""
    if not re.match(r"[-+.\d]", name):
        return None
    seconds = parse_seconds(name, "compute")

    def take(nodes: Integers, step: int, seed: int) -> Floats:
        """Take the same time in every step of every node."""
        return np.full(len(nodes), seconds)

    return Plugin("compute", name, take, {})
