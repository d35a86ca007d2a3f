"""What a run takes is known before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_setup
from torch.overrides import TorchFunctionMode

from decentral import ConfigError, limits
from decentral.config import make_config
from decentral.engines.local import LocalRun
from decentral.loop.cost import PROGRAM, expected_memory
from decentral.loop.models import check_size


def test_rows_gradients_and_state_are_counted() -> None:
    """SGD with momentum holds three blocks, AdamW four, and a checkpoint passes by."""
    for optimizer, blocks in (
        ("sgd(momentum=0)", 2),
        ("sgd(momentum=0.9)", 3),
        ("adamw", 4),
    ):
        setup = tiny_setup(optimizer=optimizer, model="mlp(hidden=[400, 400])")
        memory = expected_memory(setup, 8)
        block = 8 * setup.layout.width * 4
        data = sum(p.inputs.nbytes + p.targets.nbytes for p in setup.task.splits if p)
        assert memory.lasting == pytest.approx(blocks * block + data, rel=0.01)
        assert memory.passing == pytest.approx(
            2 * (blocks - 1) * block + 2 * block, rel=0.1
        )
        assert memory.total == PROGRAM + memory.lasting + memory.passing


def test_what_does_not_fit_is_refused_before_a_row_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config({"task": "digits", "nodes": 64, "steps": 5})
    monkeypatch.setattr(limits, "free_bytes", lambda device: 30_000_000)
    monkeypatch.setattr("decentral.engines.local.Block", None)
    with pytest.raises(
        ConfigError, match=r"64 nodes of 26,122 parameters need about 5\d.\d MB"
    ):
        LocalRun(config)


def test_the_size_of_a_model_is_asked_without_drawing_it() -> None:
    """On the meta device a draw would make torch import its compiler."""
    called: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            called.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Watch():
        check_size(lambda: torch.nn.Embedding(10, 4), torch.device("cpu"), torch.float32)
    assert called
    assert not {"normal_", "_no_grad_normal_"} & set(called)


def test_free_memory_is_the_least_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cpu")
    for name, text in (("max", "5000000\n"), ("now", "1000000\n"), ("none", "max\n")):
        (tmp_path / name).write_text(text)
    free = {}
    for limit in ("max", "none", "missing"):
        monkeypatch.setattr(
            limits, "_LIMITS", ((str(tmp_path / limit), str(tmp_path / "now")),)
        )
        free[limit] = limits.free_bytes(device)
    assert free["max"] == 4_000_000
    assert free["none"] == pytest.approx(free["missing"], rel=0.5)
    assert free["none"] is None or free["none"] > 4_000_000
