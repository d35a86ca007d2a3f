"""Images: decoded once and truly; standardised, moved and mirrored by their keys."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import write_images

from decentral.registry import build
from decentral.tasks import Task
from decentral.tasks import _images as reader
from decentral.tasks._augment import Pixels


def task_of(folder: Path, name: str = "cifar10", **given: object) -> Task:
    return build("task", {"name": name, "path": str(folder), "cache": str(folder), **given})()


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
        assert np.array_equal(part.inputs, np.load(folder / f"{name}.npy").transpose(0, 3, 1, 2))
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
    from PIL import Image
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


@pytest.mark.parametrize(("name", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_the_real_data_sets(
    data_dir: Path, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    """Their test files, for quickness in both roles: size, classes and the moments of training."""
    real = data_dir / name / "test.parquet"
    if not real.is_file():
        pytest.skip(f"needs {real}")
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").symlink_to(real)
    task = task_of(tmp_path, name)
    train = task.splits[0]
    assert (len(train), task.input_shape, task.outputs) == (10_000, shape, 10)
    mean = {"mnist": (0.1307,), "cifar10": (0.4914, 0.4822, 0.4465)}[name]
    assert train.view.mean == pytest.approx(mean, abs=6e-3)
