"""Where a run stands, which is all that schedules read, and the pace at which it
takes samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import Any
from warnings import warn

from decentral.limits import BATCH, check_batch
from decentral.plugins import describe, wrong
from decentral.registry import ConfiguredPlugin
from decentral.units import Point

# What rounding may take from a fraction; without it a point such as 70 % could be
# reached a step late.
_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands; schedules and phases read only this.

    ``step`` optimizer steps are done out of ``steps``; ``samples`` per node out of
    ``samples_total`` (None without a data budget); ``round`` counts the rounds in
    which something was sent; ``local_steps`` is the round clock; ``timeline`` holds
    the samples per node after every step, where they are known. With a data budget
    a batch schedule is asked how many steps there are, so it sees 0 as ``steps``.
    ``warmup`` is the length in steps of the learning rate's warm-up, of which only
    schedules of the learning rate are told.
    """

    step: int
    steps: int
    samples: int = 0
    samples_total: int | None = None
    round: int = 0
    local_steps: int = 1
    timeline: Sequence[int] = field(default=(), compare=False, repr=False)
    warmup: float = 0.0

    @property
    def fraction(self) -> float:
        """The share of the run that is done, in [0, 1]: by samples if budgeted,
        else by steps.
        """
        if self.samples_total is not None:
            return min(1.0, self.samples / self.samples_total)
        return self.step / self.steps if self.steps else 1.0

    def fraction_at(self, step: float) -> float:
        """Return ``fraction`` as it is after ``step`` steps."""
        if self.samples_total is None:
            return min(1.0, step / self.steps) if self.steps else 1.0
        # Without a timeline every step is taken to have had as many samples.
        samples = (
            self.timeline[min(ceil(step), len(self.timeline) - 1)]
            if self.timeline
            else self.samples * step / max(1, self.step)
        )
        return min(1.0, samples / self.samples_total)

    @property
    def after_warmup(self) -> float:
        """The share that is done of what follows the warm-up, in [0, 1]."""
        if not self.warmup:
            return self.fraction
        begin = self.fraction_at(self.warmup)
        return max(0.0, self.fraction - begin) / (1 - begin) if begin < 1 else 0.0

    @property
    def communication_step(self) -> int:
        """The index of the communication step at this step, from 0."""
        # The last step of a run ends a communication step even if it is no
        # multiple.
        return ceil(self.step / self.local_steps) - 1

    @property
    def slot(self) -> int:
        """The former name of ``communication_step``."""
        warn(
            "progress.slot is now progress.communication_step",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.communication_step

    @property
    def previous(self) -> Progress:
        """Where the run stood one communication step ago (at its start, before the
        first).
        """
        # Its index times the interval is where the one before it ended.
        step = self.communication_step * self.local_steps
        # Without a timeline every step is taken to have had as many samples.
        samples = (
            self.timeline[step]
            if self.timeline
            else self.samples * step // max(1, self.step)
        )
        return replace(self, step=step, samples=samples)

    @property
    def last(self) -> bool:
        """Whether this is the end of the run."""
        return self.step >= self.steps

    def reached(self, point: Point) -> bool:
        """Whether the run has come to ``point``."""
        if point.unit == "steps":
            return self.step >= point.value
        return self.fraction >= point.value - _SLACK

    def part(self, start: Point, stop: Point) -> float:
        """Return how far the run has come between two points, in [0, 1]."""
        # With a budget fractions are of samples, which need not grow evenly with
        # steps: they are turned into steps only where the other point is given in
        # steps.
        if start.unit == stop.unit == "fraction":
            here, begin, end = self.fraction, start.value, stop.value
        else:
            here, begin, end = (
                self.step,
                start.in_steps(self.steps),
                stop.in_steps(self.steps),
            )
        # Nothing lies between: a jump, where a ramp would divide by zero.
        if end <= begin:
            return 1.0 if here >= end else 0.0
        return min(1.0, max(0.0, (here - begin) / (end - begin)))


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a closed-loop schedule may know; every worker holds the same bits.

    ``consensus`` is the root mean square distance of the nodes from their mean,
    divided by the norm of the mean (dimensionless, from sketches; NaN where nobody
    reads it); ``spent`` is the share of all-reduce's bytes used. ``values`` are
    what the schedule that is asked has measured itself (trait ``feedback``): a
    number of every healthy node, by ascending id; ``measured`` holds those of all
    schedules, by name.
    """

    round: int
    consensus: float
    spent: float
    measured: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, Any])
    values: tuple[float, ...] = ()

    def seen_by(self, name: str) -> Feedback:
        """Return the same with the values of the schedule of that name."""
        return replace(self, values=self.measured.get(name, ()))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, without what is not known."""
        known: dict[str, Any] = {"round": self.round}
        if self.consensus == self.consensus:  # no NaN
            known["consensus"] = self.consensus
        known["spent"] = self.spent
        measured = {name: list(numbers) for name, numbers in self.measured.items()}
        return known | ({"measured": measured} if measured else {})

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Feedback:
        """Return what a checkpoint has kept."""
        measured = {k: tuple(v) for k, v in state.get("measured", {}).items()}
        consensus = state.get("consensus", float("nan"))
        return Feedback(state["round"], consensus, state["spent"], measured)


def communication_steps(steps: int, local_steps: int) -> list[int]:
    """Return the steps after which nodes may communicate: every ``local_steps``,
    and the last one.

    >>> communication_steps(25, 10)
    [10, 20, 25]
    """
    return [
        min(step, steps) for step in range(local_steps, steps + local_steps, local_steps)
    ]


# --- the steps of a run -----------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """What a node had taken when the schedules of a run were changed, after
    ``step`` steps.
    """

    step: int
    samples: int
    first: int  # of its first step, to which rates and simulated seconds refer

    def prefix(self) -> list[int]:
        """Return the samples after every step until then, those in between evenly
        spread.

        >>> Past(4, 23, first=5).prefix()
        [0, 5, 11, 17, 23]
        """
        if not self.step:
            return [0]
        later, rest = max(1, self.step - 1), self.samples - self.first
        first = self.samples if self.step == 1 else self.first
        return [0, *(first + rest * k // later for k in range(self.step))]


@dataclass(frozen=True)
class StepTimeline:
    """The prefix sum of a batch schedule: ``samples[k]`` per node are taken after
    ``k`` steps.

    ``budget`` is the number of samples per node at which the run ends; None where
    steps end it.
    """

    samples: Sequence[int]
    budget: int | None = None

    @cached_property
    def steps(self) -> int:
        """The number of steps of the run."""
        return len(self.samples) - 1

    def size(self, step: int) -> int:
        """Return the samples per node of the step that follows ``step`` steps; at
        the end its last.

        >>> StepTimeline([0, 4, 8, 24]).size(2)
        16
        """
        step = min(step, self.steps - 1)
        return self.samples[step + 1] - self.samples[step]

    def sizes(self) -> list[int]:
        """Return the samples per node of every step."""
        return [after - before for before, after in pairwise(self.samples)]

    @cached_property
    def largest(self) -> int:
        """The samples per node of the largest step."""
        return max(self.sizes())

    @property
    def constant(self) -> bool:
        """Whether every step takes as many samples."""
        # Steps of at most the largest add up to this only if each is the largest.
        return self.largest * self.steps == self.samples[-1]

    @property
    def mean(self) -> float:
        """The samples per node of a step, on average."""
        return self.samples[-1] / self.steps

    def progress(self, step: int, round: int = 0, local_steps: int = 1) -> Progress:
        """Return where the run stands after ``step`` steps.

        Args:
            step: Steps that are done.
            round: Communication steps that are done.
            local_steps: Steps between two communication steps.
        """
        return Progress(
            step,
            self.steps,
            self.samples[step],
            self.budget,
            round,
            local_steps,
            self.samples,
        )


def step_timeline(
    batch: ConfiguredPlugin,
    steps: int,
    budget: int | None = None,
    past: Past | None = None,
) -> StepTimeline:
    """Follow a batch schedule over ``steps`` steps or, if given, over ``budget``
    samples per node.

    The last batch is cut so that the budget is met exactly.

    Args:
        batch: The schedule.
        steps: The number of steps, unless there is a budget.
        budget: Samples per node at which the run ends.
        past: What was taken before the schedule is asked.

    >>> from decentral.registry import build
    >>> step_timeline(build("batch", "constant(32)"), 0, budget=100).samples
    [0, 32, 64, 96, 100]
    """
    samples = past.prefix() if past else [0]
    if budget is None:
        for step in range(len(samples) - 1, steps):
            samples.append(
                samples[-1] + batch_size(batch, Progress(step, steps, samples[-1]))
            )
        return StepTimeline(samples)
    while samples[-1] < budget:
        here = Progress(len(samples) - 1, 0, samples[-1], budget)
        samples.append(min(budget, samples[-1] + batch_size(batch, here)))
    return StepTimeline(samples, budget)


def batch_size(batch: ConfiguredPlugin, progress: Progress) -> int:
    """Return the samples per node of the next step, if a schedule gives a number of
    them.
    """
    size = batch.function(progress)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        said = f"{describe(size)} at step {progress.step}"
        raise wrong(batch, said, "a whole number of samples, at least 1")
    if size > BATCH:  # of a million steps, words are made for one
        check_batch(size, f"{batch.name!r}, step {progress.step}")
    return size
