"""Batch schedules as run lengths, and what they do in kernel regression with
power-law spectra.

The expected risk under one-pass SGD is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError

# --- batch schedules --------------------------------------------------------------


Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Stages:
    """A batch schedule: ``counts[i]`` steps of ``sizes[i]`` samples, one stage
    after the other.
    """

    sizes: Integers
    counts: Integers

    @staticmethod
    def of(*stages: tuple[int, int]) -> Stages:
        """Build from pairs of a batch size and a number of steps.

        >>> Stages.of((8, 100), (64, 10)).data
        1440
        """
        sizes, counts = zip(*stages, strict=True)
        return Stages(np.array(sizes, dtype=np.int64), np.array(counts, dtype=np.int64))

    @staticmethod
    def runs(sizes: Integers) -> Stages:
        """Build from the batch size of every step."""
        # A stage begins wherever the size changes.
        starts = np.concatenate([[0], np.nonzero(np.diff(sizes))[0] + 1])
        return Stages(sizes[starts], np.diff([*starts, len(sizes)]))

    @staticmethod
    def switch(budget: int, small: int, large: int, share: float) -> Stages:
        """Use ``small`` batches for a ``share`` of the data, then ``large`` ones,
        as far as whole.

        Args:
            budget: Samples to use.
            small: Batch before the switch.
            large: Batch after it.
            share: Share of the data before it.

        >>> Stages.switch(1000, 10, 100, 0.5).counts.tolist()
        [50, 5]
        """
        early = round(share * budget / small)
        late = (budget - early * small) // large
        pairs = [(small, early), (large, late)]
        return Stages.of(*[(size, count) for size, count in pairs if count])

    @property
    def steps(self) -> int:
        """The number of steps."""
        return int(self.counts.sum())

    @property
    def data(self) -> int:
        """The number of samples."""
        return int(self.sizes @ self.counts)

    def per_step(self) -> Integers:
        """Return the batch size of every step."""
        return np.repeat(self.sizes, self.counts)

    def shares(self) -> list[float]:
        """Return the shares of the data at which one stage ends and the next
        begins.
        """
        taken = np.cumsum(self.sizes * self.counts)
        return [int(samples) / self.data for samples in taken[:-1]]

    def until(self, steps: int) -> Stages:
        """Return the first ``steps`` steps."""
        ends = np.minimum(np.cumsum(self.counts), steps)
        counts = np.diff(ends, prepend=0)
        return Stages(self.sizes[counts > 0], counts[counts > 0])

    def scale_to_budget(self, budget: int, most: int) -> Stages:
        """Return this schedule changed so that it uses ``budget``, in batches up to
        ``most``.

        What the longest stage must take is divided over its steps, more or fewer,
        as evenly as whole numbers allow.
        """
        longest = int(np.argmax(self.counts))
        size = int(self.sizes[longest])
        wanted = size * int(self.counts[longest]) + budget - self.data
        steps = max(1, wanted // size)
        steps += -(-wanted // steps) > most
        larger = wanted % steps
        inside = [(wanted // steps, steps - larger), (wanted // steps + 1, larger)]
        pairs = list(zip(self.sizes.tolist(), self.counts.tolist(), strict=True))
        pairs[longest : longest + 1] = inside
        return Stages.runs(Stages.of(*pairs).per_step())


def as_sizes(values: Sequence[float] | Floats) -> Integers:
    """Round to whole batch sizes of at least 1."""
    return np.maximum(1, np.rint(np.asarray(values))).astype(np.int64)


# --- the task ---------------------------------------------------------------------


#: Features that are followed one by one; those beyond are summed in closed form.
MODES = 3000


@dataclass(frozen=True)
class PowerLaw:
    """A regression task: y = <phi(x), theta*> + noise, with feature variances
    lambda_j = j^-beta.

    ``capacity`` is beta, above 1: how fast the features' variances fall. ``source``
    is s, above 0: lambda_j theta*_j^2 = j^-(1 + s beta), so that a small s is a
    hard task. ``noise`` is the variance of the labels' noise, ``lr`` the constant
    learning rate.
    """

    source: float
    capacity: float
    noise: float = 1.0
    lr: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what has no such law."""
        for name, value, limit in (
            ("source", self.source, 0.0),
            ("capacity", self.capacity, 1.0),
            ("noise", self.noise, 0.0),
            ("lr", self.lr, 0.0),
        ):
            if not (isfinite(value) and value > limit):
                raise ConfigError(
                    f"{name} = {value:g}: it must be a finite number above {limit:g}."
                )
        if self.lr >= 2.0:
            raise ConfigError(
                f"lr = {self.lr:g}: SGD diverges; give less than 2 / lambda_1 = 2."
            )

    def spectrum(self, modes: int = MODES) -> tuple[Floats, Floats]:
        """Return lambda_j and theta*_j^2 of the first features."""
        index = np.arange(1, modes + 1, dtype=np.float64)
        variances = index**-self.capacity
        return variances, variances ** (self.source - 1) / index

    def tail(self, times: Floats, modes: int = MODES) -> Floats:
        """Return the risk of the features beyond ``modes`` at intrinsic ``times``.

        They only drift: 1/2 sum_{j > modes} j^-(1 + s beta) exp(-2 lambda_j t), as
        an integral from modes + 1/2: an incomplete gamma function, here as Kummer's
        1F1, which bears t = 0.
        """
        from scipy.special import hyp1f1

        s, beta, edge = self.source, self.capacity, modes + 0.5
        reached = 2.0 * np.asarray(times, dtype=np.float64) * edge**-beta
        if reached.max(initial=0.0) > 20.0:
            raise ConfigError(
                f"the exact recursion over {modes} features does not reach so far in time; "
                "give more modes."
            )
        return edge ** (-s * beta) / (2 * beta * s) * hyp1f1(s, s + 1, -reached)


def exact_risk(
    task: PowerLaw, stages: Stages, at: Sequence[int] | None = None, modes: int = MODES
) -> Floats:
    """Return the exact expected excess risk of SGD with Gaussian features, after
    ``at`` steps.

    E = 1/2 sum_j lambda_j u_j with u_j = E[(theta_j - theta*_j)^2], which closes on
    itself: u_j <- (1 - lr lambda_j)^2 u_j + lr^2/B (lambda_j^2 u_j + lambda_j (2 E
    + noise)). ``at`` defaults to the end. Costs O(modes) per step.

    Args:
        task: Spectrum, target and noise.
        stages: Batches and their numbers of steps.
        at: Steps at which the risk is wanted.
        modes: Features that are followed.
    """
    variances, u = task.spectrum(modes)
    sizes = stages.per_step()
    wanted = np.array([len(sizes)] if at is None else at, dtype=np.int64)
    tail = task.tail(task.lr * np.arange(len(sizes) + 1, dtype=np.float64), modes)
    found = {0: 0.5 * float(variances @ u) + tail[0]}
    keep, own = (1 - task.lr * variances) ** 2, (task.lr * variances) ** 2
    shared, marked = task.lr**2 * variances, set(wanted.tolist())
    for step, size in enumerate(sizes.tolist(), start=1):
        # 2 E + noise, all modes together: through this number the modes see each
        # other.
        residual = float(variances @ u) + 2 * tail[step - 1] + task.noise
        # In place, mode by mode: thousands of modes over thousands of steps.
        u *= keep + own / size
        u += shared * (residual / size)
        if step in marked:
            found[step] = 0.5 * float(variances @ u) + tail[step]
    return np.array([found[step] for step in wanted.tolist()])
