"""A worker's block of rows at work: what algorithms act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from decentral.errors import ConfigError, RunError
from decentral.exchange import Exchange, Ledger
from decentral.gradients import choose
from decentral.loop.setup import Setup
from decentral.loop.sketch import SKETCH, Sketch
from decentral.merge import merge_weights
from decentral.mixing import Mixing
from decentral.network import Act, Conversation
from decentral.optim import BlockOptimizer
from decentral.run.checkpoint import Checkpoint, stacked
from decentral.sampling import Sampler
from decentral.schedules import Feedback, Progress

#: Tells the engine about something that happened: (event, details).
Announce = Callable[[str, dict[str, Any]], None]


class Block:
    """The hosted rows [n, P] with their gradients, optimizer state, data and counters."""

    def __init__(self, setup: Setup, exchange: Exchange, announce: Announce) -> None:
        """Put every hosted node at its first row."""
        config = setup.config
        self.setup, self.exchange, self.announce = setup, exchange, announce
        self.hosted = exchange.hosted
        rows = [setup.initial_row(node) for node in self.hosted]
        self.rows = torch.stack(rows).to(setup.device)
        self.grads = torch.zeros_like(self.rows)
        self.integers = {
            name: torch.stack([value] * len(self.hosted)).to(setup.device)
            for name, value in setup.layout.integers.items()
        }
        self.step = self.samples = self.round = 0
        self.losses = self.rows.new_zeros(len(self.hosted))
        self.ledger = Ledger()
        self.intensity = 0.0
        self.feedback: Feedback | None = None
        self.absent: frozenset[int] = frozenset()
        self.optimizer = BlockOptimizer(setup.optimizer, setup.layout, self.rows, self.grads)
        self.sampler = Sampler(setup.train, setup.plan, self.hosted, config.seed)
        self.compute, self.compute_reason = choose(
            config.replicas,
            setup.model,
            setup.layout,
            setup.task.loss,
            len(self.hosted),
            lambda: self.sampler.batch(0, self.batch_size),
        )

    # --- progress ---------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """Where the block stands."""
        return self._progress(self.step, self.samples)

    def _progress(self, step: int, samples: int) -> Progress:
        config = self.setup.config
        return Progress(
            step, config.steps, samples, round=self.round, local_steps=config.local_steps
        )

    @property
    def batch_size(self) -> int:
        """Samples per node of the next step."""
        return int(self.setup.batch(self.progress))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.setup.learning_rate(self.progress)

    def decide(self) -> Act | None:
        """Return what is sent after the next step."""
        conversation = self.setup.conversation
        if conversation is None or not conversation.is_slot(self.step + 1):
            return None
        if conversation.schedule.closed_loop:
            self._refresh_feedback()
        act = self._act(conversation)
        self.intensity = act.intensity if act else 0.0
        return act

    def _act(self, conversation: Conversation) -> Act | None:
        upcoming = self._progress(self.step + 1, self.samples + self.batch_size)
        return conversation.act(upcoming, self.feedback, self.absent)

    def finish_step(self) -> None:
        """Count the step that was just done."""
        self._check(torch.isfinite(self.losses))
        self.samples += self.batch_size
        self.step += 1

    def check(self) -> None:
        """Find nodes whose rows are not finite, before anybody looks at them."""
        self._check(finite_rows(self.rows), self.step)

    # --- the verbs of an algorithm ----------------------------------------------------------------

    def gradient(self) -> None:
        """Compute every row's gradient on its next batch."""
        size = self.batch_size
        parts = self.sampler.batch(self.samples, size).micro(self.setup.config.micro_batch)
        self.losses = self.compute(self.rows, self.integers, parts[0], self.grads)
        if len(parts) == 1:
            return
        share = parts[0].inputs.shape[1] / size
        self.grads.mul_(share)
        self.losses = self.losses * share
        scratch = torch.zeros_like(self.grads)  # padding is never written
        for part in parts[1:]:
            share = part.inputs.shape[1] / size
            losses = self.compute(self.rows, self.integers, part, scratch)
            self.grads.add_(scratch, alpha=share)
            self.losses = self.losses + share * losses

    def average_gradients(self) -> None:
        """Replace every row's gradient by the mean over all healthy nodes."""
        self._check(finite_rows(self.grads))
        self._silence_absent()
        gradients = self.setup.layout.trainable_view(self.grads)
        mean, wire = self.exchange.mean(gradients, self._shares())
        gradients.copy_(mean.expand_as(gradients))
        self.ledger.average(len(self._healthy()), self.setup.gradient_bytes)
        self.ledger.wire_bytes += wire

    def adapt(self) -> None:
        """Clip per row, then let the optimizer update the rows."""
        limit = self.setup.config.clip
        if limit is not None:
            norms = self.setup.layout.trainable_view(self.grads).norm(dim=1, keepdim=True)
            self.grads.mul_((limit / (norms + 1e-6)).clamp(max=1.0))
        self.optimizer.step(self.learning_rate)
        self._silence_absent()

    def combine(self, act: Act | None) -> None:
        """Gossip or merge as ``act`` says; sick nodes are kept out before they poison others."""
        if act is None:
            return
        sick = self._check(finite_rows(self.rows))
        if sick and act.mixing is not None and self.setup.conversation is not None:
            act = self._act(self.setup.conversation) or act
        if act.mixing is None:
            self._merge()
        else:
            self._gossip(act.mixing)

    def _gossip(self, mixing: Mixing) -> None:
        for channel in self._channels():
            self.ledger.wire_bytes += self.exchange.mix(channel, mixing)
        self._absorb()
        self.ledger.gossip(mixing.messages, self.setup.row_bytes)
        self.round += 1

    def _merge(self) -> None:
        weights = self.merge_shares()
        for channel in self._channels():
            mean, wire = self.exchange.mean(channel, weights)
            channel.copy_(mean.expand_as(channel))
            self.ledger.wire_bytes += wire
        self._absorb()
        healthy = len(self._healthy())
        self.ledger.average(healthy, self.setup.row_bytes)
        self.round += 1
        # The last act comes after its step is counted, any other before.
        step = min(self.step + 1, self.setup.config.steps)
        self.announce("merge", {"step": step, "nodes": healthy})

    def _channels(self) -> list[Tensor]:
        config, layout = self.setup.config, self.setup.layout
        rows = self.rows if config.gossip_buffers else layout.trainable_view(self.rows)
        self._states = self.optimizer.channels() if config.mix_state else []
        return [rows, *self._states]

    def _absorb(self) -> None:
        if self._states:
            self.optimizer.absorb(self._states)

    # --- health -----------------------------------------------------------------------------------

    def _healthy(self) -> list[int]:
        return [node for node in range(self.exchange.nodes) if node not in self.absent]

    def healthy_rows(self) -> list[int]:
        """Return the indices of hosted rows whose nodes take part."""
        return [i for i, node in enumerate(self.hosted) if node not in self.absent]

    def _check(self, finite: Tensor, step: int | None = None) -> bool:
        """Quarantine hosted nodes that are not finite; return whether there are new ones."""
        if bool(finite.all()):
            return False
        step = self.step + 1 if step is None else step
        sick = {self.hosted[int(i)] for i in torch.nonzero(~finite).flatten()} - self.absent
        if not sick:
            return False
        if self.setup.config.on_nonfinite == "stop":
            raise RunError(
                f"node {min(sick)} became NaN or infinite at step {step}; lower the "
                "learning rate, set clip, or go on without such nodes by on_nonfinite=quarantine."
            )
        self.absent |= sick
        self._silence_absent()
        self.announce("nonfinite", {"step": step, "nodes": sorted(sick)})
        if len(self.absent) == self.exchange.nodes:
            raise RunError(f"every node became NaN or infinite by step {step}.")
        return True

    def _silence_absent(self) -> None:
        """Hold what quarantined nodes could share at zero, so that no weight of 0 meets a NaN."""
        for index, node in enumerate(self.hosted):
            if node in self.absent:
                self.rows[index] = 0.0
                self.grads[index] = 0.0
                self.optimizer.silence(index)

    def _shares(self) -> Tensor:
        healthy = self._healthy()
        shares = torch.zeros(self.exchange.nodes, dtype=torch.float64)
        shares[healthy] = 1.0 / len(healthy)
        return shares[self.hosted.start : self.hosted.stop]

    def merge_shares(self) -> Tensor:
        """Return the merge weights of the hosted rows, float64 [n]."""
        weights = merge_weights(self.setup.merge, self.setup.samples_held, self.absent)
        return weights[self.hosted.start : self.hosted.stop]

    # --- feedback ---------------------------------------------------------------------------------

    @cached_property
    def sketch(self) -> Sketch:
        """What feedback sees of a row; it takes four times the memory of one."""
        return Sketch(self.setup.layout, self.setup.config.seed, self.setup.device)

    def _refresh_feedback(self) -> None:
        """Renew what closed-loop schedules know: sketches now and then, what is spent always."""
        conversation = self.setup.conversation
        assert conversation is not None
        slot = self.step // self.setup.config.local_steps
        known = self.feedback
        if known is None or slot % conversation.schedule.feedback_every == 0:
            sketches = self.exchange.gather(self.sketch(self.rows))[self._healthy()]
            self.ledger.bytes += self.exchange.nodes * (self.exchange.nodes - 1) * SKETCH * 4
            known = Feedback(self.round, Sketch.relative_spread(sketches), 0.0)
        spent = self.ledger.bytes / max(1, self.setup.all_reduce_bytes)
        self.feedback = replace(known, spent=spent)

    # --- state ------------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """Return everything needed to go on."""
        nodes: dict[int, dict[str, Tensor]] = {}
        for index, node in enumerate(self.hosted):
            state = {f"optimizer/{k}": v for k, v in self.optimizer.state_of(index).items()}
            whole = {f"integer/{k}": v[index] for k, v in self.integers.items()}
            nodes[node] = {"row": self.rows[index], **whole, **state}
        counters = {
            "samples": self.samples,
            "round": self.round,
            "ledger": self.ledger.state(),
            "intensity": self.intensity,
            "absent": sorted(self.absent),
            "feedback": asdict(self.feedback) if self.feedback else None,
        }
        return Checkpoint(self.step, nodes, counters)

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        nodes, width = len(checkpoint.nodes), checkpoint.nodes[0]["row"].numel()
        for what, theirs, ours in (
            ("nodes", nodes, self.exchange.nodes),
            ("numbers per model", width, self.rows.shape[1]),
        ):
            if theirs != ours:
                raise ConfigError(
                    f"the checkpoint of step {checkpoint.step} holds {theirs} {what}, the "
                    f"configuration asks for {ours}; restore config.yaml, or launch a new run."
                )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint, whatever number of workers wrote it."""
        self._check_fits(checkpoint)
        self.rows.copy_(stacked(checkpoint, "row", self.hosted))
        for name, value in self.integers.items():
            value.copy_(stacked(checkpoint, f"integer/{name}", self.hosted))
        prefix = "optimizer/"
        self.optimizer.load_state(
            [
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                for tensors in (checkpoint.nodes[node] for node in self.hosted)
            ]
        )
        counters = checkpoint.counters
        self.step, self.samples = checkpoint.step, counters["samples"]
        self.round, self.intensity = counters["round"], counters["intensity"]
        self.ledger = Ledger(**counters["ledger"])
        self.absent = frozenset(counters["absent"])
        self.feedback = Feedback(**counters["feedback"]) if counters["feedback"] else None


def finite_rows(block: Tensor) -> Tensor:
    """Return which rows [n] hold finite numbers only.

    A sum of finite terms is finite unless it overflows, and any other is not, so that looking at
    every number is hardly ever needed; it takes forty times longer.
    """
    finite = torch.isfinite(block.sum(1))
    return finite if bool(finite.all()) else torch.isfinite(block).all(1)
