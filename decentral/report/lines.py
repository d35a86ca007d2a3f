"""Lines of a long log: an even sample of them, so that a page of millions is read
and drawn as soon as one of thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def add_to_digest(file: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    """Yield the lines of a file, added to a digest."""
    for line in file:
        digest.update(line)
        yield line


class _Sample:
    """Lines that are spread evenly over many, with the first and the last."""

    def __init__(self, most: int | None) -> None:
        """Keep ``most`` lines, or up to twice as many; None: all."""
        self.most, self.every, self.seen = most, 1, 0
        self.kept: list[tuple[int, bytes]] = []

    def add(self, number: int, line: bytes) -> None:
        """See the next line."""
        self.last = (number, line)
        if self.seen % self.every == 0:
            self.kept.append(self.last)
        self.seen += 1
        if self.most and len(self.kept) > 2 * self.most:
            self.kept, self.every = self.kept[::2], 2 * self.every

    @property
    def lines(self) -> list[tuple[int, bytes]]:
        """The lines, by their numbers."""
        whole = self.kept[-1][0] == self.last[0]
        return self.kept if whole else [*self.kept, self.last]


def sample_lines(file: Iterable[bytes], most: int | None) -> list[tuple[int, bytes]]:
    """Return lines of a file, by their numbers.

    Evaluations are few among many log lines, and have more keys: so lines with
    equally many are sampled by themselves, and those that tell a phase are all
    kept.
    """
    samples: dict[int, _Sample] = {}
    for number, line in enumerate(file, start=1):
        kind = 0 if b'"phase"' in line else line.count(b'":')
        if (sample := samples.get(kind)) is None:
            sample = samples[kind] = _Sample(most if kind else None)
        sample.add(number, line)
    return sorted(line for sample in samples.values() for line in sample.lines)
