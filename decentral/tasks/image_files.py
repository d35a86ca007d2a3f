"""Image classification from parquet files: decoded once, what a model then sees of them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from decentral.blame import in_words
from decentral.errors import ConfigError
from decentral.gradients.draws import hashed
from decentral.tasks.base import Samples, Task, holdout
from decentral.tasks.cache import cached, fingerprint, shown

INSTALL = "pip install -c constraints.txt -e '.[images]'"
#: What the names of the parquet files of each split look like; ``values`` is no validation.
_SPLITS = {
    "train": re.compile("train"),
    "val": re.compile(r"(val|valid|validation|dev)(?![a-z])"),
    "test": re.compile("test"),
}
#: Columns that hold images and labels, as the data sets of the hub name them.
_IMAGES, _LABELS = ("image", "img"), ("label", "fine_label", "labels")
#: Modes of Pillow that eight bits a channel hold: others are scaled or refused.
_FITTING = ("1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr")
#: Rows read at a time.
_ROWS = 1024

Mode = Literal["L", "RGB"]
Shift = Annotated[int, Ge(0)]
#: A parquet file, opened, and its name.
Part = tuple[str, Any]


def image_task(
    name: str, hub: str, mode: Mode, *, path: str | None, cache: str, val: float, **augment: Any
) -> Task:
    """Return the classification of the images in a folder of parquet files, or of a hub's data set.

    Decoding happens once; later runs map the decoded bytes from ``cache`` into memory. ``augment``
    goes to ``Pixels``.
    """
    folder = _downloaded(name, hub) if path is None else Path(path).expanduser()
    files, notes = _files(name, folder)
    if val and "val" in files:
        raise ConfigError(
            f"task {name!r}: val = {val:g}, but {folder} has files for validation, such as "
            f"{files['val'][0].name}; leave val out, or move them away."
        )
    # Whatever changes the decoded bytes: the form, the mode, names and contents of
    # files.
    key = ["images-2", mode, {split: fingerprint(each) for split, each in files.items()}]
    made = cached(cache, name, key, lambda made: _decode(name, files, mode, made))
    facts = json.loads((made / "facts.json").read_text())
    view = Pixels(tuple(facts["mean"]), tuple(facts["deviation"]), **augment)
    parts = {split: _mapped(made, split, view) for split in files}
    train, held = holdout(parts["train"], val)
    classes = facts["classes"] and tuple(facts["classes"])
    return Task(
        loss=cross_entropy, train=train, val=parts.get("val", held), test=parts["test"],
        classes=classes, notes=notes,
    )  # fmt: skip


def _mapped(made: Path, split: str, view: Pixels) -> Samples:
    # Copy-on-write: nobody writes, but torch wants to be allowed to.
    images = np.load(made / f"{split}.images.npy", mmap_mode="c")
    labels = np.load(made / f"{split}.labels.npy")
    return Samples(torch.from_numpy(images), torch.from_numpy(labels), view, mapped=True)


# --- where the files are --------------------------------------------------------------------------


def _files(name: str, folder: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Return the files of each split, and what is to be said about them.

    Files for validation are the test where there is no other: data sets of the hub often keep the
    labels of their test to themselves.
    """
    known = sorted(folder.rglob("*.parquet"))
    files = {
        split: [file for file in known if begins.match(file.name)]
        for split, begins in _SPLITS.items()
    }
    notes: tuple[str, ...] = ()
    if not files["test"] and files["val"]:
        files["test"], files["val"] = files["val"], []
        first = files["test"][0].name
        notes = (f"task {name!r}: no test*.parquet in {folder}; {first} is the test set.",)
    for split in ("train", "test"):
        if not files[split]:
            raise ConfigError(
                f"task {name!r}: no {split}*.parquet in {folder}; path= must name a folder with "
                "train*.parquet and test*.parquet, images encoded in a column 'image'."
            )
    return {split: each for split, each in files.items() if each}, notes


def _downloaded(name: str, hub: str) -> Path:
    """Return the folder of a data set of the Hugging Face hub, fetched once."""
    remedy = f"give a folder of parquet files, task '{name}(path=DIR)'"
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"task {name!r} needs data: {remedy}, or {INSTALL} to load {hub} from the hub."
        ) from error
    try:
        where: Any = snapshot_download(hub, repo_type="dataset", allow_patterns="*.parquet")
    except Exception as error:
        raise ConfigError(
            f"task {name!r}: cannot load {hub} from the hub ({in_words(error, 100)}); {remedy}."
        ) from error
    return Path(where)


# --- decoding -------------------------------------------------------------------------------------


def _decode(name: str, files: dict[str, list[Path]], mode: Mode, made: Path) -> None:
    """Write every split's pixels and labels, and what is known about them, into a folder."""
    try:
        import PIL.Image  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"task {name!r} decodes images with pyarrow and pillow: {INSTALL}."
        ) from error
    tables: dict[str, list[Part]] = {
        split: [(file.name, parquet.ParquetFile(file)) for file in each]
        for split, each in files.items()
    }
    for split, parts in tables.items():
        _decode_split(name, parts, mode, made / split)
    mean, deviation = _moments(np.load(made / "train.images.npy", mmap_mode="r"))
    facts = {"mean": mean, "deviation": deviation, "classes": _classes(tables["train"][0][1])}
    (made / "facts.json").write_text(json.dumps(facts))


