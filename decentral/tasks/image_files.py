"""Image classification from parquet files: decoded once, what a model then sees of
them.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from decentral.errors import ConfigError, in_words, install_command
from decentral.gradients.draws import hash_bits
from decentral.tasks.base import Samples, Task, holdout
from decentral.tasks.cache import cached_folder, fingerprint, require, show_progress
from decentral.tasks.image_tables import (
    ROWS,
    Label,
    Table,
    Unfit,
    check_labels,
    class_names,
    find_splits,
    number_texts,
    open_table,
    read_rows,
)
from decentral.userfile import place_of

#: Modes of Pillow that eight bits a channel hold: others are scaled or refused.
_FITTING = ("1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr")

Mode = Literal["L", "RGB"]
Shape = tuple[int, ...]
Shift = Annotated[int, Ge(0)]


def image_task(
    name: str,
    hub: str,
    mode: Mode,
    *,
    path: str | None,
    cache: str,
    val: float,
    **augment: Any,
) -> Task:
    """Return the classification of the images in a folder of parquet files, or of a
    hub's data set.

    Decoding happens once; later runs map the decoded bytes from ``cache`` into
    memory. ``augment`` goes to ``Pixels``.
    """
    folder = _download(name, hub) if path is None else place_of(path)
    require(f"task {name!r}", folder)
    found = find_splits(name, folder)
    files = found.files
    if val and "val" in files:
        raise ConfigError(
            f"task {name!r}: val = {val:g}, but {folder} has files for validation, such as "
            f"{files['val'][0].name}; leave val out, or move them away."
        )
    # Whatever changes the decoded bytes: the form, the mode, names and contents of
    # files.
    key = ["images-3", mode, {split: fingerprint(each) for split, each in files.items()}]
    made = cached_folder(
        cache, name, key, lambda made: _decode(name, files, mode, made, folder)
    )
    facts = json.loads((made / "facts.json").read_text())
    view = Pixels(tuple(facts["mean"]), tuple(facts["deviation"]), **augment)
    parts = {split: _map_samples(made, split, view) for split in files}
    train, held = holdout(parts["train"], val)
    classes = facts["classes"] and tuple(facts["classes"])
    return Task(
        loss=cross_entropy, train=train, val=parts.get("val", held), test=parts["test"],
        classes=classes, notes=tuple(found.notes),
    )  # fmt: skip


def _map_samples(made: Path, split: str, view: Pixels) -> Samples:
    # Copy-on-write: nobody writes, but torch wants to be allowed to.
    images = np.load(made / f"{split}.images.npy", mmap_mode="c")
    labels = np.load(made / f"{split}.labels.npy")
    return Samples(torch.from_numpy(images), torch.from_numpy(labels), view, mapped=True)


def _download(name: str, hub: str) -> Path:
    """Return the folder of a data set of the Hugging Face hub, fetched once."""
    remedy = f"give a folder of parquet files, task '{name}(path=DIR)'"
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"task {name!r} needs data: {remedy}, or {install_command('images')} "
            f"to load {hub} from the hub."
        ) from error
    try:
        where: Any = snapshot_download(
            hub, repo_type="dataset", allow_patterns="*.parquet"
        )
    except Exception as error:
        raise ConfigError(
            f"task {name!r}: cannot load {hub} from the hub ({in_words(error, 100)}); {remedy}."
        ) from error
    return Path(where)


# --- decoding ---------------------------------------------------------------------


def _decode(
    name: str, files: dict[str, list[Path]], mode: Mode, made: Path, root: Path
) -> None:
    """Write every split's pixels and labels, and what is known about them, into a
    folder.

    Args:
        name: Of the task.
        files: Of each split.
        mode: Of the images that a model sees.
        made: Where the arrays are written.
        root: Folder of the files.
    """
    try:
        import PIL.Image  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import pyarrow.parquet  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ImportError as error:
        raise ConfigError(
            f"task {name!r} decodes images with pyarrow and pillow: {install_command('images')}."
        ) from error
    tables: dict[str, list[Table]] = {
        split: [open_table(name, file, root) for file in each]
        for split, each in files.items()
    }
    labels: dict[str, list[Label]] = {}
    shape: Shape = ()
    for split, parts in tables.items():
        shape, labels[split] = _decode_split(name, parts, mode, made / split, shape)
    classes = class_names(tables["train"][0])
    check_labels(name, labels, tables, classes)
    numbers, texts = number_texts(labels, classes)
    for split, each in numbers.items():
        np.save(made / f"{split}.labels.npy", np.array(each, dtype=np.int64))
    mean, deviation = _moments(np.load(made / "train.images.npy", mmap_mode="r"))
    facts = {"mean": mean, "deviation": deviation, "classes": texts or classes}
    (made / "facts.json").write_text(json.dumps(facts))


def _decode_split(
    name: str, parts: list[Table], mode: Mode, into: Path, shape: Shape
) -> tuple[Shape, list[Label]]:
    """Write the pixels of a split; return the shape of every image, and the labels.

    Args:
        name: Of the task.
        parts: Files of the split.
        mode: Of the images that a model sees.
        into: What names of files begin with.
        shape: That images must have; of none, that of the first.
    """
    total = sum(part.rows for part in parts)
    if not total:
        held = " and ".join(part.name for part in parts)
        raise ConfigError(
            f"task {name!r}: {held}: 0 rows; expected at least one for {into.name}."
        )
    pixels: Any = None
    labels: list[Label] = []
    rows = show_progress(read_rows(name, parts), f"decoding {name} {into.name}", total)
    for place, row in enumerate(rows):
        try:
            image = _pixels(row.image, mode)
            shape = shape or image.shape
            if image.shape != shape:
                raise Unfit(
                    f", image, is of shape {list(image.shape)}",
                    f"{list(shape)} as before",
                )
        except Unfit as error:
            raise ConfigError(f"{row.where}{error}.") from error
        if pixels is None:
            # Straight to the disk: all decoded images may be larger than memory.
            pixels = open_memmap(f"{into}.images.npy", "w+", np.uint8, (total, *shape))
        pixels[place] = image
        labels.append(row.label)
    pixels.flush()
    return shape, labels


def _pixels(encoded: bytes, mode: Mode) -> Any:
    """Return one image as bytes [channels, height, width], upright as its EXIF data
    say.
    """
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(encoded))
        frames = getattr(image, "n_frames", 1)
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged bytes: there is no list of what Pillow may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = "cannot identify it" if "BytesIO" in reason else reason
        raise Unfit(
            f", image, cannot be decoded ({reason})", "an undamaged image"
        ) from error
    if frames > 1:
        raise Unfit(f", image, has {frames} frames", "one: write the one that is meant")
    pixels = np.asarray(_eight_bits(upright, image.format).convert(mode))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Any, form: str | None) -> Any:
    """Return an opaque image of eight bits; raises Unfit where that would lose what
    it shows.

    16 bits are scaled, v -> round(255 v / 65535): Pillow's own conversion clips
    them at 255.
    """
    from PIL import Image

    # Older versions of Pillow read the 16 bits of a PNG into 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and form == "PNG"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode not in _FITTING:
        raise Unfit(
            f", image, has the mode {image.mode}, whose range is not known",
            "8 or 16 bits a channel",
        )
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        raise Unfit(
            ", image, has transparent pixels",
            "an opaque one: lay it on a background and write it without alpha",
        )
    return image


def _moments(images: Any) -> tuple[list[float], list[float]]:
    """Return mean and deviation of every channel, of pixels in [0, 1], without
    loading all.
    """
    sums = np.zeros((2, images.shape[1]))
    for start in range(0, len(images), ROWS):
        part = images[start : start + ROWS].astype(np.float64) / 255
        # In float64 and by parts: the squares of millions of pixels lose digits in
        # float32.
        sums += part.sum((0, 2, 3)), np.square(part).sum((0, 2, 3))
    mean, square = sums / (images.size / images.shape[1])
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return mean.tolist(), deviation.tolist()


# --- what a model sees ------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """Bytes [..., C, H, W] as floats of mean 0 and deviation 1 in every channel.

    In training every image is moved by up to ``shift`` pixels in both directions,
    what enters being black, and mirrored with probability 1/2 if ``flip``: pure
    functions of its key, for the images of all nodes at once.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shift: int = 0
    flip: bool = False

    def __call__(self, inputs: Tensor, keys: Tensor | None) -> Tensor:
        """Return (x / 255 - mean) / deviation of the images, augmented if keys
        [...] are given.
        """
        if keys is not None and (self.shift or self.flip):
            images = self._augment(inputs.flatten(0, -4), keys.flatten())
            inputs = images.view(inputs.shape)
        mean, deviation = (
            torch.tensor(part, device=inputs.device).mul(255).view(-1, 1, 1)
            for part in (self.mean, self.deviation)
        )
        return (inputs - mean) / deviation

    def _augment(self, images: Tensor, keys: Tensor) -> Tensor:
        """Move and mirror images [M, C, H, W]."""
        height, width = images.shape[-2:]
        bits, moves = hash_bits(keys), 2 * self.shift + 1
        # Different bits of one hash for mirroring and for each direction.
        down, right = (bits >> 1) % moves, (bits >> 32) % moves
        rows = down.unsqueeze(1) + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(len(keys), width)
        if self.flip:
            columns = torch.where(
                (bits & 1).bool().unsqueeze(1), columns.flip(1), columns
            )
        columns = columns + right.unsqueeze(1)
        # Channels last, so that one look-up by row and column takes them all.
        padded = pad(images, [self.shift] * 4).permute(0, 2, 3, 1)
        each = torch.arange(len(keys), device=images.device).view(-1, 1, 1)
        return padded[each, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
