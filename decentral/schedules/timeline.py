"""What is on when: phases sampled over the steps of a run, for drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decentral.schedules import Progress
from decentral.schedules.methods import METHODS, Timed
from decentral.schedules.phases import START, STOP, Phase, Phases

#: Steps that are looked at, at most.
MOST = 4096


@dataclass(frozen=True)
class Track:
    """One thing over a run: ``values`` in [0, 1], one for each of equal parts of it.

    ``phased`` says that it is on or off, and no matter of degree.
    """

    name: str
    values: tuple[float, ...]
    text: str
    phased: bool = False


def sampled(steps: int) -> list[int]:
    """Return steps spread over the run; their strides vary, so that toggling shows its share."""
    count = min(steps, MOST)
    stride = steps // count
    return [place * steps // count + place % stride for place in range(count)]


def phase_tracks(methods: Mapping[str, Timed | None], points: Sequence[Progress]) -> list[Track]:
    """Return when, at ``points``, each of a run's ``methods`` is on, in the order of a step."""
    found: list[Track] = []
    for key in METHODS:
        method = methods.get(key)
        if method is not None:
            on = tuple(float(method.on(here)) for here in points)
            title = "SAM" if key == "sam" else key.replace("_", " ")
            found.append(Track(title, on, f"{method.brief()}, {said(method.when)}", phased=True))
    return found


def said(phases: Phases) -> str:
    """Write phases as a person would say them.

    >>> said(Phases((Phase(every=100),)))
    'every 100 steps'
    """
    return "always" if phases == Phases() else ", ".join(map(_window, phases.windows))


def _window(window: Phase) -> str:
    if window.every is not None:
        whole = (window.start, window.stop) == (START, STOP)
        between = "" if whole else f"{window.start} to {window.stop}, "
        return f"{between}every {window.every:,} steps"
    return f"from {window.start}" if window.stop == STOP else f"{window.start} to {window.stop}"
