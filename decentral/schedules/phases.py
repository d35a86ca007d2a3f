"""From when to when: phases of a run, which read progress and nothing else.

``75%`` is from there to the end, ``20% to 50%`` a window, ``every 500 steps`` turns on and off,
beginning with on; the three go together, and a list of them is their union.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from decentral.errors import ConfigError, nearest
from decentral.schedules.progress import Progress
from decentral.units import Point, parse_point

START, STOP = Point(0.0, "fraction"), Point(1.0, "fraction")
_KEYS = ("start", "stop", "every")
_TEXT = re.compile(r"(?:(?P<start>.+?))??\s*(?:\bto\b(?P<stop>.+?))?\s*(?:\bevery\b(?P<every>.+))?")
_EVERY = re.compile(r"\s*(\d+)\s*(?:steps?)?\s*")


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a run: from ``start`` until before ``stop``.

    With ``every`` it is on for that many steps after its start, off for as many, and so on.

    >>> phase = Phase(Point(0.75, "fraction"))
    >>> [phase.on(Progress(step, 100)) for step in (74, 75, 99)]
    [False, True, True]
    """

    start: Point = START
    stop: Point = STOP
    every: int | None = None

    def on(self, progress: Progress) -> bool:
        """Whether the step that follows ``progress`` belongs to the phase."""
        if not progress.reached(self.start) or progress.reached(self.stop):
            return False
        since = progress.step - first_step(self.start, progress.steps)
        return self.every is None or since // self.every % 2 == 0

    def check(self, field: str, steps: int) -> None:
        """Raise ConfigError unless some step of a run of ``steps`` steps belongs to the phase."""
        first, last = first_step(self.start, steps), first_step(self.stop, steps)
        if last <= first and self.stop != STOP:
            raise ConfigError(
                f"{field}: the phase stops at {self.stop} (step {last:,}) and starts at "
                f"{self.start} (step {first:,}); it must start before it stops."
            )
        if first >= steps:
            raise ConfigError(
                f"{field}: the phase starts at step {first:,} of a run of {steps:,} steps, so it "
                "never begins; let it start before 100%."
            )

    def __str__(self) -> str:
        """Write the phase as a user would."""
        until = "" if self.stop == STOP else f" to {self.stop}"
        return f"{self.start}{until}" + (f" every {self.every} steps" if self.every else "")


@dataclass(frozen=True, slots=True)
class Phases:
    """The union of several stretches of a run."""

    windows: tuple[Phase, ...] = (Phase(),)

    def on(self, progress: Progress) -> bool:
        """Whether the step that follows ``progress`` belongs to one of them."""
        return any(window.on(progress) for window in self.windows)

    def check(self, field: str, steps: int) -> None:
        """Raise ConfigError unless every window has a step in a run of ``steps`` steps."""
        for window in self.windows:
            window.check(field, steps)

    def __str__(self) -> str:
        """Write the windows as a user would."""
        return ", ".join(map(str, self.windows))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        """Let pydantic read phases from configurations, and write them as text."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            parse_phases,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda phases: [str(window) for window in phases.windows]
            ),
        )


def first_step(point: Point, steps: int) -> int:
    """Return the first step at which a run of ``steps`` steps has reached ``point``."""
    return ceil(point.in_steps(steps) * (1 - 1e-12))


def parse_phases(value: object, field: str = "phases") -> Phases:
    """Read one phase or a list of them: text, a point in time, or ``{start, stop, every}``.

    >>> str(parse_phases(["0% to 20%", {"start": "50%", "every": 100}]))
    '0% to 20%, 50% every 100 steps'
    """
    if isinstance(value, Phases):
        return value
    windows = value if isinstance(value, list | tuple) else [value]
    if not windows:
        raise ConfigError(f"{field}: the list is empty; leave it out, or name one, such as 75%.")
    return Phases(tuple(_phase(window, field) for window in windows))


def _phase(value: Any, field: str) -> Phase:
    if isinstance(value, Phase):
        return value
    if isinstance(value, Mapping):
        parts: dict[str, Any] = {str(key): part for key, part in value.items()}
    else:
        found = _TEXT.fullmatch(str(value).strip())
        parts = {key: part for key, part in (found.groupdict() if found else {}).items() if part}
    if strange := [key for key in parts if key not in _KEYS]:
        known = ", ".join(_KEYS)
        raise ConfigError(
            f"{field}: a phase has no {strange[0]!r}.{nearest(strange[0], _KEYS)} It has {known}."
        )
    points = {k: parse_point(v, field) for k, v in parts.items() if k != "every" and v is not None}
    return Phase(**points, every=_period(parts.get("every"), field))


def _period(value: object, field: str) -> int | None:
    if value is None:
        return None
    found = _EVERY.fullmatch(str(value))
    if found is None or int(found[1]) < 1:
        raise ConfigError(
            f"{field}: every {str(value).strip()}: it must be a whole number of steps, at least 1."
        )
    return int(found[1])
