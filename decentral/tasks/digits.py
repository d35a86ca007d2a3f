"""Handwritten digits: 1,797 real 8x8 images that ship with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from decentral.registry import plugin
from decentral.tasks import HeldOut, Samples, Task, holdout

_TEST = 450


@plugin("task")
def digits(*, val: HeldOut = 0.0) -> Task:
    """Classify 8x8 images of handwritten digits, ten classes, 450 of 1,797 for the test.

    Pixels are divided by 16, then standardised by one scalar mean and deviation over all images.
    The test set is the first 450 of a fixed permutation; ``val`` is the share of the rest that is
    kept from training for validation. (Alpaydin & Kaynak, UCI repository, 1998.)
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = np.asarray(data.images, dtype=np.float64) / 16.0
    images = (images - images.mean()) / images.std()
    order = np.random.default_rng(0).permutation(len(images))
    inputs = torch.from_numpy(images[order]).to(torch.float32).unsqueeze(1)
    targets = torch.from_numpy(np.asarray(data.target)[order]).to(torch.int64)
    test = Samples(inputs[:_TEST], targets[:_TEST])
    train, valid = holdout(Samples(inputs[_TEST:], targets[_TEST:]), val)
    return Task(loss=cross_entropy, train=train, val=valid, test=test)
