"""Batch-size schedules: functions ``(progress) -> samples per node`` of the step that follows.

Under decentralized training the batch is that of each node; all nodes together take it times their
number. A schedule is followed before the run begins, so that the steps of a budget of data are
known; with such a budget ``progress.fraction`` goes by samples, and ``progress.steps`` is 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import sqrt
from typing import Any, Literal

from decentral.registry import Bound, Count

_WRITTEN = re.compile(r"\s*(\d+(?:\s*,\s*\d+)*)\s+at\s+([^,()]+(?:,[^,()]+)*)")


def common(
    *, scale_lr: Literal["none", "linear", "sqrt"] = "none", base: Count | None = None
) -> None:
    """Settings of every batch schedule: how the learning rate follows the batch.

    ``scale_lr`` multiplies it by the batch over ``base`` (the first batch if unset), or by the
    square root of that.
    """


def shorthand(text: str) -> Mapping[str, Any] | None:
    """Read stages as people write them.

    >>> shorthand("640, 1280, 2560 at 25%, 50%")
    {'name': 'stages', 'sizes': ['640', '1280', '2560'], 'at': ['25%', '50%']}
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    sizes, at = ([part.strip() for part in group.split(",")] for group in found.groups())
    return {"name": "stages", "sizes": sizes, "at": at}


def rate_factor(batch: Bound, size: int, first: int) -> float:
    """Return by what a batch of ``size`` multiplies the learning rate; ``first`` is the first."""
    ratio = size / (batch.common["base"] or first)
    return {"none": 1.0, "linear": ratio, "sqrt": sqrt(ratio)}[batch.common["scale_lr"]]
