"""The in-process engine, where one worker hosts every node; and the choice of the
engine of a run.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from decentral.blame import reraise
from decentral.config import Config, foreign_parts
from decentral.engines.base import EngineRun, Watch, checkpoint_interval, stop_signals
from decentral.engines.ranks import joins_ranks
from decentral.engines.worker import configure_process
from decentral.errors import ConfigError, install_command
from decentral.exchange.base import LocalExchange
from decentral.faults.base import worker_faults
from decentral.loop.block import Block
from decentral.loop.cost import require_memory
from decentral.loop.measure import Evaluator
from decentral.loop.rounds import checkpoint_of, has_news, restore, train
from decentral.network.planning import Membership
from decentral.run.checkpoint import Saved, save_checkpoint
from decentral.simulation import Simulation


class LocalRun(EngineRun):
    """A run in this process: trains, records, checkpoints."""

    def __init__(self, config: Config) -> None:
        """Prepare a run; nothing is written before ``begin`` or ``go_on``."""
        if strikes := worker_faults(config.faults):
            raise ConfigError(
                f"faults: {strikes[0].kind} strikes workers, and engine local has none; "
                "use engine ray, or leave it out."
            )
        super().__init__(config)
        configure_process(self.threads)
        self.memory = require_memory(self.setup, config.nodes)
        self._host(Membership.all_nodes(config.nodes))

    def _host(self, members: Membership) -> None:
        """Make the block of all live nodes."""
        ordered = self.setup.config.mixing == "ordered"
        exchange = LocalExchange(len(members.live), ordered)
        self.block = Block(self.setup, exchange, self.announce, members)
        if self.setup.in_events:
            self.block.simulation = Simulation(self.block)
        self.evaluator = Evaluator(self.block)
        pipeline = self.block.pipeline
        self.replicas, self.compute_reason = pipeline.compute.kind, pipeline.reason

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved configuration."""
        return super().settings | {"engine": {"name": "local"}}

    @property
    def step(self) -> int:
        """The step that is done."""
        return self.block.step

    def restore(self, saved: Saved) -> None:
        """Go back to a checkpoint, with the nodes that were live then."""
        # Only runs on Ray lose nodes; the first epoch has all of them.
        if epoch := saved.counters["epoch"]:
            self._host(Membership(saved.live, epoch))
        restore(self.block, saved.load(saved.live))

    def train(self, watch: Watch) -> dict[str, Any]:
        """Train to the end and return the summary; a stop signal saves a checkpoint
        first.
        """
        every = checkpoint_interval(self.setup.config)
        with stop_signals(self.stopping) as stopping:
            # a first evaluation may take longer than a queue has patience
            if not self.resumed:
                self.save()
            for record in train(self.block, self.evaluator):
                if has_news(record):
                    self.record(record, watch)
                # At the last step there is nothing to go on with.
                if stopping.is_set() and not self.block.is_over:
                    self._interrupt()
                if (
                    self.block.step
                    and self.block.step % every == 0
                    and not self.block.is_over
                ):
                    self.save()
        self.folder.write(
            "merged.safetensors", save_tensors(self.evaluator.merged_state())
        )
        self.save()
        return self.conclude()

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        checkpoint = checkpoint_of(self.block)
        checkpoint.counters |= self.position()
        save_checkpoint(self.folder, checkpoint, self.setup.config.keep_checkpoints)

    def _interrupt(self) -> None:
        self.announce("interrupted", {"step": self.step})
        if self.step:  # the first checkpoint stands before the first evaluation
            self.save()
        raise self.interruption()


# --- which engine trains a run ----------------------------------------------------


def engine_of(config: Config) -> type[EngineRun]:
    """Return the engine of a run; ``auto``: the ranks of a launcher where this process
    is one, Ray for several workers, an address or several GPUs.
    """
    name = config.engine.name
    if name == "torchrun" or joins_ranks(config):
        from decentral.engines.torchrun import TorchrunRun

        return TorchrunRun
    if name == "ray" or (name == "auto" and _is_for_many(config)):
        require_ray()
        from decentral.engines.ray.run import RayRun

        return RayRun
    return LocalRun


def prepare_run(config: Config) -> EngineRun:
    """Prepare a run on its engine; what goes wrong is said to be whose it is."""
    try:
        return engine_of(config)(config)
    except (Exception, SystemExit) as error:
        reraise(error, foreign_parts(config))


def _is_for_many(config: Config) -> bool:
    engine = config.engine
    several = engine.workers != "auto" and engine.workers > 1
    gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else 0
    return several or engine.address is not None or gpus > 1


def require_ray() -> None:
    """Refuse to go on without Ray, in one line."""
    if find_spec("ray") is None:
        raise ConfigError(
            "engine ray needs Ray, which is not installed; "
            f"{install_command('ray')}, or use engine local."
        )
