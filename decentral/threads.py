"""How the threads of a step wait for each other."""

from __future__ import annotations

import os


def spin_briefly() -> None:
    """Let OpenMP's threads sleep soon instead of spinning, unless the environment
    says otherwise.

    Where other programs use the same cores, spinning for long starves the very
    thread that is waited for (measured: a step of 1 ms took 50). OpenMP reads this
    when torch is first imported, so it is set before; afterwards it changes
    nothing.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
