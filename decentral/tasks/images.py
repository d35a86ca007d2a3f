"""Images to classify: digits of 8x8 pixels, MNIST, CIFAR-10 and CIFAR-100, Tiny
ImageNet.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from decentral.registry import Location, plugin
from decentral.tasks.base import HeldOut, Samples, Task, holdout
from decentral.tasks.cache import CACHE
from decentral.tasks.image_files import Shift, image_task

#: Samples of the digits that are for the test.
_DIGITS_TEST = 450


@plugin("task")
def digits(*, val: HeldOut = 0.0) -> Task:
    """Classify 8x8 images of handwritten digits, ten classes, 450 of 1,797 for the
    test.

    Pixels are divided by 16, then standardised by one scalar mean and deviation
    over all images. The test set is the first 450 of a fixed permutation; ``val``
    is the share of the rest that is kept from training for validation. (Alpaydin &
    Kaynak, UCI repository, 1998.)

    Args:
        val: Share of the training samples kept for validation.
    """
    pixels, labels = read_digits()
    images = pixels / 16.0
    images = (images - images.mean()) / images.std()
    order = np.random.default_rng(0).permutation(len(images))
    inputs = torch.from_numpy(images[order]).to(torch.float32).unsqueeze(1)
    targets = torch.from_numpy(labels[order]).to(torch.int64)
    test = Samples(inputs[:_DIGITS_TEST], targets[:_DIGITS_TEST])
    train, valid = holdout(Samples(inputs[_DIGITS_TEST:], targets[_DIGITS_TEST:]), val)
    return Task(loss=cross_entropy, train=train, val=valid, test=test)


def read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the images [1797, 8, 8] of scikit-learn, from 0 to 16, and their
    labels.

    They are read from its file where it stands: importing scikit-learn and what it
    needs takes 2 s of CPU time, longer than many a run.
    """
    package = find_spec("sklearn")
    homes = package.submodule_search_locations if package else None
    file = Path(next(iter(homes or ()), "")) / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        data: Any = load_digits()
        return np.asarray(data.images), np.asarray(data.target)
    rows = _table(file)
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


@cache
def _table(file: Path) -> NDArray[np.float64]:
    """Return the numbers of a file; the points of a sweep read it once."""
    rows = np.loadtxt(file, delimiter=",")
    rows.flags.writeable = False
    return rows


@plugin("task", reads="images")
def mnist(
    *,
    path: Location | None = None,
    cache: str = CACHE,
    val: HeldOut = 0.0,
    shift: Shift = 0,
    flip: bool = False,
) -> Task:
    """Classify 28x28 grey images of digits, 60,000 for training and 10,000 for the
    test.

    ``path`` is a folder with train*.parquet and test*.parquet, images encoded in a
    column; without it the data set comes from the Hugging Face hub. They are
    decoded once, into ``cache``. Files that begin with valid, validation, val or
    dev are ``val``; the test where there is no test*. A folder of such a name
    serves, too (default/train/0000.parquet). Labels are numbers or texts. Training
    images are moved by up to ``shift`` pixels, and mirrored at random if ``flip``.
    (LeCun, Cortes & Burges, 1998.)

    Args:
        path: Folder with the files; none: from the hub.
        cache: Folder for what is decoded once.
        val: Share of the training samples kept for validation.
        shift: Pixels that training images are moved by, at most.
        flip: Whether training images are mirrored at random.
    """
    return image_task(
        "mnist",
        "ylecun/mnist",
        "L",
        path=path,
        cache=cache,
        val=val,
        shift=shift,
        flip=flip,
    )


@plugin(
    "task", reads="images", defaults={"model": {"name": "cnn", "channels": [32, 64, 64]}}
)
def cifar10(
    *,
    path: Location | None = None,
    cache: str = CACHE,
    val: HeldOut = 0.0,
    shift: Shift = 4,
    flip: bool = True,
) -> Task:
    """Classify 32x32 colour images, ten classes, 50,000 for training and 10,000 for
    the test.

    ``path`` is a folder with train*.parquet and test*.parquet, images encoded in a
    column; without it the data set comes from the Hugging Face hub. They are
    decoded once, into ``cache``. Files that begin with valid, validation, val or
    dev are ``val``; the test where there is no test*. A folder of such a name
    serves, too (default/train/0000.parquet). Labels are numbers or texts. Training
    images are moved by up to ``shift`` pixels, and mirrored at random if ``flip``.
    (Krizhevsky, 2009.)

    Args:
        path: Folder with the files; none: from the hub.
        cache: Folder for what is decoded once.
        val: Share of the training samples kept for validation.
        shift: Pixels that training images are moved by, at most.
        flip: Whether training images are mirrored at random.
    """
    return image_task(
        "cifar10",
        "uoft-cs/cifar10",
        "RGB",
        path=path,
        cache=cache,
        val=val,
        shift=shift,
        flip=flip,
    )


@plugin(
    "task", reads="images", defaults={"model": {"name": "cnn", "channels": [32, 64, 64]}}
)
def cifar100(
    *,
    path: Location | None = None,
    cache: str = CACHE,
    val: HeldOut = 0.0,
    shift: Shift = 4,
    flip: bool = True,
) -> Task:
    """Classify 32x32 colour images, 100 classes, 50,000 for training and 10,000 for
    the test.

    ``path`` is a folder with train*.parquet and test*.parquet, images encoded in a
    column; without it the data set comes from the Hugging Face hub. They are
    decoded once, into ``cache``. Files that begin with valid, validation, val or
    dev are ``val``; the test where there is no test*. A folder of such a name
    serves, too (default/train/0000.parquet). Labels are numbers or texts. Training
    images are moved by up to ``shift`` pixels, and mirrored at random if ``flip``.
    (Krizhevsky, 2009.)

    Args:
        path: Folder with the files; none: from the hub.
        cache: Folder for what is decoded once.
        val: Share of the training samples kept for validation.
        shift: Pixels that training images are moved by, at most.
        flip: Whether training images are mirrored at random.
    """
    return image_task(
        "cifar100",
        "uoft-cs/cifar100",
        "RGB",
        path=path,
        cache=cache,
        val=val,
        shift=shift,
        flip=flip,
    )


@plugin(
    "task", reads="images", defaults={"model": {"name": "cnn", "channels": [32, 64, 64]}}
)
def tinyimagenet(
    *,
    path: Location | None = None,
    cache: str = CACHE,
    val: HeldOut = 0.0,
    shift: Shift = 8,
    flip: bool = True,
) -> Task:
    """Classify 64x64 colour images, 200 classes, 100,000 for training, 10,000 for
    the test.

    ``path`` is a folder with train*.parquet and test*.parquet, images encoded in a
    column; without it the data set comes from the Hugging Face hub. They are
    decoded once, into ``cache``. Files that begin with valid, validation, val or
    dev are ``val``; the test where there is no test*. A folder of such a name
    serves, too (default/train/0000.parquet). Labels are numbers or texts. Training
    images are moved by up to ``shift`` pixels, and mirrored at random if ``flip``.
    (Le & Yang, 2015.)

    Args:
        path: Folder with the files; none: from the hub.
        cache: Folder for what is decoded once.
        val: Share of the training samples kept for validation.
        shift: Pixels that training images are moved by, at most.
        flip: Whether training images are mirrored at random.
    """
    return image_task(
        "tinyimagenet",
        "zh-plus/tiny-imagenet",
        "RGB",
        path=path,
        cache=cache,
        val=val,
        shift=shift,
        flip=flip,
    )
