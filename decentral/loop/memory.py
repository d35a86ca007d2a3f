"""What memory a run takes in one process, counted before it starts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from decentral.gradients.base import rows_at_once
from decentral.loop.room import require
from decentral.loop.setup import Setup
from decentral.optim.block_optimizer import state_numbers
from decentral.tasks.base import Samples

#: What Python and the libraries take before anything is trained.
PROGRAM = 500_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds all the time, and most that it needs for a while."""

    lasting: int
    passing: int

    @property
    def total(self) -> int:
        """Return the peak, the program included."""
        return PROGRAM + self.lasting + self.passing


def expected_memory(setup: Setup, hosted: int) -> Memory:
    """Return what a block of ``hosted`` nodes takes.

    All the time: rows, gradients, optimizer state and data. For a while: a checkpoint, once as the
    bytes of its parts and once as those of a file; and, since memory that was used is kept for
    later, a step's activations (kept, and as much again on the way back) or the rows that are
    evaluated.
    """
    size = setup.dtype.itemsize
    block = hosted * setup.layout.width * size
    states = hosted * state_numbers(setup.optimizer, setup.layout) * size
    micro = min(setup.micro_batch, setup.pace.largest)
    kept = 0
    with suppress(Exception):  # The first gradient explains what fails here.
        kept = setup.footprint * micro
    rows = min(hosted, rows_at_once(kept, setup.device))
    computing = 2 * rows * (kept + setup.layout.width) * size
    data = sum(_held(part) for part in setup.task.splits if part is not None)
    return Memory(2 * block + states + data, 2 * (block + states) + max(computing, block))


def _held(samples: Samples) -> int:
    """Return the bytes of samples in memory; those mapped from a file give way."""
    if samples.mapped:
        return 0
    parts = samples.inputs, samples.targets
    return sum(part.untyped_storage().nbytes() for part in parts)


def require_memory(setup: Setup, hosted: int) -> Memory:
    """Refuse a run that does not fit into the memory that is free; return what it takes."""
    memory = expected_memory(setup, hosted)
    what = f"{hosted:,} nodes of {setup.layout.parameter_count:,} parameters"
    require(memory.lasting + memory.passing, what, setup.device)
    return memory
