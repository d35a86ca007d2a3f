"""Drawn pairs of aerial images of one place at two dates, of which half have
changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decentral import rng

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

KINDS = ("house", "pond", "road", "tree")
PLACES = ("top left", "top right", "bottom left", "bottom right")
SAME, ADDED, REMOVED = range(3)

#: Red, green and blue of each kind, [4, 3].
_COLOURS = np.array(
    [(0.85, 0.3, 0.25), (0.2, 0.35, 0.85), (0.75, 0.75, 0.7), (0.1, 0.45, 0.15)]
)
#: Pairs that are drawn together.
_CHUNK = 256


@dataclass(frozen=True)
class Scenes:
    """Pairs of images uint8 [m, 6, S, S], the colours of A before those of B, and
    what changed.

    ``change`` [m] is one of SAME, ADDED and REMOVED; ``place`` [m] numbers where it
    changed, and means nothing where nothing did. ``there`` [m, 2, 4] tells of both
    dates at which places something stands, ``kinds`` [m, 4] what it is.
    """

    images: NDArray[np.uint8]
    change: Integers
    place: Integers
    there: NDArray[np.bool_]
    kinds: Integers

    @property
    def kind(self) -> Integers:
        """The kind [m] of what changed."""
        return self.kinds[np.arange(len(self.place)), self.place]


def scenes(seed: int, pairs: range, size: int, shift: int) -> Scenes:
    """Draw the pairs with these numbers, each a pure function of the seed and its
    number.

    A place has smooth ground and in every quarter, with probability 1/2, an object
    of one of four kinds. In half of the pairs one object is added or removed. Each
    date has an illumination of 0.75 to 1.25, a colour cast of up to 0.08 and noise
    of up to 0.05; B is moved against A by up to ``shift`` pixels in each direction.

    Args:
        seed: Seed of the run.
        pairs: Numbers of the pairs.
        size: Side of an image in pixels.
        shift: Pixels that B is moved by, at most.
    """
    number = np.arange(pairs.start, pairs.stop)
    cells = number[:, None], np.arange(4)
    before = rng.uniform(seed, "scene/there", *cells) < 0.5
    kinds = rng.integers(np.full(before.shape, 4), seed, "scene/kind", *cells)
    place = rng.integers(np.full(len(number), 4), seed, "scene/place", number)
    changed = rng.uniform(seed, "scene/changed", number) < 0.5
    # An object that is there goes, one that is not comes: exclusive or.
    after = before ^ (changed[:, None] & (place[:, None] == np.arange(4)))
    removed = np.take_along_axis(before, place[:, None], 1)[:, 0]
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(number), _CHUNK)]
    drawn = [
        _draw_scenes(
            seed, number[some], kinds[some], before[some], after[some], size, shift
        )
        for some in chunks
    ]
    change = np.where(changed, np.where(removed, REMOVED, ADDED), SAME)
    return Scenes(
        np.concatenate(drawn), change, place, np.stack([before, after], 1), kinds
    )


def _draw_scenes(
    seed: int, number: Integers, kinds: Integers, before: NDArray[np.bool_],
    after: NDArray[np.bool_], size: int, shift: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """Return the images [m, 6, S, S] of a chunk of pairs."""
    ground = _ground(seed, number, size + 2 * shift)
    masks, colours = _objects(seed, number, kinds, size, shift)
    aligned = np.zeros((len(number), 2), np.int64)
    # Whole pixels from -shift to shift, both ends included.
    top = np.full((len(number), 2), 2 * shift + 1)
    moved = rng.integers(top, seed, "scene/shift", number[:, None], np.arange(2)) - shift
    dates = [
        _photograph(
            seed, number, date, _cut(_paint(ground, masks, colours, there), at, size)
        )
        for date, (there, at) in enumerate(
            ((before, aligned + shift), (after, moved + shift))
        )
    ]
    return np.round(255 * np.concatenate(dates, 1)).astype(np.uint8)


def _ground(seed: int, number: Integers, extent: int) -> Floats:
    """Return smooth ground [m, 3, E, E]: coarse and finer noise, and a tint of the
    place.
    """
    axes = number[:, None, None, None], np.arange(3)[:, None, None]
    tint = np.array([0.45, 0.45, 0.35])[:, None, None]
    ground = tint + 0.08 * rng.normal(
        seed, "scene/tint", number[:, None, None, None], axes[1]
    )
    for knots, height in ((4, 0.08), (9, 0.04)):
        places = np.arange(knots)
        noise = rng.normal(seed, f"scene/ground-{knots}", *axes, places[:, None], places)
        tent = 1 - np.abs(np.linspace(0, knots - 1, extent)[:, None] - places)
        # [E, knots], linear between the knots
        smooth = np.clip(tent, 0, 1).astype(np.float32)
        ground = ground + height * (smooth @ noise.astype(np.float32) @ smooth.T)
    return ground.astype(np.float32)


def _objects(
    seed: int, number: Integers, kinds: Integers, size: int, shift: int
) -> tuple[Floats, Floats]:
    """Return soft masks [m, 4, E, E] and colours [m, 4, 3] of what may stand in the
    quarters.
    """
    cells = number[:, None], np.arange(4)
    radius = size / 32 * (2.6 + 1.4 * rng.uniform(seed, "scene/radius", *cells))
    free = size / 4 - 1.2 * radius  # how far from the middle of the quarter it may be
    offsets = [
        free * (2 * rng.uniform(seed, f"scene/{axis}", *cells) - 1) for axis in "yx"
    ]
    middles = [
        size / 4 + size / 2 * half for half in (np.arange(4) // 2, np.arange(4) % 2)
    ]
    grid = np.arange(size + 2 * shift, dtype=np.float32) + 0.5 - shift
    y, x = (
        np.abs(grid - (middle + offset).astype(np.float32)[..., None])
        for middle, offset in zip(middles, offsets, strict=True)
    )
    distance = _distance(y[..., None], x[..., None, :], kinds, radius.astype(np.float32))
    colours = _COLOURS[kinds] + 0.05 * rng.normal(
        seed, "scene/colour", number[:, None, None], np.arange(4)[:, None], np.arange(3)
    )
    return np.clip(0.5 - distance, 0, 1), colours.astype(np.float32)


def _distance(y: Floats, x: Floats, kinds: Integers, radius: Floats) -> Floats:
    """Return how far pixels are outside of a square, disc, bar or rhomb, [m, 4, E,
    E].
    """
    found = np.empty(np.broadcast_shapes(y.shape, x.shape), np.float32)
    for kind in range(len(KINDS)):
        own = kinds == kind
        v, h, r = y[own], x[own], radius[own][:, None, None]
        found[own] = (
            np.maximum(v, h) - r, np.hypot(v, h) - 1.1 * r,
            np.maximum(v - 0.35 * r, h - 1.2 * r), (v + h) / 2**0.5 - 0.85 * r,
        )[kind]  # fmt: skip
    return found


def _paint(
    ground: Floats, masks: Floats, colours: Floats, there: NDArray[np.bool_]
) -> Floats:
    """Return the ground with the objects that are there, [m, 3, E, E]."""
    shown = masks * there[:, :, None, None]
    over = np.einsum("mkc,mkyx->mcyx", colours, shown, optimize=True)
    return ground * (1 - shown.sum(1, keepdims=True)).clip(0) + over


def _cut(images: Floats, at: Integers, size: int) -> Floats:
    """Return windows [m, 3, S, S] whose upper left corners are ``at`` [m, 2]."""
    rows, columns = (at[:, axis, None] + np.arange(size) for axis in range(2))
    which = np.arange(len(at))[:, None, None, None]
    return images[which, np.arange(3)[:, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]]  # fmt: skip


def _photograph(seed: int, number: Integers, date: int, images: Floats) -> Floats:
    """Return images in the light of a date, with a cast and noise, in [0, 1]."""
    one, three = number[:, None, None, None], np.arange(3)[:, None, None]
    light = 0.75 + 0.5 * rng.uniform(seed, "scene/light", one, date)
    cast = 0.16 * rng.uniform(seed, "scene/cast", one, three, date) - 0.08
    size = np.arange(images.shape[-1])
    grain = (
        0.1 * rng.uniform(seed, "scene/grain", one, three, size[:, None], size, date)
        - 0.05
    )
    return np.clip(images * light + cast + grain, 0, 1).astype(np.float32)
