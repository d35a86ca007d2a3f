"""Batch schedules as run lengths: so many steps of that size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Stages:
    """A batch schedule: ``counts[i]`` steps of ``sizes[i]`` samples, one stage after the other."""

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
        starts = np.concatenate([[0], np.nonzero(np.diff(sizes))[0] + 1])
        return Stages(sizes[starts], np.diff([*starts, len(sizes)]))

    @staticmethod
    def switch(budget: int, small: int, large: int, share: float) -> Stages:
        """Use ``small`` batches for a ``share`` of the data, then ``large`` ones, as far as whole.

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
        """Return the shares of the data at which one stage ends and the next begins."""
        taken = np.cumsum(self.sizes * self.counts)
        return [int(samples) / self.data for samples in taken[:-1]]

    def until(self, steps: int) -> Stages:
        """Return the first ``steps`` steps."""
        ends = np.minimum(np.cumsum(self.counts), steps)
        counts = np.diff(ends, prepend=0)
        return Stages(self.sizes[counts > 0], counts[counts > 0])

    def met(self, budget: int, most: int) -> Stages:
        """Return this schedule changed so that it uses ``budget``, in batches up to ``most``.

        What the longest stage must take is divided over its steps, more or fewer, as evenly as
        whole numbers allow.
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
