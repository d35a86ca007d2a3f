"""A process that computes: its cores, its memory, and the children that end with
it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

import torch

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: The most that glibc accepts for the second, and freed bytes that may be kept.
_LARGEST_BLOCK, _KEPT = 32 << 20, 1 << 30


def configure_process(threads: int) -> None:
    """Use ``threads`` cores, and keep freed memory for the next step.

    By default glibc returns large freed blocks to the kernel at once, and the next
    step faults their pages in again: a third of the time of a step of 16 small
    convolutional networks.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)


# --- children ---------------------------------------------------------------------

# The option of Linux's prctl (prctl.h) by which the kernel signals the end of the
# parent.
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let this child of ``multiprocessing`` end as soon as its parent has, killed
    or not.

    A thread waits for the pipe whose other end only the parent holds: that works on
    every system, also when the parent has ended before. But it needs the
    interpreter, which a long call into C may keep to itself; so Linux is asked to
    kill, too. That alone would not do: it is told of the end of the *thread* that
    started the child, exists on Linux only, and comes too late for a parent that is
    gone already. Nothing is saved: runs bear a kill at any moment.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only children that multiprocessing has started can tell"
    watch = threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True)
    watch.start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
