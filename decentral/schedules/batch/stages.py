"""Several batch sizes, one after the other."""

from __future__ import annotations

from decentral.errors import ConfigError
from decentral.registry import Count, plugin
from decentral.schedules import Progress
from decentral.units import Point


@plugin("batch", example="stages(sizes=[640, 1280, 1920, 2560], at=[25%, 50%, 75%])")
def stages(progress: Progress, *, sizes: tuple[Count, ...], at: tuple[Point, ...]) -> int:
    """Use each of ``sizes`` until the next of the points ``at``.

    Also written as ``640,1280,1920,2560 at 25%,50%,75%``.
    """
    if len(sizes) != len(at) + 1:
        raise ConfigError(
            f"batch: {len(sizes)} stages need {max(0, len(sizes) - 1)} points between them, "
            f"{len(at)} were given."
        )
    return sizes[sum(progress.reached(point) for point in at)]
