"""How much memory there is, and what to say where it is not enough."""

from __future__ import annotations

from pathlib import Path

import torch

from decentral.errors import ConfigError
from decentral.units import format_bytes

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
        return torch.cuda.mem_get_info(device)[0]
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


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


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
