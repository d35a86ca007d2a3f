"""Phases of a run, which read progress and nothing else; and the methods that are
on in them.

``75%`` is from there to the end, ``20% to 50%`` a window, ``every 500 steps`` turns
on and off, beginning with on; the three go together, and a list of them is their
union.

SAM, adversarial training and label noise may each be given as a main number alone
(``sam: 0.05``), and take ``start``, ``stop`` and ``every`` for one phase, or a list
of ``phases``; without them a method is always on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from decentral.errors import ConfigError, nearest
from decentral.registry import Count, NonNegative, Positive
from decentral.schedules.progress import Progress
from decentral.units import Point, parse_point

# --- from when to when ------------------------------------------------------------


START, STOP = Point(0.0, "fraction"), Point(1.0, "fraction")
_KEYS = ("start", "stop", "every")
_TEXT = re.compile(
    r"(?:(?P<start>.+?))??\s*(?:\bto\b(?P<stop>.+?))?\s*(?:\bevery\b(?P<every>.+))?"
)
_EVERY = re.compile(r"\s*(\d+)\s*(?:steps?)?\s*")


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a run: from ``start`` until before ``stop``.

    With ``every`` it is on for that many steps after its start, off for as many,
    and so on.

    >>> phase = Phase(Point(0.75, "fraction"))
    >>> [phase.on(Progress(step, 100)) for step in (74, 75, 99)]
    [False, True, True]
    """

    start: Point = START
    stop: Point = STOP
    every: int | None = None

    def on(self, progress: Progress) -> bool:
        """Whether the step that follows ``progress`` belongs to the phase."""
        # Half open, so that a phase that stops where another starts never overlaps
        # it.
        if not progress.reached(self.start) or progress.reached(self.stop):
            return False
        # Counted from the start of the phase, so that each of several begins with
        # what it turns on.
        since = progress.step - first_step(self.start, progress.steps)
        return self.every is None or since // self.every % 2 == 0

    def check(self, field: str, steps: int) -> None:
        """Raise ConfigError unless some step of a run of ``steps`` steps belongs to
        the phase.
        """
        first, last = first_step(self.start, steps), first_step(self.stop, steps)
        # A phase until the end is judged below, by its start: where it never
        # begins, that is the slip.
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
        return f"{self.start}{until}" + (
            f" every {self.every} steps" if self.every else ""
        )


@dataclass(frozen=True, slots=True)
class Phases:
    """The union of several stretches of a run."""

    windows: tuple[Phase, ...] = (Phase(),)

    def on(self, progress: Progress) -> bool:
        """Whether the step that follows ``progress`` belongs to one of them."""
        return any(window.on(progress) for window in self.windows)

    def check(self, field: str, steps: int) -> None:
        """Raise ConfigError unless every window has a step in a run of ``steps``
        steps.
        """
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
    """Return the first step at which a run of ``steps`` steps has reached
    ``point``.
    """
    # A share of the steps that is whole but for rounding must not be rounded up.
    return ceil(point.in_steps(steps) * (1 - 1e-12))


def parse_phases(value: object, field: str = "phases") -> Phases:
    """Read one phase or a list of them: text, a point in time, or
    ``{start, stop, every}``.

    >>> str(parse_phases(["0% to 20%", {"start": "50%", "every": 100}]))
    '0% to 20%, 50% every 100 steps'
    """
    if isinstance(value, Phases):
        return value
    windows = value if isinstance(value, list | tuple) else [value]
    if not windows:
        raise ConfigError(
            f"{field}: the list is empty; leave it out, or name one, such as 75%."
        )
    return Phases(tuple(_phase(window, field) for window in windows))


def _phase(value: Any, field: str) -> Phase:
    if isinstance(value, Phase):
        return value
    if isinstance(value, Mapping):
        parts: dict[str, Any] = {str(key): part for key, part in value.items()}
    else:
        # A bare point is a start: the text is ``START to STOP every N``, of which
        # each part may be left out.
        found = _TEXT.fullmatch(str(value).strip())
        parts = {
            key: part
            for key, part in (found.groupdict() if found else {}).items()
            if part
        }
    if strange := [key for key in parts if key not in _KEYS]:
        known = ", ".join(_KEYS)
        raise ConfigError(
            f"{field}: a phase has no {strange[0]!r}.{nearest(strange[0], _KEYS)} It has {known}."
        )
    points = {
        k: parse_point(v, field)
        for k, v in parts.items()
        if k != "every" and v is not None
    }
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


# --- what is on in them -----------------------------------------------------------


