"""The same block on a GPU. Skipped, aloud, where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import tiny_block, trained

from decentral.tasks.image_files import Pixels

pytestmark = pytest.mark.needs("cuda")

CASES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "convolutions, batch norm": {"task": "digits", "model": "cnn(channels=[4, 8], norm=batch)"},
    "gpt layer by layer": {
        "task": "text(context=16)", "model": "gpt(layers=1, width=8, heads=2)", "replicas": "vmap",
    },
    "one row at a time": {"replicas": "loop"},
    "compiled": {"model": "cnn(channels=[4])", "task": "digits", "compile": "default"},
    "CUDA graphs": {"model": "cnn(channels=[4])", "task": "digits", "compile": "reduce-overhead"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_run_agrees_with_the_same_run_on_the_cpu(name: str) -> None:
    rows = {
        device: trained(tiny_block(device=device, steps=20, **CASES[name]))[-1]
        for device in ("cpu", "cuda")
    }
    for key in ("loss/merged", "loss/local_mean", "consensus/distance"):
        assert rows["cuda"][key] == pytest.approx(rows["cpu"][key], rel=1e-3)
    assert rows["cuda"]["comm/bytes"] == rows["cpu"]["comm/bytes"]


@pytest.mark.parametrize("name", CASES)
def test_a_run_in_bfloat16_agrees_with_one_in_full(name: str) -> None:
    full, reduced = (
        trained(tiny_block(device="cuda", steps=20, **CASES[name], **more))[-1]
        for more in ({}, {"precision": "bfloat16"})
    )
    for key in ("loss/merged", "loss/local_mean"):
        assert reduced[key] == pytest.approx(full[key], rel=0.05)


def test_images_are_moved_and_mirrored_alike() -> None:
    view = Pixels((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), shift=3, flip=True)
    images = torch.randint(0, 256, (4, 6, 3, 8, 8), dtype=torch.uint8)
    keys = torch.randint(0, 1 << 62, (4, 6))
    torch.testing.assert_close(view(images.cuda(), keys.cuda()).cpu(), view(images, keys))
