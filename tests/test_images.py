"""Images: decoded once and truly; standardised, moved and mirrored by their keys."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import write_images

import decentral.cli
from decentral.errors import ConfigError
from decentral.registry import build
from decentral.tasks import Task
from decentral.tasks import image_files as reader
from decentral.tasks.image_files import Pixels
from decentral.tasks.images import digits, read_digits


def task_of(folder: Path, name: str = "cifar10", **given: object) -> Task:
    return build(
        "task", {"name": name, "path": str(folder), "cache": str(folder), **given}
    )()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("valid", 8)):
        pixels = draw.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
        write_images(tmp_path / f"{split}-00000-of-00001.parquet", list(pixels))
        np.save(tmp_path / split, pixels)
    return tmp_path


def test_pixels_come_out_as_they_went_in(folder: Path) -> None:
    train, _, test = task_of(folder).splits
    for part, name in ((train, "train"), (test, "valid")):
        assert np.array_equal(
            part.inputs, np.load(folder / f"{name}.npy").transpose(0, 3, 1, 2)
        )
        assert part.targets.tolist() == [k % 4 for k in range(len(part))]
    seen, _ = train.take(torch.arange(40))
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(3))


def test_images_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = task_of(folder)
    monkeypatch.setattr(reader, "_pixels", None)
    again = task_of(folder)
    assert torch.equal(first.splits[0].inputs, again.splits[0].inputs)
    assert not list(folder.glob(".making-*"))


def test_the_form_of_the_hub_is_read_too(tmp_path: Path) -> None:
    """There a column holds {bytes, path}, it may be called img, and the classes have names."""
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(buffer, "PNG")
    entry = {"bytes": buffer.getvalue(), "path": "7.png"}
    table = pyarrow.table({"img": [entry] * 3, "fine_label": [0, 1, 1]})
    features = {"fine_label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    named = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        parquet.write_table(named, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    task = task_of(tmp_path, "mnist")
    assert task.classes == ("cat", "dog")
    assert task.splits[0].inputs.unique().tolist() == [7]
    assert task.input_shape == (1, 4, 4)


def write_splits(folder: Path, *splits: str) -> Path:
    """Write one file per split; the k-th holds k + 1 images of the grey k."""
    folder.mkdir(exist_ok=True)
    for place, split in enumerate(splits):
        pixels = np.full((4, 4, 3), place, np.uint8)
        write_images(folder / f"{split}.parquet", [pixels] * (place + 1))
    return folder


@pytest.mark.parametrize("val", ["valid", "validation-00000-of-00001", "val", "dev"])
def test_files_for_validation_are_no_test_data(tmp_path: Path, val: str) -> None:
    """They are ``val`` beside a test, and the test, which is said, where there is no other."""
    whole = task_of(write_splits(tmp_path / "whole", "train", "test", val, "values"))
    assert [part and len(part) for part in whole.splits] == [1, 3, 2]
    assert not any("is the test set" in note for note in whole.notes)
    without = task_of(write_splits(tmp_path / "without", "train", val))
    assert [part and len(part) for part in without.splits] == [1, None, 2]
    (note,) = (note for note in without.notes if "is the test set" in note)
    assert f"{val}.parquet" in note


def test_a_note_stands_in_the_events_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_splits(tmp_path / "images", "valid", "train")
    words = f"launch --task cifar10(path=images,cache={tmp_path}) model=mlp --out run"
    assert decentral.cli.run([*words.split(), "nodes=1", "steps=1", "batch=1"]) == 0
    assert "valid.parquet is the test set" in " ".join(capsys.readouterr().out.split())
    events = [
        json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()
    ]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert "valid.parquet is the test set" in notes[0]


def write_picture(
    folder: Path, picture: Image.Image, form: str = "PNG", **how: Any
) -> Path:
    """Write one picture as training and test data of the hub's form."""
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    picture.save(buffer, form, **how)
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        table = pyarrow.table({"image": [buffer.getvalue()], "label": [0]})
        parquet.write_table(table, folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, form: str) -> None:
    """v -> round(v / 257), where a conversion by Pillow clips all from 255 on."""
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    folder = write_picture(tmp_path, Image.fromarray(values), form)
    assert task_of(folder, "mnist").splits[0].inputs.flatten().tolist() == [
        0,
        1,
        1,
        128,
        255,
    ]
    assert task_of(folder).splits[0].inputs[0, 2].flatten().tolist() == [
        0,
        1,
        1,
        128,
        255,
    ]


def test_images_of_few_colours_keep_them(tmp_path: Path) -> None:
    """One bit, a palette and an alpha channel that hides nothing."""
    colours = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    rgb = Image.fromarray(colours)
    for place, picture in enumerate((rgb.quantize(4), rgb.convert("RGBA"))):
        folder = write_picture(tmp_path / str(place), picture)
        assert np.array_equal(
            task_of(folder).splits[0].inputs[0], colours.transpose(2, 0, 1)
        )
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert task_of(write_picture(tmp_path / "1", bits), "mnist").splits[
        0
    ].inputs.tolist() == [[[[0, 255]]]]


