"""Gossip in loops that others have written: Lightning's Trainer, and that of transformers.

Either would take the ranks of a launcher for its own, and average their gradients at every
step. A callback therefore takes them first, and hides the launcher: it is made before
TrainingArguments and Trainer are. Each rank then trains, logs and saves by itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, Unpack

import torch

from decentral.api.gossip import Communication, Gossip, rank_here
from decentral.engines.ranks import Ranks
from decentral.errors import ConfigError


def _hide_launcher(ranks: Ranks, environ: MutableMapping[str, str]) -> None:
    """Take out of an environment what tells other libraries that ``ranks`` belong
    together; what a program that this one starts sees, too.
    """
    told = ("TORCHELASTIC_", "GROUP_", "ROLE_", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if ranks.launcher == "srun":
        told = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_STEP_")
    for name in list(environ):
        if name in ("RANK", "WORLD_SIZE") or name.startswith(told):
            del environ[name]


class OtherLoop:
    """What callbacks of any library do: take the ranks, meet, step, merge."""

    gossip: Gossip | None = None
    #: What is loaded when the ranks have met, where training goes on.
    kept: Mapping[str, Any] | None = None

    def __init__(self, merge: bool, settings: Mapping[str, Any]) -> None:
        """Take the ranks; they meet when training begins.

        Args:
            merge: Whether the models of all ranks become one at the end.
            settings: Those of Gossip.
        """
        self.merge, self.settings = merge, dict(settings)
        self.place: Ranks | None = rank_here(settings.get("engine"))
        if self.place is not None:
            _hide_launcher(self.place, os.environ)

    @property
    def rank(self) -> int:
        """The node of this process, counted from 0: for folders and data of its own."""
        return 0 if self.place is None else self.place.rank

    @property
    def ranks(self) -> int:
        """How many there are."""
        return 1 if self.place is None else self.place.world

    def begin(
        self, model: torch.nn.Module, optimizer: Any, steps: int | None, world: int
    ) -> None:
        """Meet, as training begins.

        Args:
            model: The model.
            optimizer: What moves it, or what wraps that.
            steps: How many steps there will be, where the loop knows.
            world: Processes that the loop has joined by itself.
        """
        if world > 1:
            raise ConfigError(
                f"Gossip: the Trainer has joined {world} processes by itself, and averages their "
                "gradients; make the callback before TrainingArguments and Trainer, with one "
                "device each."
            )
        settings: dict[str, Any] = {"steps": steps} | self.settings
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if self.kept is not None:  # models of ranks have moved apart
            settings["init"] = "independent"
        self.gossip = Gossip.among(self.place, model, optimizer, **settings)
        if self.kept is not None:
            self.gossip.load_state_dict(self.kept)
            self.kept = None

    def follow(self, steps: int) -> None:
        """Step once, if the loop has made a step since."""
        assert self.gossip is not None
        if steps > self.gossip.metrics["step"]:
            self.gossip.step()

    def end(self) -> None:
        """Merge, if asked to."""
        if self.merge and self.gossip is not None:
            self.gossip.merge()


def transformers_callback(
    *, merge: bool = True, **settings: Unpack[Communication]
) -> Any:
    """Return a callback for ``transformers.Trainer``: ranks meet behind its optimizer
    steps.

    Make it before ``TrainingArguments``, and give every rank an ``output_dir`` and data
    of its own, by ``callback.rank`` and ``callback.ranks``. Its state lies in the
    checkpoints of the Trainer.

    Args:
        merge: Whether the models of all ranks become one at the end.
        settings: Those of `Gossip`.
    """
    from transformers import TrainerCallback

    class GossipCallback(OtherLoop, TrainerCallback):
        """Gossip behind the optimizer steps of a Trainer."""

        def _file(self, folder: str | Path) -> Path:
            return Path(folder) / f"gossip-{self.rank}.pt"

        def on_train_begin(
            self, args: Any, state: Any, control: Any, **given: Any
        ) -> None:
            if state.global_step:
                asked = args.resume_from_checkpoint
                last = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                folder = asked if isinstance(asked, str) else last
                self.kept = _read(self._file(folder), state.global_step)
            model, optimizer = given["model"], given["optimizer"]
            self.begin(model, optimizer, state.max_steps, args.world_size)

        def on_optimizer_step(
            self, args: Any, state: Any, control: Any, **given: Any
        ) -> None:
            self.follow(state.global_step + 1)

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if self.gossip is not None and folder.exists():
                torch.save(self.gossip.state_dict(), self._file(folder))

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any
        ) -> None:
            if self.gossip is not None and logs is not None:
                found = self.gossip.metrics
                logs |= {k: v for k, v in found.items() if k.startswith("comm/")}

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.end()

    return GossipCallback(merge, settings)


def _read(file: Path, step: int) -> Mapping[str, Any]:
    """Return what was saved beside a checkpoint of the Trainer, at some step."""
    if not file.exists():
        raise ConfigError(
            f"Gossip: there is no {file}, and training goes on at step {step}; go on from a "
            "checkpoint that was saved with the callback."
        )
    return torch.load(file)


def lightning_callback(*, merge: bool = True, **settings: Unpack[Communication]) -> Any:
    """Return a callback for Lightning's ``Trainer``: ranks meet behind its optimizer
    steps.

    Make it before the Trainer, which takes ``devices=1``, and give every rank a
    ``default_root_dir`` and data of its own, by ``callback.rank`` and
    ``callback.ranks``. Its state lies in the checkpoints of the Trainer.

    Args:
        merge: Whether the models of all ranks become one at the end.
        settings: Those of `Gossip`.
    """

    class GossipCallback(OtherLoop, _lightning().Callback):
        """Gossip behind the optimizer steps of a Trainer."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if len(trainer.optimizers) != 1:
                raise ConfigError(
                    f"Gossip: the module has {len(trainer.optimizers)} optimizers, and one step "
                    "of theirs is no step of the model; give it one."
                )
            steps = trainer.estimated_stepping_batches
            known = int(steps) if 0 < steps < float("inf") else None
            self.begin(pl_module, trainer.optimizers[0], known, trainer.world_size)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.follow(trainer.global_step)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.end()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.gossip is None else self.gossip.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.kept = state_dict or None

    return GossipCallback(merge, settings)


def _lightning() -> ModuleType:
    """Return Lightning under the name under which it is installed."""
    try:
        import lightning.pytorch as found
    except ImportError:
        import pytorch_lightning as found
    return found
