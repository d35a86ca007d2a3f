"""What can be wrong with a power law, a budget of data, or curves to fit, from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decentral.theory import fsl

STEPS = np.arange(1.0, 41.0)


def curve(
    batch: int, losses: Any = None, lr: float = 0.25, points: int = 40
) -> fsl.Curve:
    falling = 1 + 1 / STEPS + 1 / batch
    given = falling if losses is None else losses
    return fsl.Curve(f"of batch {batch}", batch, lr, STEPS[:points], given[:points])


def _mostly_early(batch: int) -> fsl.Curve:
    steps = np.array([*range(1, 12), 9000.0])
    return fsl.Curve("early", batch, 0.25, steps, 1 / steps)


def _law() -> fsl.Law:
    return fsl.Law.of(fsl.PowerLaw(source=0.25, capacity=2))


def _fitted() -> fsl.Fit:
    return fsl.fit([curve(8), curve(64)])


THEORY: dict[str, Callable[[], Any]] = {
    "learning rate beyond stability": lambda: fsl.PowerLaw(source=1, capacity=2, lr=2),
    "too few modes": lambda: fsl.exact_risk(
        fsl.PowerLaw(source=1, capacity=2), fsl.Stages.of((1, 5000)), modes=4
    ),
    "fit: two learning rates": lambda: fsl.fit([curve(8), curve(64, lr=0.1)]),
    "fit: few evaluations": lambda: fsl.fit([curve(8), curve(64, points=5)]),
    "fit: diverging curve": lambda: fsl.fit([curve(8), curve(64, losses=STEPS)]),
    "fit: few late evaluations": lambda: fsl.fit([_mostly_early(8), _mostly_early(64)]),
    "fit: steps beyond the runs": lambda: _fitted().predict(fsl.Stages.of((8, 1000))),
    "fit: batches beyond the runs": lambda: _fitted().predict(fsl.Stages.of((2, 10))),
}
