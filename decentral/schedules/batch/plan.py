"""What the planner computed."""

from __future__ import annotations

from bisect import bisect_right

from decentral.errors import ConfigError
from decentral.registry import Count, Share, plugin
from decentral.schedules import Progress

_SLACK = 1e-12


@plugin("batch", example="plan(sizes=[32, 64, 256], at=[0.9, 0.97])")
def plan(progress: Progress, *, sizes: tuple[Count, ...], at: tuple[Share, ...]) -> int:
    """Use each of ``sizes`` until the next share ``at`` of the data: the output of the planner.

    `decentral plan batch --out plan.yaml` writes a configuration that holds one, and
    ``plan(plan.yaml)`` reads it from there, with its budget of data.
    """
    if len(sizes) != len(at) + 1 or list(at) != sorted(at):
        raise ConfigError(
            "batch 'plan': sizes and the rising shares between them do not fit; "
            "let `decentral plan batch --out FILE` write them."
        )
    return sizes[bisect_right(at, progress.fraction + _SLACK)]
