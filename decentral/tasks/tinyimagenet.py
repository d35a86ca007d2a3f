"""Tiny ImageNet: 110,000 colour images of two hundred classes."""

from __future__ import annotations

from decentral.registry import plugin
from decentral.tasks import HeldOut, Task
from decentral.tasks._cache import CACHE
from decentral.tasks._images import Shift, image_task


@plugin("task", reads="images", defaults={"model": {"name": "cnn", "channels": [32, 64, 64]}})
def tinyimagenet(
    *,
    path: str | None = None,
    cache: str = CACHE,
    val: HeldOut = 0.0,
    shift: Shift = 8,
    flip: bool = True,
) -> Task:
    """Classify 64x64 colour images, 200 classes, 100,000 for training, 10,000 for the test.

    ``path`` is a folder with train*.parquet and test*.parquet, images encoded in a column; without
    it the data set comes from the Hugging Face hub. They are decoded once, into ``cache``. Files
    that begin with valid, validation, val or dev are ``val``; the test where there is no test*.
    Training images are moved by up to ``shift`` pixels, and mirrored at random if ``flip``.
    (Le & Yang, 2015.)
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
