"""Tables of images: splits by name, and every row that does not fit, said by file, column, row."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

import decentral
from decentral import ConfigError, Run, Task
from decentral.registry import build


def png(size: int = 4, grey: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), grey, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(place: Path, labels: Any = (0, 1), images: Any = None, **names: str) -> None:
    """Write a table of images and labels, with names in its metadata."""
    place.parent.mkdir(parents=True, exist_ok=True)
    images = [png()] * len(labels) if images is None else images
    table = pa.table({"image": images, "label": labels})
    parquet.write_table(table.replace_schema_metadata(names or None), place)


def task_of(folder: Path, **settings: Any) -> Task:
    return build(
        "task", {"name": "mnist", "path": str(folder), "cache": str(folder), **settings}
    )()


def pair(folder: Path, labels: Any = (0, 1), test: Any = (0, 1), **names: str) -> Path:
    write(folder / "train.parquet", labels, **names)
    write(folder / "test.parquet", test, **names)
    return folder


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "val"),
    [
        ("default/train/0.parquet", "default/test/0.parquet", "default/validation/0.parquet"),
        ("plain/partial-train/0.parquet", "plain/test/0.parquet", "plain/val/0.parquet"),
        ("data/train-0-of-1.parquet", "data/test-0-of-1.parquet", "data/dev-0-of-1.parquet"),
        ("training.parquet", "testing.parquet", "valid.parquet"),
    ],
)  # fmt: skip
def test_splits_go_by_the_name_of_file_or_folder(
    tmp_path: Path, train: str, test: str, val: str
) -> None:
    for place, count in ((train, 6), (test, 4), (val, 2)):
        write(tmp_path / place, [0, 1] * (count // 2))
    parts = task_of(tmp_path).splits
    assert [part and len(part) for part in parts] == [6, 2, 4]


def test_two_data_sets_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for name in ("en", "de"):
        pair(tmp_path / name)
    with pytest.raises(
        ConfigError, match=r"files in 2 folders, such as de and en; .* by path="
    ):
        task_of(tmp_path)
    assert len(task_of(tmp_path / "en").train) == 2


def test_a_file_of_no_split_is_left_aside_and_named(tmp_path: Path) -> None:
    write(pair(tmp_path) / "unsupervised.parquet")
    (note,) = task_of(tmp_path).notes
    assert "unsupervised.parquet is left aside: its name tells no split" in note


# --- labels ---------------------------------------------------------------------------------------


def test_texts_are_classes_in_their_order(tmp_path: Path) -> None:
    task = task_of(pair(tmp_path / "a", ["dog", "cat"], ["cat", "emu"]))
    assert task.classes == ("cat", "dog", "emu")
    assert task.train.targets.tolist() == [1, 0]
    assert task.test.targets.tolist() == [0, 2]
    named = task_of(
        pair(tmp_path / "b", ["dog", "cat"], ["cat", "dog"], classes="dog,cat")
    )
    assert named.classes == ("dog", "cat")
    assert named.train.targets.tolist() == [0, 1]


def test_numbers_and_truths_are_whole(tmp_path: Path) -> None:
    assert task_of(pair(tmp_path / "a", [0.0, 1.0], [1.0])).outputs == 2
    assert task_of(
        pair(tmp_path / "b", [True, False], [True])
    ).train.targets.tolist() == [1, 0]


def test_labels_go_into_report_and_export(tmp_path: Path) -> None:
    """The map from numbers to labels: in data.json, in the report, and in what is exported."""
    pair(tmp_path / "data", ["dog", "cat"] * 4, ["cat", "dog"])
    task = {"name": "mnist", "path": str(tmp_path / "data"), "cache": str(tmp_path)}
    run = tmp_path / "run"
    decentral.launch(task=task, nodes=2, steps=2, batch=1, split="iid", out=str(run))
    kept = json.loads((run / "data.json").read_text())
    assert kept["classes"] == ["cat", "dog"]
    Run(run).export(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "decentral.json").read_text())["classes"] == [
        "cat",
        "dog",
    ]
    assert "cat is output 0, dog is 1." in (tmp_path / "out" / "README.md").read_text()
    assert load_file(tmp_path / "out" / "model.safetensors")
    page = Run(run).report().read_text()
    assert "Labels, by number" in page
    assert "dog" in page[page.index("Labels, by number") :]


def test_a_label_that_no_training_sample_has(tmp_path: Path) -> None:
    """It is said; one that is negative stands for labels that are kept secret."""
    task = task_of(pair(tmp_path, [0, 1], [0, 7]))
    assert "no training sample has the label 7, which test or val hold." in task.notes
    (tmp_path / "texts").mkdir()
    task = task_of(pair(tmp_path / "texts", ["cat", "dog"], ["cat", "eel"]))
    assert "no training sample has the label eel, which test or val hold." in task.notes
    inputs, targets = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(
        ConfigError, match="has the label -1, which no training sample has"
    ):
        Task(loss=torch.nn.functional.cross_entropy, train=(inputs, targets),
             test=(inputs, torch.tensor([-1, -1, 0, 1])))  # fmt: skip
    both = Task(loss=torch.nn.functional.cross_entropy, train=(inputs, 2 * targets - 1),
                test=(inputs, 2 * targets - 1))  # fmt: skip
    assert both.classes == ("-1", "1")


# --- what does not fit ----------------------------------------------------------------------------

TEXT = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


def frames() -> bytes:
    buffer = io.BytesIO()
    first, second = (Image.new("L", (4, 4), grey) for grey in (1, 200))
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    return buffer.getvalue()


def cut(folder: Path) -> None:
    whole = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(whole[: len(whole) // 2])


def spoilt(folder: Path) -> None:
    """Damage the pages of a file whose footer is whole."""
    data = bytearray((folder / "train.parquet").read_bytes())
    data[4:200] = b"\xff" * 196
    (folder / "train.parquet").write_bytes(bytes(data))


NONE = pa.array([], pa.binary())
PATH_ONLY = [{"bytes": None, "path": "a.png"}] * 2
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a secret label": (lambda f: pair(f, [0, 1], [0, -1]),
                       "test.parquet, row 1, column 'label', is -1; expected a label that train"),
    "sizes of splits": (lambda f: write(f / "test.parquet", [0], [png(5)]),
                        "test.parquet, row 0, image, is of shape [1, 5, 5]; expected [1, 4, 4]"),
    "a text in the test": (lambda f: write(f / "test.parquet", ["a"]),
                           "row 0, column 'label', is 'a'; expected a whole number, as in"),
    "a null label": (lambda f: write(f / "train.parquet", [0, None]),
                     "train.parquet, row 1, column 'label', is null; expected a whole number or"),
    "a list of labels": (lambda f: write(f / "train.parquet", [[0], [1]]),
                         "train.parquet, column 'label', is of type list<"),
    "a half label": (lambda f: write(f / "train.parquet", [0.0, 0.5]),
                     "train.parquet, row 1, column 'label', is 0.5; expected a whole number"),
    "a label without a name": (lambda f: pair(f, [0, 2], [0], classes="a,b"),
                               "row 1, column 'label', is 2; expected one of the 2 classes"),
    "only a path": (lambda f: write(f / "train.parquet", [0, 1], PATH_ONLY),
                    "row 0, column 'image', is null beside the path 'a.png'; expected the encoded"),
    "no image": (lambda f: write(f / "train.parquet", [0, 1], [png(), None]),
                 "train.parquet, row 1, column 'image', is null; expected an encoded image"),
    "images as text": (lambda f: write(f / "train.parquet", [0, 1], ["a", "b"]),
                       "column 'image', is of type string; expected encoded images"),
    "no column": (lambda f: parquet.write_table(pa.table({"x": [1]}), f / "train.parquet"),
                  "train.parquet has the columns x; expected one called image or img"),
    "a pointer": (lambda f: (f / "train.parquet").write_text(TEXT),
                  "train.parquet is a pointer of git-LFS; expected the file itself"),
    "half a file": (cut, "train.parquet cannot be read (Parquet magic bytes not found"),
    "damaged pages": (spoilt, "train.parquet, row 0 and on, cannot be read ("),
    "nothing": (lambda f: (f / "test.parquet").write_bytes(b""),
                "test.parquet is empty; expected a parquet file"),
    "no rows": (lambda f: write(f / "test.parquet", pa.array([], pa.int64()), NONE),
                "test.parquet: 0 rows; expected at least one for test"),
    "frames": (lambda f: write(f / "train.parquet", [0, 1], [frames()] * 2),
               "train.parquet, row 0, image, has 2 frames; expected one"),
    "half an image": (lambda f: write(f / "train.parquet", [0, 1], [png(), png()[:40]]),
                      "train.parquet, row 1, image, cannot be decoded ("),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named_before_the_run(tmp_path: Path, name: str) -> None:
    make, said = WRONG[name]
    pair(tmp_path)
    make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        task_of(tmp_path)
    assert str(caught.value).startswith("task 'mnist': ")
    assert said in str(caught.value)
    assert "; expected " in str(caught.value)
