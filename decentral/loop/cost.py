"""What a step costs, counted before it runs."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from decentral.exchange.local import LocalExchange
from decentral.layout import shadow
from decentral.loop.block import Block
from decentral.loop.setup import Setup
from decentral.network.membership import Membership
from decentral.registry import build

#: Floating-point operations of a step below which a second thread gains little, and where another
#: program on the same cores makes it lose much: threads of one step then wait for each other.
ONE_THREAD_FLOPS = 3e8


def step_flops(setup: Setup) -> float:
    """Return the floating-point operations of one step of all nodes, matrix products only.

    Forward and backward take 6 operations per weight and position it is applied to.
    """
    uses = _weight_uses(setup.model, setup.train.first)
    return 6.0 * uses * setup.pace.mean * setup.config.nodes


def _weight_uses(model: nn.Module, sample: Tensor) -> float:
    """Count how often weights are applied to one sample, over all linear and convolution layers."""
    uses = 0.0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal uses
        weight: Any = module.weight
        uses += weight.numel() * output.numel() / weight.shape[0]

    counted = shadow(model).eval()
    for module in counted.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(count)
    with torch.no_grad(), suppress(Exception):  # The first gradient explains what fails here.
        counted(sample)
    return uses


def timed(setup: Setup) -> Setup:
    """Return a setup whose seconds per step are known: measured, if a network needs them."""
    if setup.network is None or setup.compute is not None:
        return setup
    measured = build("compute", {"name": "constant", "seconds": step_seconds(setup)})
    return replace(setup, compute=measured, parts={**setup.parts, "compute": measured})


def step_seconds(setup: Setup, repeats: int = 5) -> float:
    """Return the seconds that this machine needs for a step of one node: the least of a few."""
    alone = Block(replace(setup, network=None), LocalExchange(1), lambda *_: None, Membership((0,)))
    took_s: list[float] = []
    for _ in range(1 + repeats):
        begin = time.perf_counter()
        alone.gradient()
        alone.adapt()
        took_s.append(time.perf_counter() - begin)
    return float(f"{min(took_s[1:]):.3g}")


def thread_count(setup: Setup, workers: int = 1, cores: int | None = None) -> int:
    """Return the CPU threads of each worker: as asked, one for small steps, else its ``cores``."""
    asked = setup.config.threads
    if asked != "auto":
        return asked
    small = step_flops(setup) / workers < ONE_THREAD_FLOPS
    return 1 if small else cores or torch.get_num_threads()
