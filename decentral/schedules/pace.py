"""The pace of a run: how many samples a node takes in every step, known before the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from decentral.errors import ConfigError
from decentral.limits import check_batch
from decentral.registry import Bound
from decentral.schedules import Progress


@dataclass(frozen=True)
class Pace:
    """The prefix sum of a batch schedule: ``samples[k]`` per node are taken after ``k`` steps.

    ``budget`` is the number of samples per node at which the run ends; None where steps end it.
    """

    samples: Sequence[int]
    budget: int | None = None

    @cached_property
    def steps(self) -> int:
        """The number of steps of the run."""
        return len(self.samples) - 1

    def size(self, step: int) -> int:
        """Return the samples per node of the step that follows ``step`` steps; at the end its last.

        >>> Pace([0, 4, 8, 24]).size(2)
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
            step, self.steps, self.samples[step], self.budget, round, local_steps, self.samples
        )


def pace_of(batch: Bound, steps: int, budget: int | None = None) -> Pace:
    """Follow a batch schedule over ``steps`` steps or, if given, over ``budget`` samples per node.

    The last batch is cut so that the budget is met exactly.

    >>> from decentral.registry import build
    >>> pace_of(build("batch", "constant(32)"), 0, budget=100).samples
    [0, 32, 64, 96, 100]
    """
    samples = [0]
    if budget is None:
        for step in range(steps):
            samples.append(samples[-1] + _asked(batch, Progress(step, steps, samples[-1])))
        return Pace(samples)
    while samples[-1] < budget:
        here = Progress(len(samples) - 1, 0, samples[-1], budget)
        samples.append(min(budget, samples[-1] + _asked(batch, here)))
    return Pace(samples, budget)


def _asked(batch: Bound, progress: Progress) -> int:
    size = batch(progress)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(
            f"batch {batch.name!r} gave {size!r} at step {progress.step}; "
            "it must give a whole number of samples, at least 1."
        )
    check_batch(size, f"{batch.name!r}, step {progress.step}")
    return size
