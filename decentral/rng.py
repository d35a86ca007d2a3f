"""Counter-based random numbers: every draw is a pure function of its coordinates.

``draw(seed, purpose, *counters)`` hashes its arguments, so that any draw can be
repeated, skipped or moved to another process without a generator's state; counters
are integers or integer arrays that broadcast, so a thousand nodes cost one
vectorised call.

The mixer is the finaliser of splitmix64 (Steele, Lea & Flood, 2014), applied once
per coordinate. PyTorch's own generator, one per process, is borrowed by whoever
must draw from it (`fork_rng`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bits = NDArray[np.uint64]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_FEISTEL_ROUNDS = 6


@lru_cache(maxsize=256)
def key(seed: int, purpose: str) -> int:
    """Return the 64-bit key of one stream: a digest of the seed and of what it is
    for.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _mix(z: Bits) -> Bits:
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))


def _mix_one(z: int) -> int:
    z &= _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def _as_bits(value: ArrayLike) -> Bits:
    return np.atleast_1d(np.asarray(value)).astype(np.int64).view(np.uint64)


def bits(seed: int, purpose: str, *counters: ArrayLike) -> Bits:
    """Return 64 uniform random bits for every coordinate (counters broadcast, at
    least 1-d).

    >>> bool((bits(0, "a", [1, 2]) == bits(0, "a", [1, 2])).all())
    True
    """
    state = key(seed, purpose)
    places = enumerate(counters, start=1)
    while (found := next(places, None)) and isinstance(found[1], int):
        # Plain numbers come first, as a rule, and cost a tenth without arrays.
        state = _mix_one(state + _mix_one(found[1] + _GOLDEN * found[0]))
    drawn = np.atleast_1d(np.uint64(state))
    for place, counter in (found, *places) if found else ():
        # By place, so that (1, 2) and (2, 1) are different coordinates.
        salt = np.uint64((_GOLDEN * place) & _MASK)
        drawn = _mix(drawn + _mix(_as_bits(counter) + salt))
    return drawn


def uniform(seed: int, purpose: str, *counters: ArrayLike) -> Floats:
    """Return doubles in [0, 1), one for every coordinate."""
    # 53 bits are all that a double can hold below 1.
    return (bits(seed, purpose, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, purpose: str, *counters: ArrayLike) -> Floats:
    """Return standard normal doubles (Box-Muller), one for every coordinate."""
    # (0, 1]: the logarithm of 0 is not finite.
    first = 1.0 - uniform(seed, purpose + "/radius", *counters)
    second = uniform(seed, purpose + "/angle", *counters)
    return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)


def integers(high: ArrayLike, seed: int, purpose: str, *counters: ArrayLike) -> Integers:
    """Return integers in [0, high), one for every coordinate (``high`` broadcasts).

    Args:
        high: First number that is not drawn; broadcasts.
        seed: Seed of the run.
        purpose: What they are for; other purposes draw other numbers.
        *counters: Coordinates, which broadcast.
    """
    draws = uniform(seed, purpose, *counters) * np.asarray(high, dtype=np.float64)
    return draws.astype(np.int64)


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a NumPy generator, keyed likewise, for draws made once (splits,
    graphs).
    """
    return np.random.default_rng([key(seed, purpose), *counters])


def permute(
    position: ArrayLike, size: ArrayLike, seed: int, purpose: str, *counters: ArrayLike
) -> Integers:
    """Return where ``position`` goes in a stateless permutation of ``range(size)``.

    A Feistel network over Z_a x Z_b with a b >= size > a (b - 1), walked until it
    lands inside (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002).
    Everything broadcasts; every value of the counters has a permutation of its own.

    Args:
        position: Places, from 0.
        size: Length of the range.
        seed: Seed of the run.
        purpose: What it is for.
        *counters: Coordinates, which broadcast.

    >>> sorted(permute(range(5), 5, 0, "demo").tolist())
    [0, 1, 2, 3, 4]
    """
    keys = bits(seed, purpose, *counters)
    place, sizes, keys = np.broadcast_arrays(_as_bits(position), _as_bits(size), keys)
    # Nearly square, so that fewer places than a column has lie outside the range.
    rows = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    columns = (sizes + rows - np.uint64(1)) // rows
    place = _feistel(place, rows, columns, keys)
    # A permutation of the larger domain walked on from outside comes back inside,
    # and never to a place that another one takes.
    while (outside := place >= sizes).any():
        place[outside] = _feistel(
            place[outside], rows[outside], columns[outside], keys[outside]
        )
    return place.astype(np.int64)


def _feistel(place: Bits, rows: Bits, columns: Bits, keys: Bits) -> Bits:
    left, right = place // columns, place % columns
    for index in range(_FEISTEL_ROUNDS):
        salted = keys + np.uint64((_GOLDEN * (index + 1)) & _MASK)
        if index % 2:
            right = _rotate(right, _mix(left + salted), columns)
        else:
            left = _rotate(left, _mix(right + salted), rows)
    return left * columns + right


def _rotate(value: Bits, draw: Bits, size: Bits) -> Bits:
    """Return ``value`` in [0, size) moved around a circle by a random amount,
    without dividing.
    """
    half = np.uint64(32)
    moved = value + (((draw >> half) * size) >> half)
    return moved - size * (moved >= size)


# --- the generator of PyTorch -----------------------------------------------------

_FORKED = threading.RLock()


@cache
def _seeder() -> Callable[[int], object]:
    """Return what seeds all generators: torch's function, or, on a machine without
    an accelerator, the only one there is. The function is slow, a millisecond: it
    notes the stack for every accelerator that might yet come.
    """
    import torch

    accelerated = torch.accelerator.is_available()
    return torch.manual_seed if accelerated else torch.default_generator.manual_seed


@contextmanager
def fork_rng(seed: int | None = None) -> Generator[None]:
    """Draw from torch's generator alone, from ``seed`` where given, and leave it as
    it was.

    Modules draw their first parameters from the one generator of the process; two
    runs that start in two threads would otherwise take numbers out of each other's
    stream.

    >>> import torch
    >>> with fork_rng(3):
    ...     one = torch.rand(2)
    >>> with fork_rng(3):
    ...     bool((one == torch.rand(2)).all())
    True
    """
    import torch

    with _FORKED, torch.random.fork_rng(devices=[]):
        if seed is not None:
            _seeder()(seed)
        yield
