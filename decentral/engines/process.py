"""How a process that computes treats its cores and its memory."""

from __future__ import annotations

import ctypes
import sys

import torch

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most that glibc accepts for the second, and freed bytes that may be kept.
_LARGEST_BLOCK, _KEPT = 32 << 20, 1 << 30


def configure_process(threads: int) -> None:
    """Use ``threads`` cores, and keep freed memory for the next step.

    By default glibc returns large freed blocks to the kernel at once, and the next step faults
    their pages in again: a third of the time of a step of 16 small convolutional networks.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