def _decode_split(name: str, parts: list[Part], mode: Mode, into: Path) -> None:
    total = sum(part.metadata.num_rows for _, part in parts)
    pixels: Any = None
    labels = np.zeros(total, dtype=np.int64)
    rows = shown(_rows(name, parts), f"decoding {name} {into.name}", total)
    for place, (where, encoded, label) in enumerate(rows):
        try:
            image = _pixels(encoded, mode)
        except _Unfit as error:
            raise ConfigError(f"task {name!r}: image in {where} {error}.") from error
        except OSError as error:
            raise ConfigError(
                f"task {name!r}: image in {where} cannot be decoded; the file may be damaged."
            ) from error
        if pixels is None:
            # Straight to the disk: all decoded images may be larger than memory.
            pixels = open_memmap(f"{into}.images.npy", "w+", np.uint8, (total, *image.shape))
        if image.shape != pixels.shape[1:]:
            raise ConfigError(
                f"task {name!r}: image in {where} has shape {list(image.shape)}, the "
                f"first has {list(pixels.shape[1:])}; all must be of one size."
            )
        pixels[place], labels[place] = image, label
    pixels.flush()
    np.save(f"{into}.labels.npy", labels)


def _rows(name: str, parts: list[Part]) -> Iterator[tuple[str, bytes, int]]:
    """Yield where every image is, its bytes and its label."""
    for file, part in parts:
        image, label = (_column(name, part, known) for known in (_IMAGES, _LABELS))
        row = 0
        for batch in part.iter_batches(_ROWS, columns=[image, label]):
            images, labels = batch.column(image).to_pylist(), batch.column(label).to_pylist()
            for encoded, number in zip(images, labels, strict=True):
                data = encoded["bytes"] if isinstance(encoded, dict) else encoded
                yield f"row {row} of {file}", data, number
                row += 1


def _column(name: str, part: Any, known: tuple[str, ...]) -> str:
    columns: list[str] = part.schema_arrow.names
    for column in known:
        if column in columns:
            return column
    raise ConfigError(
        f"task {name!r}: the parquet files have the columns {', '.join(columns)}; "
        f"one must be called {' or '.join(known)}."
    )


class _Unfit(Exception):
    """An image whose values eight bits cannot hold; says which, and what to do."""


def _pixels(encoded: bytes, mode: Mode) -> Any:
    """Return one image as bytes [channels, height, width], upright as its EXIF data say."""
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(encoded))
    upright = _eight_bits(ImageOps.exif_transpose(image), image.format)
    pixels = np.asarray(upright.convert(mode))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Any, form: str | None) -> Any:
    """Return an opaque image of eight bits; raises _Unfit where that would lose what it shows.

    16 bits are scaled, v -> round(255 v / 65535): Pillow's own conversion clips them at 255.
    """
    from PIL import Image

    # Older versions of Pillow read the 16 bits of a PNG into 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and form == "PNG"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode not in _FITTING:
        raise _Unfit(
            f"has the mode {image.mode}, whose range is not known; write it with 8 or 16 bits "
            "a channel"
        )
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        raise _Unfit("has transparent pixels; lay it on a background and write it without alpha")
    return image


def _moments(images: Any) -> tuple[list[float], list[float]]:
    """Return mean and deviation of every channel, of pixels in [0, 1], without loading all."""
    sums = np.zeros((2, images.shape[1]))
    for start in range(0, len(images), _ROWS):
        part = images[start : start + _ROWS].astype(np.float64) / 255
        # In float64 and by parts: the squares of millions of pixels lose digits in
        # float32.
        sums += part.sum((0, 2, 3)), np.square(part).sum((0, 2, 3))
    mean, square = sums / (images.size / images.shape[1])
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return mean.tolist(), deviation.tolist()


def _classes(part: Any) -> list[str] | None:
    """Return the names of the classes, where the file's metadata hold them."""
    known: dict[bytes, bytes] = part.schema_arrow.metadata or {}
    if b"classes" in known:
        return known[b"classes"].decode().split(",")
    features = json.loads(known.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return next((f["names"] for k, f in features.items() if k in _LABELS and "names" in f), None)


# --- what a model sees ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """Bytes [..., C, H, W] as floats of mean 0 and deviation 1 in every channel.

    In training every image is moved by up to ``shift`` pixels in both directions, what enters being
    black, and mirrored with probability 1/2 if ``flip``: pure functions of its key, for the images
    of all nodes at once.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shift: int = 0
    flip: bool = False

    def __call__(self, inputs: Tensor, keys: Tensor | None) -> Tensor:
        """Return (x / 255 - mean) / deviation of the images, augmented if keys [...] are given."""
        if keys is not None and (self.shift or self.flip):
            images = self._augmented(inputs.flatten(0, -4), keys.flatten())
            inputs = images.view(inputs.shape)
        mean, deviation = (
            torch.tensor(part, device=inputs.device).mul(255).view(-1, 1, 1)
            for part in (self.mean, self.deviation)
        )
        return (inputs - mean) / deviation

    def _augmented(self, images: Tensor, keys: Tensor) -> Tensor:
        """Move and mirror images [M, C, H, W]."""
        height, width = images.shape[-2:]
        bits, moves = hashed(keys), 2 * self.shift + 1
        # Different bits of one hash for mirroring and for each direction.
        down, right = (bits >> 1) % moves, (bits >> 32) % moves
        rows = down.unsqueeze(1) + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(len(keys), width)
        if self.flip:
            columns = torch.where((bits & 1).bool().unsqueeze(1), columns.flip(1), columns)
        columns = columns + right.unsqueeze(1)
        # Channels last, so that one look-up by row and column takes them all.
        padded = pad(images, [self.shift] * 4).permute(0, 2, 3, 1)
        each = torch.arange(len(keys), device=images.device).view(-1, 1, 1)
        return padded[each, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
