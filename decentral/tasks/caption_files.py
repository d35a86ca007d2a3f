"""Pairs of images with captions in files, laid out as LEVIR-CC is.

A folder holds ``images/SPLIT/A`` and ``images/SPLIT/B``, the two dates of a place under
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

from decentral.errors import ConfigError
from decentral.tasks.cache import require, show_progress
from decentral.userfile import place_of

INSTALL = "pip install -c constraints.txt -e '.[images]'"
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
        raise ConfigError(f"{_TASK} reads images with pillow: {INSTALL}.") from error
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
