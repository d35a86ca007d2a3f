"""The most that can be asked for: above every real use, and below what only a slip
can mean; then what this machine has, memory and cores.

What is below the limits may still be too much for a machine: memory is estimated
before a run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from decentral.errors import ConfigError
from decentral.units import format_bytes

if TYPE_CHECKING:
    import torch

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


# --- this machine -----------------------------------------------------------------


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


#: Where control groups say what a container may use and does use.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free for this process, None where nobody says."""
    if device.type == "cuda":
        from torch.cuda import mem_get_info

        return mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [
        each
        for each in (_of_machine(), *map(_of_container, *zip(*_LIMITS, strict=True)))
        if each
    ]
    # A container may allow less than its machine has left.
    return min(found, default=None)


def _of_machine() -> int | None:
    facts = _read("/proc/meminfo").split("\n")
    return next(
        (1024 * int(f.split()[1]) for f in facts if f.startswith("MemAvailable")), None
    )


def _of_container(limit: str, used: str) -> int | None:
    most, now = _read(limit).strip(), _read(used).strip()
    # What is used holds cached files as well, which give way; a limit above all
    # memory is none.
    return int(most) - int(now) if most.isdigit() and now.isdigit() else None


def require(needed: float, what: str, device: torch.device) -> None:
    """Refuse what needs more memory than is free.

    Args:
        needed: Bytes.
        what: What takes them, for the message.
        device: Where.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"{what} need about {format_bytes(needed)} of memory on {device}, and "
            f"{format_bytes(free)} are free; use fewer nodes, a smaller model, or several workers."
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