@pytest.mark.parametrize(
    ("mode", "form", "reason"),
    [
        ("F", "TIFF", "mode F, whose range is not known"),
        ("I", "TIFF", "mode I, whose range is not known"),
        ("RGBA", "PNG", "transparent pixels"),
        ("LA", "PNG", "transparent pixels"),
    ],
)
def test_what_eight_bits_cannot_hold_is_refused(
    tmp_path: Path, mode: str, form: str, reason: str
) -> None:
    folder = write_picture(tmp_path, Image.new(mode, (2, 2)), form)
    with pytest.raises(
        ConfigError, match=rf"train\.parquet, row 0, image, has .*{reason}"
    ):
        task_of(folder)


def test_a_transparent_colour_of_a_palette_is_refused(tmp_path: Path) -> None:
    folder = write_picture(tmp_path, Image.new("P", (2, 2)), transparency=0)
    with pytest.raises(ConfigError, match="transparent pixels"):
        task_of(folder)


def test_images_stand_upright_as_their_camera_says(tmp_path: Path) -> None:
    """Orientation 6: the first row is the right side, in what Hugging Face datasets gives, too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    folder = write_picture(tmp_path, picture, exif=exif)
    shown = task_of(folder, "mnist").splits[0].inputs[0, 0].tolist()
    assert shown == [[4, 1], [5, 2], [6, 3]]


def test_moving_and_mirroring_show_pieces_of_the_image() -> None:
    """Every augmented image is one of the crops of the padded image, or one of their mirrors."""
    view = Pixels((0.0,), (1 / 255,), shift=2, flip=True)
    image = torch.arange(1, 31, dtype=torch.uint8).view(1, 5, 6)
    padded = torch.nn.functional.pad(image, [2, 2, 2, 2])
    crops = [padded[:, a : a + 5, b : b + 6] for a in range(5) for b in range(5)]
    # The image is mirrored before it is moved.
    turned = torch.nn.functional.pad(image.flip(-1), [2, 2, 2, 2])
    crops += [turned[:, a : a + 5, b : b + 6] for a in range(5) for b in range(5)]
    known = torch.stack(crops).flatten(1).float()
    keys = torch.arange(4_000).view(40, 100)
    seen = view(image.expand(40, 100, 1, 5, 6), keys).flatten(0, 1).flatten(1).round()
    which = (seen.unsqueeze(1) == known).all(-1)
    assert (which.sum(1) == 1).all()
    counts = which.sum(0)
    assert counts.min() > 40  # 50 outcomes, 80 of each expected
    assert counts.max() < 125


def test_augmentation_is_a_function_of_the_key_alone() -> None:
    view = Pixels((0.5,), (0.2,), shift=3, flip=True)
    images = torch.randint(0, 256, (4, 6, 3, 8, 8), dtype=torch.uint8)
    keys = torch.randint(0, 2**62, (4, 6))
    together = view(images, keys)
    for place in range(6):
        assert torch.equal(
            together[2, place], view(images[2, place, None], keys[2, place, None])[0]
        )
    assert not torch.equal(view(images, keys + 1), together)
    torch.testing.assert_close(view(images, None), (images / 255 - 0.5) / 0.2)


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))]
)
def test_the_real_data_sets(
    data_dir: Path, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    """Their test files, for quickness, as training sets: size, classes and moments."""
    from pyarrow import parquet

    real = data_dir / name / "test.parquet"
    if not real.is_file():
        pytest.skip(f"needs {real}")
    (tmp_path / "train.parquet").symlink_to(real)
    few = parquet.read_table(real).slice(0, 100)
    parquet.write_table(few, tmp_path / "test.parquet")
    task = task_of(tmp_path, name)
    train = task.splits[0]
    assert (len(train), task.input_shape, task.outputs) == (10_000, shape, 10)
    mean = {"mnist": (0.1307,), "cifar10": (0.4914, 0.4822, 0.4465)}[name]
    assert train.view.mean == pytest.approx(mean, abs=6e-3)


@pytest.mark.parametrize("found", [True, False])
def test_digits_are_those_of_scikit_learn(
    found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from its file, or by its function where that file stands elsewhere."""
    from sklearn.datasets import load_digits

    if not found:
        monkeypatch.setattr("decentral.tasks.images.find_spec", lambda name: None)
    wanted = load_digits()
    images, labels = read_digits()
    np.testing.assert_array_equal(images, wanted.images)
    np.testing.assert_array_equal(labels, wanted.target)
    assert (images.dtype, labels.dtype) == (np.float64, np.int64)


def test_digits_need_no_import_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert len(digits().splits[0]) == 1797 - 450
