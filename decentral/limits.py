"""The most that can be asked for: above every real use, and below what only a slip
can mean.

What is below them may still be too much for a machine: memory is estimated before a
run.
"""

from __future__ import annotations

import os

from decentral.errors import ConfigError

#: Steps, and whatever else is counted from 1: intervals in steps, samples, widths.
COUNT = 10**12
NODES = 10**6
#: Samples of one node in one step; the largest of published runs take some 10^7
#: tokens, of all.
BATCH = 10**8
THREADS_PER_CORE = 4


def check_batch(size: int, where: str) -> None:
    """Raise ConfigError for a batch that no node could take."""
    if size > BATCH:
        raise ConfigError(
            f"batch {where}: {size:,} samples per node and step; it must be at most {BATCH:,}."
        )


def check_threads(threads: int | str, cores: float | None = None) -> None:
    """Raise ConfigError for more threads than could help on ``cores``, this
    machine's if None.
    """
    found = int(cores or os.cpu_count() or 1)
    if isinstance(threads, int) and threads > THREADS_PER_CORE * found:
        raise ConfigError(
            f"threads = {threads}: there are {found} cores; it must be at most "
            f"{THREADS_PER_CORE} per core, {THREADS_PER_CORE * found}, or auto."
        )
