"""Gossip in a training loop of one's own: one node per rank of torchrun or Slurm."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from decentral.config import Config, make_config, refuse_doubled, resolve_aliases
from decentral.config.schema import Graph, Part
from decentral.engines.ranks import LAUNCHERS, Meeting, Ranks, ranks_of
from decentral.engines.worker import WIRE
from decentral.errors import ConfigError, nearest
from decentral.exchange.base import CommunicationStats, Exchange, LocalExchange
from decentral.exchange.process_group import ProcessGroupExchange
from decentral.loop.own import ModelRow, own_setup
from decentral.loop.setup import write_in_list
from decentral.run.checkpoint import Checkpoint
from decentral.schedules.progress import Feedback
from decentral.topology.labels import NodeId


class Communication(TypedDict, total=False):
    """The settings of a run that say what is sent, and when."""

    algorithm: Part
    codec: Part
    aggregation: Part
    topology: Graph
    weights: Part
    communication: Part
    schedule: Part
    local_steps: int
    gossip_buffers: bool
    mixing: Literal["auto", "ordered"]
    seed: int
    engine: str | Mapping[str, Any]


#: Settings of an engine that concern ranks in a loop of one's own.
_OF_ENGINE = {"name", "wire", "progress_s"}


class Gossip:
    """Models of several ranks that meet as a schedule says, in any loop of PyTorch.

    A rank that torchrun or a Slurm step has started is a node; a process without
    others is the only one. Rows meet through the exchange of ``decentral.launch``, by
    the same topologies, schedules, algorithms and codecs: on equal models and batches
    the bits are equal.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> gossip = Gossip(model, optimizer, topology="ring", schedule="constant")
    >>> for _ in range(20):
    ...     loss = model(torch.randn(8, 3)).square().mean()
    ...     loss.backward()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    ...     sent = gossip.step()
    >>> gossip.merge()
    >>> gossip.metrics["step"], gossip.metrics["comm/bytes"]
    (20, 0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int | None = None,
        init: Literal["shared", "independent"] | None = None,
        **settings: Unpack[Communication],
    ) -> None:
        """Meet the other ranks.

        Args:
            model: The model, where it will be trained. What requires a gradient is
                sent, and its float buffers.
            optimizer: What moves it in the loop; algorithms may ask for its rate.
            steps: Optimizer steps of the loop; None: nobody knows, which schedules
                such as ``late`` need to.
            init: ``shared``: all begin with the model of rank 0; ``independent``:
                every rank keeps its own; None: they are equal, which is checked.
            settings: Those of ``decentral.launch`` that say what is sent, and when.

        Raises:
            ConfigError: The settings do not go together, or differ between ranks.
            RunError: Ranks do not come.
        """
        ranks = rank_here(settings.get("engine"))
        self._begin(model, optimizer, ranks, steps, init, settings)

    @classmethod
    def among(
        cls,
        ranks: Ranks | None,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        steps: int | None = None,
        init: Literal["shared", "independent"] | None = None,
        **settings: Unpack[Communication],
    ) -> Gossip:
        """Meet the others as one of ``ranks`` that were found before.

        Args:
            ranks: This process's place; None: it is alone.
            model: The model.
            optimizer: What moves it.
            steps: Optimizer steps of the loop; None: nobody knows.
            init: With which model all begin.
            settings: What is sent, and when.
        """
        made = cls.__new__(cls)
        made._begin(model, optimizer, ranks, steps, init, settings)
        return made

    def _begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks | None,
        steps: int | None,
        init: str | None,
        settings: Mapping[str, Any],
    ) -> None:
        """Check everything that one rank knows, then meet; see ``among``."""
        if init not in (None, "shared", "independent"):
            raise ConfigError(
                f"init = {init!r}: it must be shared or independent, or left out."
            )
        config = _config(settings, 1 if ranks is None else ranks.world, steps)
        setup = own_setup(config, model, optimizer, steps is None)
        exchange, self._meeting = meet(ranks, config, setup.device)
        self._row = ModelRow(setup, exchange, model, optimizer)
        self._agree(init)

    def _agree(self, init: str | None) -> None:
        """See to it that ranks have the same settings, and begin where they should."""
        row, setup = self._row, self._row.setup
        asked = [write_in_list(part) for part in setup.parts.values()]
        kept = [getattr(setup.config, key) for key in ("local_steps", "seed", "mixing")]
        said = repr(
            (asked, kept, setup.config.gossip_buffers, setup.timeline.steps, init)
        )
        shape = repr((setup.layout.entries_sent(buffers=True), setup.dtype))
        number = bytes(row.rows.cpu().contiguous().view(torch.uint8).numpy())
        found = row.exchange.gather(
            torch.tensor([[_digest(part) for part in (said, shape, number)]])
        )
        for place, what in enumerate(("settings", "the shapes of the model")):
            _refuse_different(
                found[:, place], f"{what} differ", "give all ranks the same"
            )
        if init == "shared":
            self._share()
        elif init is None:
            remedy = (
                "say init='shared' to begin with that of rank 0, or init='independent' where "
                "each rank keeps its own"
            )
            _refuse_different(found[:, 2], "the models differ", remedy)

    def _share(self) -> None:
        row, model = self._row, self._row.model
        first = row.rows.new_zeros(1, dtype=torch.float64)
        first[0] = row.exchange.hosted.start == 0
        row.rows[0] = row.exchange.mean(row.rows, first)[0]
        named = dict(model.named_buffers())
        integers = {
            name: row.exchange.gather(named[name].unsqueeze(0))[:1]
            for name in row.setup.layout.integers
            if not named[name].is_complex()
        }
        row.setup.layout.unpack(row.rows[0], model, integers)
        row.begin_anew()

    # --- in the loop --------------------------------------------------------------

    @property
    def rank(self) -> int:
        """The node of this process, counted from 0."""
        return self._row.exchange.hosted.start

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self._row.exchange.nodes

    def step(self, loss: float | Tensor | None = None) -> bool:
        """Do what the algorithm does behind an optimizer's step; return whether models
        have met.

        All ranks call it equally often: behind ``optimizer.step()``, before the rate
        is changed.

        Args:
            loss: The loss of the step, for schedules that look at it.

        Raises:
            ConfigError: All ``steps`` are done.
            RunError: The model is not finite, or another rank is out of reach.
        """
        row = self._row
        if row.step >= row.setup.timeline.steps:
            raise ConfigError(
                f"Gossip: all steps = {row.step} are done; give more, or leave steps out."
            )
        with torch.no_grad():
            return row.step_behind(None if loss is None else float(loss))

    def merge(self) -> None:
        """Replace the models of all ranks by their mean; all call it.

        Buffers follow the rule of merged models: counters are the largest, truth
        values true where they are on any rank. What the algorithm keeps begins anew.
        """
        with torch.no_grad():
            self._row.merge()

    @property
    def metrics(self) -> dict[str, Any]:
        """What was sent so far, under the names of a run.

        ``comm/wire_bytes`` is what really left this process, the others are of all
        ranks.
        """
        row = self._row
        stats = {f"comm/{key}": value for key, value in row.stats.state().items()}
        known = row.feedback
        apart = {} if known is None else {"feedback/consensus": known.consensus}
        return {"step": row.step, **stats, "comm/intensity": row.intensity, **apart}

    def close(self) -> None:
        """Leave the others; models can meet no more."""
        close = getattr(self._row.exchange, "close", None)
        if close is not None:
            close()
        self._meeting = None

    # --- to go on later -----------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what this rank needs to go on, beside model and optimizer.

        Every rank saves its own, also between two rounds. It holds tensors and plain
        data alone, as ``torch.load`` reads them by default.
        """
        row = self._row
        (kept,) = row.channels.states()
        return {
            "rank": self.rank,
            "ranks": self.ranks,
            "step": row.step,
            "round": row.round,
            "intensity": row.intensity,
            "stats": row.stats.state(),
            "feedback": row.feedback.state() if row.feedback else None,
            "state": {name: value.clone() for name, value in kept.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was called, with that model and optimizer."""
        row = self._row
        here = self.state_dict()
        if missing := here.keys() - state.keys():
            raise ConfigError(
                f"Gossip: this is no state of it ({min(missing)!r} is missing); give what "
                "state_dict() has returned."
            )
        for key in ("ranks", "rank"):
            if state[key] != here[key]:
                raise ConfigError(
                    f"Gossip: the state is of {key} {state[key]}, and here is {here[key]}; "
                    "every rank loads its own, on as many."
                )
        kept, given = here["state"], state["state"]
        if {k: v.shape for k, v in kept.items()} != {
            k: v.shape for k, v in given.items()
        }:
            raise ConfigError(
                f"Gossip: the state is of another model, algorithm or codec than "
                f"{row.setup.algorithm.name!r} with {row.setup.codec.name!r} here; give the "
                "same."
            )
        if state["step"] > row.setup.timeline.steps:
            raise ConfigError(
                f"Gossip: the state is of step {state['step']}, and steps = "
                f"{row.setup.timeline.steps}; give more."
            )
        node = NodeId(self.rank)
        with torch.no_grad():
            whole = Checkpoint(state["step"], (node,), {node: dict(given)}, {})
            row.channels.restore(whole, [node])
        row.stand_at(state["step"], state["round"])
        row.intensity, row.stats = (
            state["intensity"],
            CommunicationStats(**state["stats"]),
        )
        known = state["feedback"]
        row.feedback = Feedback.from_state(known) if known else None
        row.decide_again()


