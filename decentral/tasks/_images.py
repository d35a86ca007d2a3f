"""Image classification from parquet files of encoded images, decoded once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.lib.format import open_memmap
from torch.nn.functional import cross_entropy

from decentral.errors import ConfigError
from decentral.tasks import Samples, Task, holdout
from decentral.tasks._augment import Pixels
from decentral.tasks._cache import cached, fingerprint, shown

INSTALL = "pip install -c constraints.txt -e '.[images]'"
#: How the names of the parquet files of each split begin.
_SPLITS = {"train": ("train",), "test": ("test", "valid")}
#: Columns that hold images and labels, as the data sets of the hub name them.
_IMAGES, _LABELS = ("image", "img"), ("label", "fine_label", "labels")
#: Rows read at a time.
_ROWS = 1024

Mode = Literal["L", "RGB"]
Shift = Annotated[int, Ge(0)]


def image_task(
    name: str, hub: str, mode: Mode, *, path: str | None, cache: str, val: float, **augment: Any
) -> Task:
    """Return the classification of the images in a folder of parquet files, or of a hub's data set.

    Decoding happens once; later runs map the decoded bytes from ``cache`` into memory. ``augment``
    goes to ``Pixels``.
    """
    folder = _downloaded(name, hub) if path is None else Path(path).expanduser()
    files = {split: _files(name, folder, split) for split in _SPLITS}
    key = ["images-1", mode, [fingerprint(each) for each in files.values()]]
    made = cached(cache, name, key, lambda made: _decode(name, files, mode, made))
    facts = json.loads((made / "facts.json").read_text())
    view = Pixels(tuple(facts["mean"]), tuple(facts["deviation"]), **augment)
    train, test = (_mapped(made, split, view) for split in _SPLITS)
    train, valid = holdout(train, val)
    classes = facts["classes"] and tuple(facts["classes"])
    return Task(loss=cross_entropy, train=train, val=valid, test=test, classes=classes)


def _mapped(made: Path, split: str, view: Pixels) -> Samples:
    # Copy-on-write: nobody writes, but torch wants to be allowed to.
    images = np.load(made / f"{split}.images.npy", mmap_mode="c")
    labels = np.load(made / f"{split}.labels.npy")
    return Samples(torch.from_numpy(images), torch.from_numpy(labels), view, mapped=True)


# --- where the files are --------------------------------------------------------------------------


def _files(name: str, folder: Path, split: str) -> list[Path]:
    found = sorted(
        file for file in folder.rglob("*.parquet") if file.name.startswith(_SPLITS[split])
    )
    if not found:
        raise ConfigError(
            f"task {name!r}: no {split}*.parquet in {folder}; path= must name a folder with "
            "train*.parquet and test*.parquet, images encoded in a column 'image'."
        )
    return found


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
        reason = str(error).strip().splitlines()[0][:100]
        raise ConfigError(
            f"task {name!r}: cannot load {hub} from the hub ({reason}); {remedy}."
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
    tables: dict[str, list[Any]] = {
        split: [parquet.ParquetFile(file) for file in each] for split, each in files.items()
    }
    for split, parts in tables.items():
        _decode_split(name, parts, mode, made / split)
    mean, deviation = _moments(np.load(made / "train.images.npy", mmap_mode="r"))
    facts = {"mean": mean, "deviation": deviation, "classes": _classes(tables["train"][0])}
    (made / "facts.json").write_text(json.dumps(facts))


def _decode_split(name: str, parts: list[Any], mode: Mode, into: Path) -> None:
    total = sum(part.metadata.num_rows for part in parts)
    pixels: Any = None
    labels = np.zeros(total, dtype=np.int64)
    rows = shown(_rows(name, parts), f"decoding {name} {into.name}", total)
    for place, (encoded, label) in enumerate(rows):
        try:
            image = _pixels(encoded, mode)
        except OSError as error:
            raise ConfigError(
                f"task {name!r}: image {place} of {into.name} cannot be decoded; "
                "the file may be damaged."
            ) from error
        if pixels is None:
            pixels = open_memmap(f"{into}.images.npy", "w+", np.uint8, (total, *image.shape))
        if image.shape != pixels.shape[1:]:
            raise ConfigError(
                f"task {name!r}: image {place} of {into.name} has shape {list(image.shape)}, the "
                f"first has {list(pixels.shape[1:])}; all must be of one size."
            )
        pixels[place], labels[place] = image, label
    pixels.flush()
    np.save(f"{into}.labels.npy", labels)


def _rows(name: str, parts: list[Any]) -> Iterator[tuple[bytes, int]]:
    for part in parts:
        image, label = (_column(name, part, known) for known in (_IMAGES, _LABELS))
        for batch in part.iter_batches(_ROWS, columns=[image, label]):
            images, labels = batch.column(image).to_pylist(), batch.column(label).to_pylist()
            for encoded, number in zip(images, labels, strict=True):
                yield (encoded["bytes"] if isinstance(encoded, dict) else encoded), number


def _column(name: str, part: Any, known: tuple[str, ...]) -> str:
    columns: list[str] = part.schema_arrow.names
    for column in known:
        if column in columns:
            return column
    raise ConfigError(
        f"task {name!r}: the parquet files have the columns {', '.join(columns)}; "
        f"one must be called {' or '.join(known)}."
    )


def _pixels(encoded: bytes, mode: Mode) -> Any:
    """Return one image as bytes [channels, height, width]."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _moments(images: Any) -> tuple[list[float], list[float]]:
    """Return mean and deviation of every channel, of pixels in [0, 1], without loading all."""
    sums = np.zeros((2, images.shape[1]))
    for start in range(0, len(images), _ROWS):
        part = images[start : start + _ROWS].astype(np.float64) / 255
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
