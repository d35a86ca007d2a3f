"""MNIST: 70,000 handwritten digits."""

from __future__ import annotations

from decentral.registry import plugin
from decentral.tasks import HeldOut, Task
from decentral.tasks._cache import CACHE
from decentral.tasks._images import Shift, image_task


@plugin("task", reads="images")
def mnist(
    *,
    path: str | None = None,
    cache: str = CACHE,
    val: HeldOut = 0.0,
    shift: Shift = 0,
    flip: bool = False,
) -> Task:
    """Classify 28x28 grey images of digits, 60,000 for training and 10,000 for the test.

    ``path`` is a folder with train*.parquet and test*.parquet, images encoded in a column; without
    it the data set comes from the Hugging Face hub. They are decoded once, into ``cache``. Files
    that begin with valid, validation, val or dev are ``val``; the test where there is no test*.
    Training images are moved by up to ``shift`` pixels, and mirrored at random if ``flip``.
    (LeCun, Cortes & Burges, 1998.)
    """
    return image_task(
        "mnist", "ylecun/mnist", "L", path=path, cache=cache, val=val, shift=shift, flip=flip
    )
