"""Decentralized algorithms: what a node does in a step, and what it does with what
it received.

An algorithm is a function ``(block, action)``, called once per step for a whole
block of rows; ``action`` is what is sent after this step (None: silence). Its text
is made of verbs, in the order of the paper:

- ``block.gradient()``: g_i at x_i on the next batch (transformed as the run asks);
- ``block.average_gradients()``: g_i <- (1/N) sum_j g_j (before clipping);
- ``block.adapt()``: x_i <- optimizer(x_i, clip(g_i));
- ``block.combine(action)``: x_i <- sum_j W_ij x_j for every channel, or a global
  merge, or nothing; with a slice, for these columns only; with ``ahead`` it takes
  simulated time at ``block.wait()``;
- ``block.begin(action)``: lets the channels of that ``combine`` travel already, as
  they are now.

and of tensors with one row per node, changed in place: ``block.x`` and ``block.g``
(parameters and gradients), and ``block.state[name]``, what the algorithm keeps from
step to step.

What an algorithm promises and needs stands in ``traits.AlgorithmTraits``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from decentral.errors import ConfigError
from decentral.network.compute import seconds_of
from decentral.network.planning import RoundAction
from decentral.registry import ConfiguredPlugin, Plugin
from decentral.schedules.progress import Progress
from decentral.traits import AlgorithmTraits, ComputeTraits, traits_of
from decentral.traits import StateSchema as StateSchema

#: Where an algorithm may not be sound, in words that follow "algorithm X is not
#: sound".
CONDITIONS = {
    "directed": "on links that go one way",
    "unbalanced": "where weights are not doubly stochastic",
    "time_varying": "where links change from round to round",
    "local_steps": "with several steps between two rounds",
    "cycles": "on graphs that are no trees",
    "momentum": "on top of an optimizer with momentum or state of its own",
    "compression": "with codecs",
    "mix_state": "with optimizer state that is mixed",
    "node_lr": "where nodes have learning rates of their own",
    "robust": "where what is received is not averaged with the weights",
    "losses": "where messages are lost",
}


#: The end of a docstring: its source, in parentheses, with a year.
_SOURCE = re.compile(
    r"\(((?:[^()]|\([^()]*\))*\b(?:19|20)\d\d\b(?:[^()]|\([^()]*\))*)\)$"
)


def paper_of(found: Plugin) -> str:
    """Return where an algorithm comes from, as its docstring ends; empty where it
    does not say.
    """
    source = _SOURCE.search(" ".join(found.help.split()))
    return source[1].rstrip(".") if source else ""


def time_of(rule: ConfiguredPlugin) -> str:
    """Return an algorithm's model of time: ``rounds``, ``events`` or
    ``neighbours``.
    """
    time = traits_of(rule, AlgorithmTraits).time
    return time if isinstance(time, str) else time(rule.settings)


def refuse_compute(
    algorithm: ConfiguredPlugin, compute: ConfiguredPlugin, nodes: int, seed: int
) -> None:
    """Refuse seconds of steps that do not go with the algorithm's model of time.

    Steps that take no time where nobody waits: one node would take them all.
    Messages that are lost where somebody waits for them, or where they carry mass.

    Args:
        algorithm: The algorithm.
        compute: The seconds of a step.
        nodes: Number of nodes.
        seed: The seed of the run.
    """
    # A trace that cannot be read says so here, before the run.
    takes_time = bool(seconds_of(compute, np.arange(nodes), 0, seed).all())
    time, traits = time_of(algorithm), traits_of(algorithm, AlgorithmTraits)
    if time == "events" and not takes_time:
        raise ConfigError(
            f"compute {compute.name!r}: a node that computes in no time never lets another one "
            f"act, and algorithm {algorithm.name!r} waits for nobody; give it seconds, such as "
            "compute=20ms."
        )
    loses = traits_of(compute, ComputeTraits).loses
    if loses is None or not loses(compute.settings):
        return
    if time != "events" or traits.server or traits.weights == "push":
        raise ConfigError(
            f"compute {compute.name!r}: messages to nodes that are away cannot be lost where "
            f"others wait for them or add them up, as algorithm {algorithm.name!r} does; use "
            "offline=late."
        )


def refuse_seconds(algorithm: ConfiguredPlugin, seconds: float | None) -> None:
    """Refuse simulated seconds that cannot end a run.

    Args:
        algorithm: The algorithm.
        seconds: After how many it is to end; none: steps end it.
    """
    if seconds is None:
        return
    if seconds <= 0:
        raise ConfigError(
            f"seconds: {seconds:g} s end a run before it begins; it must be above 0."
        )
    if time_of(algorithm) != "events":
        raise ConfigError(
            f"seconds: steps end a run of algorithm {algorithm.name!r}, which goes in rounds; "
            "leave seconds out, or use one that goes event by event, such as swift."
        )


def channels_of(found: Plugin) -> list[str]:
    """Name what an algorithm sends of a node in one round."""
    traits = traits_of(found, AlgorithmTraits)
    if traits.communicates == "never":
        return []
    own = "gradient" if traits.communicates == "steps" else "model"
    kept = traits.state.items()
    sent = [f"{name} (one number)" if k.scalar else name for name, k in kept if k.sent]
    return [own, *sent]


def rows_of(found: Plugin) -> int:
    """Return how many rows a message holds, single numbers apart."""
    return sum(not name.endswith("(one number)") for name in channels_of(found))


class Block(Protocol):
    """A block of rows as an algorithm sees it."""

    @property
    def x(self) -> Tensor:
        """The parameters of every hosted node, [n, k]."""
        ...

    @property
    def g(self) -> Tensor:
        """Their gradients, [n, k]."""
        ...

    @property
    def sent(self) -> Tensor:
        """What ``combine`` mixes of a row: ``x``, with the statistics of BatchNorm
        if these go.
        """
        ...

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What the algorithm declared in its trait ``state``."""
        ...

    @property
    def learning_rate(self) -> float:
        """The learning rate of this step."""
        ...

    @property
    def progress(self) -> Progress:
        """Where the run stands before this step."""
        ...

    @property
    def nodes(self) -> int:
        """How many nodes take part, on all workers."""
        ...

    def degree(self, action: RoundAction) -> Tensor:
        """Return how many others every hosted node receives from, [n, 1]."""
        ...

    def gradient(self) -> None:
        """Compute every row's gradient on its next batch."""
        ...

    def average_gradients(self) -> None:
        """Replace every row's gradient by the mean over all nodes."""
        ...

    def adapt(self) -> None:
        """Clip the gradients, then let the optimizer update the rows."""
        ...

    def begin(self, action: RoundAction | None) -> None:
        """Let rows travel while gradients are computed; ``combine`` with ``action``
        follows.
        """
        ...

    def combine(
        self,
        action: RoundAction | None,
        part: slice | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        """Exchange the channels as ``action`` says, or ``part`` of their columns.

        ``ahead``: nobody waits for it before ``wait``; the algorithm does not look
        at it sooner.
        """
        ...

    def wait(self) -> None:
        """Wait for what was combined ahead."""
        ...
