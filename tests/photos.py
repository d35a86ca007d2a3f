"""A block of rows in a few numbers, for golden files, and on which machine bits may be compared."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral.loop.block import Block


def digits12(value: float) -> float:
    return float(f"{value:.12g}")


def projections(rows: Tensor) -> list[float]:
    """Return three sums that no change of the rows can escape."""
    node = torch.arange(len(rows), dtype=rows.dtype)[:, None]
    column = torch.arange(rows.shape[1], dtype=rows.dtype)[None, :]
    waves = [(node * (k + 1) + column * (0.7 + k)).sin() for k in range(3)]
    return [digits12((rows * wave).sum().item()) for wave in waves]


def photograph(block: Block) -> dict[str, Any]:
    """Return a step in a few numbers that no change of the rows can escape."""
    rows = block.rows
    mean = rows.mean(0)
    return {
        "step": block.step,
        "loss": digits12(block.losses.mean().item()),
        "consensus": digits12((rows - mean).square().sum(1).mean().sqrt().item()),
        "norm": digits12(mean.norm().item()),
        "projections": projections(rows),
        "bytes": block.stats.bytes,
        "rounds": block.stats.rounds,
    }


def sha256(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()


@cache
def machine() -> dict[str, str]:
    """Return all that decides how the last bit is rounded, for one thread.

    Libraries of linear algebra choose their kernels by the processor, whatever they were built for.
    """
    cpuinfo = Path("/proc/cpuinfo")
    core = cpuinfo.read_text().split("\n\n")[0] if cpuinfo.exists() else ""
    marks = ("vendor_id", "cpu family", "model", "stepping", "flags")
    kind = "\n".join(line for line in core.splitlines() if line.startswith(marks))
    return {
        "processor": hashlib.sha256(kind.encode()).hexdigest()[:16],
        "architecture": platform.machine(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
