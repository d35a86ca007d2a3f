"""What can be wrong with data: files that are missing, damaged or of another form."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from support import write_images

from decentral import Task
from decentral.registry import build
from decentral.tasks.models.hub import causal_model


def images(**settings: Any) -> None:
    build("task", {"name": "mnist", "cache": "cache", **settings})()


def text(words: str | bytes = "", **settings: Any) -> None:
    Path("words.txt").write_bytes(words if isinstance(words, bytes) else words.encode())
    build("task", {"name": "text", "path": "words.txt", "cache": "cache", **settings})()


def texts(name: str, *files: str) -> None:
    """Write files into a folder, and read it with a share for validation."""
    Path(name).mkdir(exist_ok=True)
    for file in files:
        (Path(name) / file).write_text("some words")
    build("task", {"name": "text", "path": name, "val": 0.1, "cache": "cache"})()


def folder(name: str, sizes: tuple[int, ...] = (4, 4), **columns: Any) -> str:
    """Write images of these sizes, for training and for the test."""
    Path(name).mkdir(exist_ok=True)
    pixels = [np.zeros((size, size, 3), np.uint8) for size in sizes]
    for split in ("train", "test"):
        write_images(Path(name) / f"{split}.parquet", pixels, **columns)
    return name


def bare() -> str:
    """Make a folder without files."""
    Path("bare").mkdir(exist_ok=True)
    return "bare"


def few_positions() -> None:
    with mock.patch.dict(sys.modules, {"transformers": mock.MagicMock()}) as modules:
        config = modules["transformers"].LlamaConfig.return_value
        config.max_position_embeddings = 8
        causal_model("Llama", {"max_position_embeddings": 8}, (64,))


def without_models() -> None:
    with mock.patch.dict(sys.modules, {"transformers": None}):
        causal_model("Llama", None, (64,))


def without_tokenizers() -> None:
    with mock.patch.dict(sys.modules, {"tokenizers": None}):
        text("some words " * 1000, tokens="bpe")


def without_hub() -> None:
    with mock.patch.dict(sys.modules, {"datasets": None}):
        hub()


def hub(**settings: Any) -> None:
    build(
        "task", {"name": "text", "path": "hf://owner/name", "cache": "cache", **settings}
    )()


def hub_offline() -> None:
    with mock.patch.dict(sys.modules, {"datasets": mock.MagicMock()}) as modules:
        modules["datasets"].load_dataset.side_effect = ConnectionError("no network")
        hub()


def hub_without_the_column() -> None:
    with mock.patch.dict(sys.modules, {"datasets": mock.MagicMock()}) as modules:
        rows = modules["datasets"].load_dataset.return_value.take
        rows.return_value = [{"story": "words", "id": 3}]
        hub()


def without(module: str, **settings: Any) -> None:
    with mock.patch.dict(sys.modules, {module: None}):
        images(**settings)


def offline() -> None:
    with mock.patch(
        "huggingface_hub.snapshot_download", side_effect=OSError("no network")
    ):
        images()


def unnamed() -> None:
    import pyarrow
    from pyarrow import parquet

    Path("unnamed").mkdir(exist_ok=True)
    for split in ("train", "test"):
        table = pyarrow.table({"picture": [b""], "label": [0]})
        parquet.write_table(table, f"unnamed/{split}.parquet")
    images(path="unnamed")


def validated_twice() -> None:
    where = Path(folder("validated"))
    write_images(where / "valid.parquet", [np.zeros((4, 4, 3), np.uint8)])
    images(path=str(where), val=0.1)


def of_mode(mode: str) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, (2, 2)).save(buffer, "TIFF")
    images(path=folder(f"of mode {mode}", (2,), image=[buffer.getvalue()]))


def table(name: str, test: Any = (0,), **columns: Any) -> None:
    """Write tables of single rows, for training and for the test, and read them."""
    import pyarrow
    from pyarrow import parquet

    where = Path(folder(name, (4,)))
    if columns:
        parquet.write_table(pyarrow.table(columns), where / "train.parquet")
    write_images(
        where / "test.parquet", [np.zeros((4, 4, 3), np.uint8)] * len(test), label=test
    )
    images(path=str(where))


def without_rows() -> None:
    import pyarrow

    empty = {
        "image": pyarrow.array([], pyarrow.binary()),
        "label": pyarrow.array([], "int64"),
    }
    table("without rows", **empty)


def two_data_sets() -> None:
    for name in ("en", "de"):
        Path("two").mkdir(exist_ok=True)
        folder(f"two/{name}")
    images(path="two")


def cut_table() -> None:
    where = Path(folder("cut table"))
    (where / "train.parquet").write_bytes(b"PAR1 and no more")
    images(path=str(where))


def secret() -> None:
    samples = torch.zeros(4, 2)
    Task(
        loss=torch.nn.functional.cross_entropy,
        train=(samples, torch.tensor([0, 1, 0, 1])),
        test=(samples, torch.tensor([-1, 0, 0, 1])),
    )


def no_room() -> None:
    Path("occupied").write_text("a file, not a folder")
    images(path=folder("small"), cache="occupied/cache")


def captions(held: str | None, **settings: Any) -> None:
    """Read a folder of captions whose JSON file holds something, or is not there."""
    where = Path("captions")
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    if held is not None:
        (where / "captions.json").write_text(held)
    build("task", {"name": "change_captions", "path": str(where), **settings})(0)


def pair(filename: str = "one.png", **other: Any) -> str:
    """Return the text of a file with one pair, of the training."""
    said = {"sentences": [{"raw": "No change."}], "changeflag": 0, "split": "train"}
    return json.dumps({"images": [{"filename": filename, **said, **other}]})


def captions_without_pillow() -> None:
    with mock.patch.dict(sys.modules, {"PIL.Image": None}):
        captions(pair())


DATA: dict[str, Callable[[], Any]] = {
    "captions: contents of files": lambda: captions(pair(), about="contents"),
    "captions: no file": lambda: captions(None),
    "captions: no JSON": lambda: captions("{"),
    "captions: no list": lambda: captions("[]"),
    "captions: no flag": lambda: captions(pair(changeflag="maybe")),
    "captions: a way out of the folder": lambda: captions(pair("../one.png")),
    "captions: no image": lambda: captions(pair()),
    "captions: no pair": lambda: captions(json.dumps({"images": []})),
    "captions: nothing to read images with": captions_without_pillow,
    "images: no folder": lambda: images(path="nowhere"),
    "images: no files": lambda: images(path=bare()),
    "images: nothing to load the hub with": lambda: without("huggingface_hub"),
    "images: the hub does not answer": offline,
    "images: nothing to decode with": lambda: without(
        "pyarrow.parquet", path=folder("small")
    ),
    "images: columns of other names": unnamed,
    "images: two sizes": lambda: images(path=folder("uneven", (4, 5))),
    "images: two data sets": two_data_sets,
    "images: no whole file": cut_table,
    "images: a null": lambda: table("null", image=[None], label=[0]),
    "images: no rows": without_rows,
    "images: a secret label": lambda: table("secret", test=[-1]),
    "labels: secret ones": secret,
    "images: damaged": lambda: images(path=folder("damaged images", image=[b"x", b"y"])),
    "images: val and files for it": validated_twice,
    "images: numbers of an unknown range": lambda: of_mode("F"),
    "images: transparent": lambda: of_mode("RGBA"),
    "images: nowhere to keep them": no_room,
    "transformers: not there": without_models,
    "transformers: too few positions": few_positions,
    "text: nothing to learn pairs with": without_tokenizers,
    "text: no loader for the hub": without_hub,
    "text: hub out of reach": hub_offline,
    "text: no such column": hub_without_the_column,
    "text: an empty folder": lambda: build("task", f"text(path={bare()})")(),
    "text: not UTF-8": lambda: text(b"\xff\xfe" * 1000),
    "text: nothing to train on": lambda: texts("held", "test.txt", "valid.txt"),
    "text: a table": lambda: text(b"PAR1 and so on"),
    "text: val and files for it": lambda: texts(
        "split", "train.txt", "valid.txt", "test.txt"
    ),
    "text: the same for training and test": lambda: text("words", test="words.txt"),
    "text: too short": lambda: text("a few words"),
}
