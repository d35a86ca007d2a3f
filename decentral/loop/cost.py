"""What a run costs, counted before it starts: seconds of a step, memory of one
process.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decentral.exchange.base import LocalExchange
from decentral.gradients.base import rows_at_once
from decentral.layout import share_parameters
from decentral.limits import require
from decentral.loop.block import Block
from decentral.loop.setup import Setup
from decentral.network.compute import seconds_of
from decentral.network.planning import Membership
from decentral.optim.block_optimizer import state_numbers
from decentral.pytree import Tree, leaves
from decentral.registry import build
from decentral.tasks.base import Samples

#: Floating-point operations of a step below which a second thread gains little, and
#: where another program on the same cores makes it lose much: threads of one step
#: then wait for each other.
ONE_THREAD_FLOPS = 3e8


def step_flops(setup: Setup) -> float:
    """Return the floating-point operations of one step of all nodes, matrix
    products only.

    Forward and backward take 6 operations per weight and position it is applied to.
    """
    uses = _weight_uses(setup.model, setup.train.first)
    return 6.0 * uses * setup.timeline.mean * setup.drawn


def _weight_uses(model: nn.Module, sample: Tree) -> float:
    """Count how often weights are applied to one sample, over all linear and
    convolution layers.
    """
    uses = 0.0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal uses
        weight: Any = module.weight
        # Outputs over output channels are the positions at which the weight is
        # applied.
        uses += weight.numel() * output.numel() / weight.shape[0]

    counted = share_parameters(model).eval()
    for module in counted.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(count)
    # The first gradient explains what fails here.
    with (
        torch.no_grad(),
        suppress(Exception),
    ):
        counted(sample)
    return uses


def measure_compute(setup: Setup) -> Setup:
    """Return a setup whose seconds per step are known: measured, if a network needs
    them.
    """
    if setup.network is None or setup.compute is not None:
        return setup
    measured = build("compute", {"name": "constant", "seconds": step_seconds(setup)})
    return replace(setup, compute=measured, parts={**setup.parts, "compute": measured})


def step_seconds(setup: Setup, repeats: int = 5) -> float:
    """Return the seconds that this machine needs for a step of one node: the least
    of a few.
    """
    alone = Block(
        replace(setup, network=None),
        LocalExchange(1),
        lambda *_: None,
        Membership.all_nodes(1),
    )
    took_s: list[float] = []
    # The first one pays for what is set up once, and is left out below.
    for _ in range(1 + repeats):
        begin = time.perf_counter()
        alone.gradient()
        alone.adapt()
        took_s.append(time.perf_counter() - begin)
    # The least: other programs can only make a step slower. More digits would be
    # noise.
    return float(f"{min(took_s[1:]):.3g}")


def thread_count(setup: Setup, workers: int = 1, cores: int | None = None) -> int:
    """Return the CPU threads of each worker: as asked, one for small steps, else
    its ``cores``.

    Args:
        setup: The run.
        workers: Workers on this host.
        cores: Cores of one; none: those of the host.
    """
    asked = setup.config.threads
    if asked != "auto":
        return asked
    small = step_flops(setup) / workers < ONE_THREAD_FLOPS
    return 1 if small else cores or torch.get_num_threads()


# --- memory -----------------------------------------------------------------------

#: What Python and the libraries take before anything is trained.
PROGRAM = 500_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds all the time, and most that it needs for a while."""

    lasting: int
    passing: int

    @property
    def total(self) -> int:
        """Return the peak, the program included."""
        return PROGRAM + self.lasting + self.passing


def expected_memory(setup: Setup, hosted: int) -> Memory:
    """Return what a block of ``hosted`` nodes takes.

    All the time: rows, gradients, optimizer state and data. For a while: a
    checkpoint, once as the bytes of its parts and once as those of a file; and,
    since memory that was used is kept for later, a step's activations (kept, and as
    much again on the way back) or the rows that are evaluated.
    """
    size = setup.dtype.itemsize
    block = hosted * setup.layout.width * size
    states = hosted * state_numbers(setup.optimizer, setup.layout) * size
    micro = min(setup.micro_batch, setup.timeline.largest)
    kept = 0
    with suppress(Exception):  # The first gradient explains what fails here.
        # Per node; rows that are computed together hold theirs at the same time.
        kept = setup.activation_memory * micro
    rows = min(hosted, rows_at_once(kept, setup.layout.width, setup.device))
    computing = 2 * rows * (kept + setup.layout.width) * size
    data = sum(_held_bytes(part) for part in setup.task.splits if part is not None)
    sent = round(models_under_way(setup) * setup.layout.width * size)
    lasting = 2 * block + states + data + sent
    return Memory(lasting, 2 * (block + states) + max(computing, block))


def models_under_way(setup: Setup) -> float:
    """Return how many copies of models an asynchronous run holds at about the same
    time: on links, one that waits for each line, and one of each node in mailboxes.

    Of a node as many are on links as it sends while one travels; a model is held once
    for all who get it. The lines are those of the first round, speeds those of the
    first step.
    """
    network, planner, compute = setup.network, setup.planner, setup.compute
    if not setup.in_events or network is None or planner is None or compute is None:
        return 0.0
    config, size = setup.config, float(setup.size.gossip)
    mixing = planner.mixer.mixing(0)
    apart = mixing.senders != mixing.receivers
    senders, receivers = mixing.senders[apart], mixing.receivers[apart]
    latency_s, bandwidth_Bps = network.cost(senders, receivers)
    together = np.bincount(senders, minlength=config.nodes)
    rate = np.minimum(bandwidth_Bps, network.up_Bps[senders] / together[senders])
    # Of each sender the message that travels longest, and how long its line is busy.
    line_s, travel_s = np.zeros(config.nodes), np.zeros(config.nodes)
    np.maximum.at(line_s, senders, size / rate)
    np.maximum.at(travel_s, senders, size / rate + latency_s)
    steps_s = seconds_of(compute, np.arange(config.nodes), 0, config.seed)
    # A line that is busy takes the newest, so that no more leave than it carries.
    period_s = np.maximum(np.maximum(line_s, steps_s * config.local_steps), 1e-12)
    most = -(-config.steps // config.local_steps)
    return float((np.minimum(travel_s / period_s, most) + 2.0).sum())


def _held_bytes(samples: Samples) -> int:
    """Return the bytes of samples in memory; those mapped from a file give way."""
    if samples.mapped:
        return 0
    parts = (*leaves(samples.inputs), *leaves(samples.targets))
    return sum(part.untyped_storage().nbytes() for part in parts)


def require_memory(setup: Setup, hosted: int) -> Memory:
    """Refuse a run that does not fit into the memory that is free; return what it
    takes.
    """
    memory = expected_memory(setup, hosted)
    what = f"{hosted:,} nodes of {setup.layout.parameter_count:,} parameters"
    needed = memory.lasting + memory.passing
    if sent := models_under_way(setup):
        what += f", and about {sent:,.0f} models that are under way between them,"
        remedy = "use fewer nodes, a smaller model, or links that take less time"
        require(needed, what, setup.device, remedy)
    else:
        require(needed, what, setup.device)
    return memory
