"""What goes wrong in a loop of one's own that lets models meet."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from decentral import Gossip, lightning_callback, transformers_callback
from decentral.api import gossip as module
from decentral.engines.ranks import Meeting, Ranks
from decentral.exchange.base import LocalExchange


def own(model: nn.Module | None = None, **settings: Any) -> Gossip:
    model = nn.Linear(2, 1) if model is None else model
    trained = [p for p in model.parameters() if p.requires_grad]
    return Gossip(model, torch.optim.SGD(trained, lr=0.1), **settings)


class Twice(LocalExchange):
    """An exchange in which another rank has drawn other numbers."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, values + 1])


def _other_rank() -> Gossip:
    with patch.object(module, "meet", lambda *_: (Twice(1), None)):
        return own(schedule="constant")


def _on_two_devices() -> Gossip:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, device="meta"))
    return own(model, schedule="constant")


def _complex() -> Gossip:
    model = nn.Linear(2, 1)
    model.bias = nn.Parameter(torch.zeros(1, dtype=torch.complex64))
    return own(model, schedule="constant")


def _averaged_already() -> Gossip:
    model = nn.parallel.DistributedDataParallel.__new__(
        nn.parallel.DistributedDataParallel
    )
    nn.Module.__init__(model)
    model.add_module("module", nn.Linear(2, 1))
    return own(model, schedule="constant")


def _too_far() -> None:
    gossip = own(steps=1)
    gossip.step()
    gossip.step()


def _not_finite() -> None:
    model = nn.Linear(2, 1)
    gossip = own(model, schedule="constant")
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    gossip.merge()


def _loaded(**changes: Any) -> None:
    gossip = own(steps=4, algorithm="diloco")
    gossip.load_state_dict(gossip.state_dict() | changes)


def _started_by_hand() -> Gossip:
    with patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "2"}):
        return own()


def _far_from_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = Ranks("srun", 0, 2, False, ("127.0.0.1", port), True, "8.0", 0, 0)
    with (
        patch("decentral.engines.ranks.CHECK_IN_S", 0.1),
        patch.object(Meeting, "_wait_for"),
    ):
        Meeting(place).rendezvous(1.0)


def _joined_by_a_trainer() -> None:
    callback: Any = transformers_callback(schedule="constant")
    callback.begin(nn.Linear(2, 1), None, 4, world=2)


def _resumed_without_a_state() -> None:
    args = SimpleNamespace(resume_from_checkpoint=None, output_dir="out")
    callback: Any = transformers_callback(schedule="constant")
    callback.on_train_begin(args, SimpleNamespace(global_step=8), None)


def _two_optimizers() -> None:
    callback: Any = lightning_callback(schedule="constant")
    callback.on_train_start(SimpleNamespace(optimizers=[1, 2]), None)


GOSSIP: dict[str, Callable[[], Any]] = {
    "gossip: unknown setting": lambda: own(topolgy="ring"),
    "gossip: a setting of the loop": lambda: own(batch=8),
    "gossip: a setting of a cluster": lambda: own(engine={"workers": 2}),
    "gossip: unknown beginning": lambda: own(init="equal"),
    "gossip: how long is the loop?": lambda: own(schedule="late"),
    "gossip: no rounds": lambda: own(algorithm="allreduce", steps=4),
    "gossip: in events": lambda: own(algorithm="ad_psgd", steps=4),
    "gossip: before the step": lambda: own(
        algorithm="dsgd(order=combine_then_adapt)", steps=4
    ),
    "gossip: averaged already": _averaged_already,
    "gossip: no shape yet": lambda: own(nn.LazyLinear(2), schedule="constant"),
    "gossip: complex": _complex,
    "gossip: two devices": _on_two_devices,
    "gossip: ranks differ": _other_rank,
    "gossip: more steps than there are": _too_far,
    "gossip: not finite": _not_finite,
    "gossip: no state": lambda: own(steps=4).load_state_dict({"step": 1}),
    "gossip: the state of another rank": lambda: _loaded(rank=1),
    "gossip: the state of another algorithm": lambda: _loaded(state={}),
    "gossip: a state from further on": lambda: _loaded(step=9),
    "gossip: no launcher": _started_by_hand,
    "gossip: no address": _far_from_all,
    "gossip: a Trainer that has joined others": _joined_by_a_trainer,
    "gossip: no state in a checkpoint": _resumed_without_a_state,
    "gossip: two optimizers": _two_optimizers,
}