# --- before ranks meet ------------------------------------------------------------


def rank_here(engine: object = None) -> Ranks | None:
    """Return this process's place among others, None where it is alone.

    Args:
        engine: ``local``: it is, whatever has started it.
    """
    if engine == "local":
        return None
    if (found := ranks_of(os.environ)) is not None:
        return found
    for launcher, rank, size in LAUNCHERS:
        count = os.environ.get(size, "")
        if rank in os.environ and count.isdigit() and int(count) > 1:
            raise ConfigError(
                f"Gossip: {size} is {count}, and no agent of torchrun nor step of srun has "
                f"started this process ({launcher} sets it, too), so that ranks cannot meet; start "
                f"the script by `torchrun --nproc-per-node {count}`, or say engine='local'."
            )
    return None


def _config(settings: Mapping[str, Any], world: int, steps: int | None) -> Config:
    given = {key: value for key, value in settings.items() if value is not None}
    known = Communication.__annotations__
    for key in given:
        if key.partition(".")[0] not in known:
            raise ConfigError(
                f"Gossip has no setting {key!r}.{nearest(key, known)} It takes steps, init, "
                f"{', '.join(known)}; model, data and optimizer are the loop's own."
            )
    given = resolve_aliases(given)
    refuse_doubled(given)
    length = {} if steps is None else {"steps": steps}
    config = make_config(given | {"nodes": world} | length)
    if unused := sorted(config.engine.model_fields_set - _OF_ENGINE):
        raise ConfigError(
            f"engine.{unused[0]}: the launcher decides that in a loop of one's own, which takes "
            "engine.wire and engine.progress_s."
        )
    return config


def meet(
    ranks: Ranks | None, config: Config, device: torch.device
) -> tuple[Exchange, Meeting | None]:
    """Return the exchange, and what keeps the place where ranks meet."""
    ordered = config.mixing == "ordered"
    if ranks is None:
        return LocalExchange(1, ordered), None
    meeting = Meeting(ranks)
    rendezvous = meeting.rendezvous(config.engine.progress_s)
    blocks = [range(rank, rank + 1) for rank in range(ranks.world)]
    wire = WIRE[config.engine.wire]
    exchange = ProcessGroupExchange(
        rendezvous, blocks, device, ordered=ordered, wire=wire
    )
    return exchange, meeting


def _digest(part: str | bytes) -> int:
    data = part.encode() if isinstance(part, str) else part
    return int.from_bytes(hashlib.sha256(data).digest()[:7])


def _refuse_different(found: Tensor, what: str, remedy: str) -> None:
    """Raise ConfigError where the numbers of ranks are not all equal."""
    other = torch.nonzero(found != found[0]).flatten().tolist()
    if other:
        raise ConfigError(f"Gossip: {what} between rank 0 and rank {other[0]}; {remedy}.")
