"""What is on in phases of a run: settings of SAM, adversarial training and label noise.

Each may be given as its main number alone (``sam: 0.05``), and takes ``start``, ``stop`` and
``every`` for one phase, or a list of ``phases``; without them it is always on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from decentral.registry import Count, NonNegative, Positive
from decentral.schedules.phases import START, STOP, Phase, Phases
from decentral.schedules.progress import Progress
from decentral.units import Point


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
            raise ValueError("phases stand instead of start, stop and every; give one or the other")
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

    rho: NonNegative = Field(0.05, description="radius, in the norm of a node's parameters")
    adaptive: bool = Field(False, description="ASAM: the radius scales with each parameter")
    momentum: Literal["restart", "keep"] = Field(
        "restart", description="optimizer state where SAM turns on or off; the paper restarts it"
    )

    def brief(self) -> str:
        """Return its radius, and whether it is adaptive."""
        return ("adaptive, " if self.adaptive else "") + super().brief()


class Adversarial(Timed):
    """Adversarial training: inputs moved by at most ``eps`` per number to raise the loss."""

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
    level: NonNegative = Field(description="chance of a random class, or size of the noise")

    def brief(self) -> str:
        """Return its kind and level."""
        return f"{self.level:g}" if self.kind == "auto" else f"{self.kind} {self.level:g}"


#: Settings of a configuration that are on in phases.
METHODS: dict[str, type[Timed]] = {
    "sam": Sam,
    "adversarial": Adversarial,
    "label_noise": LabelNoise,
}


# --- what is on when, for drawings ----------------------------------------------------------------

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
