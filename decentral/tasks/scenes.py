"""Pairs of aerial images of one place at two dates: drawn, where half have changed,
or read from files with their captions, laid out as LEVIR-CC is.

Such a folder holds ``images/SPLIT/A`` and ``images/SPLIT/B``, the two dates of a place under
one name, and a JSON file: ``{"images": [{"filename": ..., "split": ..., "sentences":
[{"raw": ...}], "changeflag": 0 or 1}]}``. (Liu et al., "Remote sensing image change
captioning with dual-branch transformers", 2022.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError, install_command
from decentral.tasks.cache import require, show_progress
from decentral.userfile import place_of

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


# --- pairs in files ---------------------------------------------------------------


SPLITS = ("train", "val", "test")
_TASK = "task 'change_captions'"
_EXPECTED = (
    'expected {"images": [{"filename": ..., "split": "train", "sentences": [{"raw": ...}], '
    '"changeflag": 0}]}'
)


@dataclass(frozen=True)
class Pairs:
    """Two dates of places, what is said of them, and whether anything has changed."""

    images: NDArray[np.uint8]  # [m, 6, S, S]
    captions: list[list[str]]
    changed: NDArray[np.int64]  # [m], 0 or 1


def read_pairs(path: str, size: int) -> dict[str, Pairs]:
    """Return the pairs of every split, images scaled to ``size`` pixels a side.

    Captions are lower-cased, without full stops, as those are scored that a model gives.

    Args:
        path: The folder.
        size: Side of an image in pixels.
    """
    folder = place_of(path)
    require(_TASK, folder)
    try:
        import PIL.Image  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigError(
            f"{_TASK} reads images with pillow: {install_command('images')}."
        ) from error
    file = _caption_file(folder)
    entries = list(_entries(file))
    found = {
        split: _read_split(
            folder / "images" / split, [e for e in entries if e["split"] == split], size
        )
        for split in SPLITS
        if any(entry["split"] == split for entry in entries)
    }
    if missing := [split for split in ("train", "test") if split not in found]:
        raise ConfigError(
            f"{_TASK}: {file} has no pair of the split {missing[0]}; it has "
            f"{', '.join(found) or 'none of ' + ', '.join(SPLITS)}."
        )
    return found


def _caption_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.json"))
    if len(files) == 1:
        return files[0]
    there = ", ".join(file.name for file in files) or "none"
    raise ConfigError(
        f"{_TASK}: {folder} must hold one JSON file with captions, such as "
        f"LevirCCcaptions.json, beside the folder images; found {there}."
    )


def _entries(file: Path) -> Iterator[dict[str, Any]]:
    """Yield name, split, captions and flag of every pair; ConfigError for what is none."""
    try:
        held: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{_TASK}: {file} cannot be read as JSON: {error}.") from error
    images: Any = (
        cast("Mapping[str, Any]", held).get("images") if isinstance(held, dict) else None
    )
    if not isinstance(images, list):
        raise ConfigError(f"{_TASK}: {file} has no list of images; {_EXPECTED}.")
    for place, one in enumerate(cast("list[Any]", images)):
        try:
            captions = [clean(sentence["raw"]) for sentence in one["sentences"]]
            name, flag = str(one["filename"]), int(one["changeflag"])
            split = str(one["split"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{_TASK}: {file}, image {place}, cannot be used ({type(error).__name__}: "
                f"{error}); {_EXPECTED}."
            ) from error
        # A name is that of a file here, never a way out of the folder.
        if Path(name).name != name or not captions or not all(captions):
            raise ConfigError(
                f"{_TASK}: {file}, image {place}, {name!r}, needs a plain file name and "
                "captions that are not empty."
            )
        yield {"name": name, "split": split, "captions": captions, "changed": flag != 0}


def clean(caption: str) -> str:
    """Return a caption as it is learned and scored.

    >>> clean(" A road is built. ")
    'a road is built'
    """
    return " ".join(caption.lower().replace(".", " ").split())


def _read_split(folder: Path, entries: Sequence[Mapping[str, Any]], size: int) -> Pairs:
    images = np.empty((len(entries), 6, size, size), dtype=np.uint8)
    numbered = enumerate(entries)
    for place, entry in show_progress(numbered, f"reading {folder.name}", len(entries)):
        for date, name in enumerate(("A", "B")):
            file = folder / name / entry["name"]
            images[place, 3 * date : 3 * date + 3] = _read_image(file, size)
    changed = np.array([entry["changed"] for entry in entries], dtype=np.int64)
    return Pairs(images, [entry["captions"] for entry in entries], changed)


def _read_image(file: Path, size: int) -> NDArray[np.uint8]:
    """Return the colours of an image, [3, size, size]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            scaled = image.convert("RGB").resize((size, size), Image.Resampling.BOX)
    except Exception as error:  # there is no list of what Pillow may raise
        reason = "there is no such file" if not file.exists() else str(error)
        raise ConfigError(
            f"{_TASK}: {file} cannot be read ({reason}); each pair needs an image of that "
            "name in both A and B."
        ) from error
    return np.asarray(scaled).transpose(2, 0, 1)