class Timed(BaseModel):
    """Settings of something that is on from when to when."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    main: ClassVar[str]

    start: Point = Field(START, description="when it begins")
    stop: Point = Field(STOP, description="when it ends")
    every: Count | None = Field(None, description="steps on, then as many off, and so on")
    phases: Phases | None = Field(None, description="several phases, instead of one")

    @model_validator(mode="before")
    @classmethod
    def _main_number(cls, value: Any) -> Any:
        """Take a bare number for the main setting."""
        return value if isinstance(value, Mapping | Timed) else {cls.main: value}

    @model_validator(mode="after")
    def _one_way(self) -> Timed:
        single = (self.start, self.stop, self.every) != (START, STOP, None)
        if self.phases is not None and single:
            raise ValueError(
                "phases stand instead of start, stop and every; give one or the other"
            )
        return self

    @property
    def when(self) -> Phases:
        """Its phases."""
        return self.phases or Phases((Phase(self.start, self.stop, self.every),))

    def brief(self) -> str:
        """Return its main settings in a few words."""
        return f"{self.main} {getattr(self, self.main):g}"

    def on(self, progress: Progress) -> bool:
        """Whether it is on in the step that follows ``progress``."""
        return self.when.on(progress)


class Sam(Timed):
    """Sharpness-aware minimisation: the gradient at the worst point within ``rho``."""

    main: ClassVar[str] = "rho"

    rho: NonNegative = Field(
        0.05, description="radius, in the norm of a node's parameters"
    )
    adaptive: bool = Field(
        False, description="ASAM: the radius scales with each parameter"
    )
    momentum: Literal["restart", "keep"] = Field(
        "restart",
        description="optimizer state where SAM turns on or off; the paper restarts it",
    )

    def brief(self) -> str:
        """Return its radius, and whether it is adaptive."""
        return ("adaptive, " if self.adaptive else "") + super().brief()


class Adversarial(Timed):
    """Adversarial training: inputs moved by at most ``eps`` per number to raise the
    loss.
    """

    main: ClassVar[str] = "eps"

    eps: Positive = Field(description="largest change of one number of an input")
    steps: Count = Field(10, description="steps of the attack")
    step_size: Positive | None = Field(None, description="of one step; none: eps / 2")

    def brief(self) -> str:
        """Return the size and the steps of the attack."""
        return f"{super().brief()}, {self.steps} steps"


class LabelNoise(Timed):
    """Label noise, drawn anew at every visit of a sample."""

    main: ClassVar[str] = "level"

    kind: Literal["auto", "flip", "gaussian", "sign"] = Field(
        "auto", description="flip classes; add Gaussian noise or a random sign to numbers"
    )
    level: NonNegative = Field(
        description="chance of a random class, or size of the noise"
    )

    def brief(self) -> str:
        """Return its kind and level."""
        return f"{self.level:g}" if self.kind == "auto" else f"{self.kind} {self.level:g}"

    def kind_for(self, classes: object) -> str:
        """Return the kind of noise, decided for targets of these classes, or none."""
        if self.kind != "auto":
            return self.kind
        return "flip" if classes else "sign"


#: Settings of a configuration that are on in phases.
METHODS: dict[str, type[Timed]] = {
    "sam": Sam,
    "adversarial": Adversarial,
    "label_noise": LabelNoise,
}


# --- what is on when, for drawings ------------------------------------------------

#: Steps that are looked at, at most.
MOST = 4096


@dataclass(frozen=True)
class Track:
    """One thing over a run: ``values`` in [0, 1], one for each of equal parts of
    it.

    ``phased`` says that it is on or off, and no matter of degree.
    """

    name: str
    values: tuple[float, ...]
    text: str
    phased: bool = False


def sample_steps(steps: int) -> list[int]:
    """Return steps spread over the run; their strides vary, so that toggling shows
    its share.
    """
    count = min(steps, MOST)
    stride = steps // count
    return [place * steps // count + place % stride for place in range(count)]


def phase_tracks(
    methods: Mapping[str, Timed | None], points: Sequence[Progress]
) -> list[Track]:
    """Return when, at ``points``, each of a run's ``methods`` is on, in the order
    of a step.
    """
    found: list[Track] = []
    for key in METHODS:
        method = methods.get(key)
        if method is not None:
            on = tuple(float(method.on(here)) for here in points)
            title = "SAM" if key == "sam" else key.replace("_", " ")
            found.append(
                Track(
                    title,
                    on,
                    f"{method.brief()}, {phases_text(method.when)}",
                    phased=True,
                )
            )
    return found


def phases_text(phases: Phases) -> str:
    """Write phases as a person would say them.

    >>> phases_text(Phases((Phase(every=100),)))
    'every 100 steps'
    """
    return "always" if phases == Phases() else ", ".join(map(_window, phases.windows))


def _window(window: Phase) -> str:
    if window.every is not None:
        whole = (window.start, window.stop) == (START, STOP)
        between = "" if whole else f"{window.start} to {window.stop}, "
        return f"{between}every {window.every:,} steps"
    return (
        f"from {window.start}"
        if window.stop == STOP
        else f"{window.start} to {window.stop}"
    )
