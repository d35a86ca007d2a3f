"""PyTorch's own generator: one per process, so that whoever draws from it borrows
it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache

import torch

_FORKED = threading.RLock()


@cache
def _seeder() -> Callable[[int], object]:
    """Return what seeds all generators: torch's function, or, on a machine without an
    accelerator, the only one there is. The function is slow, a millisecond: it notes
    the stack for every accelerator that might yet come.
    """
    accelerated = torch.accelerator.is_available()
    return torch.manual_seed if accelerated else torch.default_generator.manual_seed


@contextmanager
def fork_rng(seed: int | None = None) -> Generator[None]:
    """Draw from torch's generator alone, from ``seed`` where given, and leave it as
    it was.

    Modules draw their first parameters from the one generator of the process; two
    runs that start in two threads would otherwise take numbers out of each other's
    stream.

    >>> with fork_rng(3):
    ...     one = torch.rand(2)
    >>> with fork_rng(3):
    ...     bool((one == torch.rand(2)).all())
    True
    """
    with _FORKED, torch.random.fork_rng(devices=[]):
        if seed is not None:
            _seeder()(seed)
        yield
