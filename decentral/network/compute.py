"""Seconds of computing: functions ``(nodes, step, seed) -> seconds [n]`` of a step
of every node.

``nodes`` are ids [n]. A rule with the trait ``by_time`` is ``(nodes, step, seed,
now_s, amount)``, and sees when nodes begin.

Seconds are those of a step with the first batch size; a step
with twice the samples takes twice as long. A bare duration, ``compute: 20ms``, is
``constant``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt
from numpy.typing import NDArray

from decentral import rng
from decentral.errors import ConfigError
from decentral.network.traces import Line, machines_of, whose
from decentral.plugins import describe, label_of, wrong
from decentral.registry import (
    ConfiguredPlugin,
    Location,
    NonNegative,
    Plugin,
    Share,
    plugin,
)
from decentral.traits import ComputeTraits, traits_of
from decentral.units import Seconds, parse_seconds

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def resolve(name: str) -> Plugin | None:
    """Read a bare duration."""
    if not re.match(r"[-+.\d]", name):
        return None
    seconds = parse_seconds(name, "compute")

    def take(nodes: Integers, step: int, seed: int) -> Floats:
        """Take the same time in every step of every node.

        Args:
            nodes: Numbers of the nodes, [n].
            step: Step, counted from 0.
            seed: Seed of the run.
        """
        return np.full(len(nodes), seconds)

    # Named as it was written: the resolved configuration reads back as the same.
    return Plugin("compute", name, take, {}, ComputeTraits())


def seconds_of(
    rule: ConfiguredPlugin,
    nodes: Integers,
    step: int,
    seed: int,
    now_s: Floats | None = None,
    amount: float = 1.0,
) -> Floats:
    """Return the seconds [n] that nodes take for a step, if a clock can run so.

    Args:
        rule: The plug-in.
        nodes: Numbers of the nodes, [n].
        step: Step, counted from 0.
        seed: Seed of the run.
        now_s: When each node begins it, [n]; none: at 0.
        amount: How many times the first step's work it is.
    """
    by_time = traits_of(rule, ComputeTraits).by_time
    if by_time:
        begins_s = np.zeros(len(nodes)) if now_s is None else now_s
        seconds = rule(nodes, step, seed, begins_s, amount)
    else:
        seconds = rule(nodes, step, seed)
    expected = f"an array of {len(nodes)} finite seconds, one per node, of at least 0"
    if not isinstance(seconds, np.ndarray) or seconds.shape != nodes.shape:
        raise wrong(rule, describe(seconds), expected)
    if (
        # Written so that NaN fails: it is neither at least 0 nor below infinity.
        seconds.dtype.kind not in "fiu"
        or not (seconds >= 0).all()
        or not seconds.max(initial=0) < np.inf
    ):
        raise wrong(
            rule, f"{describe(seconds)} with other numbers at step {step}", expected
        )
    return seconds if by_time else amount * seconds


def refuse_own_lines(rule: ConfiguredPlugin) -> None:
    """Raise ConfigError where a rule says what nodes' lines are like from moment to
    moment, which rounds do not follow.
    """
    has_lines = traits_of(rule, ComputeTraits).has_lines
    if has_lines is not None and has_lines(rule.settings):
        raise ConfigError(
            f"{label_of(rule)}: its file says what lines are like from moment to moment, which "
            "rounds do not follow; choose an algorithm that goes event by event, such as swift, "
            "or leave its columns up_Bps, down_Bps and latency_s out."
        )


@plugin("compute")
def constant(
    nodes: Integers, step: int, seed: int, *, seconds: Seconds = 20e-3
) -> Floats:
    """Let every step of every node take the same time.

    Args:
        nodes: Numbers of the nodes, [n].
        step: Step, counted from 0.
        seed: Seed of the run.
        seconds: Seconds of a step.

    >>> import numpy as np
    >>> constant(np.arange(2), 0, 0, seconds=0.5).tolist()
    [0.5, 0.5]
    """
    return np.full(len(nodes), seconds)


@plugin("compute")
def lognormal(
    nodes: Integers,
    step: int,
    seed: int,
    *,
    median: Seconds = 20e-3,
    nodes_spread: NonNegative = 0.2,
    steps_spread: NonNegative = 0.1,
) -> Floats:
    """Draw speeds of machines, and of their single steps, from log-normal
    distributions.

    c_i(t) = median exp(a u_i + b v_i(t)) with standard normal u_i, drawn once per
    node, and v_i(t) in every step; a is ``nodes_spread``, b is ``steps_spread``.

    Args:
        nodes: Numbers of the nodes, [n].
        step: Step, counted from 0.
        seed: Seed of the run.
        median: Median seconds of a step.
        nodes_spread: Deviation of the logarithm between nodes.
        steps_spread: Deviation of the logarithm between steps of a node.
    """
    # Without the step: a machine is fast or slow for the whole run.
    own = nodes_spread * rng.normal(seed, "compute/node", nodes)
    now = steps_spread * rng.normal(seed, "compute/step", nodes, step)
    return median * np.exp(own + now)


@plugin("compute")
def pareto(
    nodes: Integers,
    step: int,
    seed: int,
    *,
    least: Seconds = 20e-3,
    alpha: Annotated[float, Gt(1)] = 2.5,
) -> Floats:
    """Let steps take their least time mostly, and many times as long now and then.

    P(c > x) = (least / x)^alpha; the mean is alpha / (alpha - 1) of the least.
    (Dean & Barroso, "The tail at scale", Communications of the ACM, 2013, tell why
    such tails arise.)

    Args:
        nodes: Numbers of the nodes, [n].
        step: Step, counted from 0.
        seed: Seed of the run.
        least: Least seconds of a step.
        alpha: Exponent of the tail, above 1.
    """
    # (0, 1] instead of [0, 1): 0 would take for ever.
    chance = 1.0 - rng.uniform(seed, "compute/pareto", nodes, step)
    return least * chance ** (-1.0 / alpha)


@plugin("compute")
def stragglers(
    nodes: Integers,
    step: int,
    seed: int,
    *,
    seconds: Seconds = 20e-3,
    factor: float = 5.0,
    share: Share = 0.1,
    who: Literal["nodes", "steps"] = "nodes",
) -> Floats:
    """Slow a share of the nodes, or of all steps, down by a factor.

    With ``who=nodes`` the same machines are slow in every step; with ``who=steps``
    any node is, in any step, with probability ``share``.

    Args:
        nodes: Numbers of the nodes, [n].
        step: Step, counted from 0.
        seed: Seed of the run.
        seconds: Seconds of a step.
        factor: How many times as long a slow step takes.
        share: Share of the nodes, or of all steps, that are slow.
        who: Whether ``nodes`` or ``steps`` are slow.
    """
    # What a draw is keyed by says who is slow: a node, or a node in one step. Every
    # worker finds the same without asking.
    counters = (nodes,) if who == "nodes" else (nodes, step)
    slow = rng.uniform(seed, f"compute/{who}", *counters) < share
    return seconds * np.where(slow, factor, 1.0)


def _away_s(node: int, now_s: float, seed: int, settings: Mapping[str, Any]) -> float:
    machines = machines_of(settings.get("path"), settings.get("repeat", True))
    place = whose(node, len(machines), seed, settings.get("more", "drawn"))
    return machines[place].away_s(now_s)


def _line(node: int, now_s: float, seed: int, settings: Mapping[str, Any]) -> Line:
    machines = machines_of(settings.get("path"), settings.get("repeat", True))
    place = whose(node, len(machines), seed, settings.get("more", "drawn"))
    return machines[place].line(now_s)


def _has_lines(settings: Mapping[str, Any]) -> bool:
    machines = machines_of(settings.get("path"), settings.get("repeat", True))
    return any(one != (None,) * 3 for machine in machines for one in machine.lines)


@plugin(
    "compute",
    by_time=True,
    away_s=_away_s,
    line=_line,
    has_lines=_has_lines,
    loses=lambda settings: settings.get("offline") == "lost",
)
def trace(
    nodes: Integers,
    step: int,
    seed: int,
    now_s: Floats,
    amount: float,
    *,
    path: Location | None = None,
    seconds: Seconds = 20e-3,
    more: Literal["drawn", "cycled"] = "drawn",
    repeat: bool = True,
    offline: Literal["late", "lost"] = "late",
) -> Floats:
    """Let nodes be as fast, and as often away, as machines of a trace.

    A CSV file with the columns node, time_s, and any of compute_s (seconds of a
    step), online (1 or 0), up_Bps, down_Bps and latency_s (of its line, in runs
    event by event): a value holds until the next line of its node. A step takes
    what holds when it begins, and stands still while its machine is away; a message
    what holds when it leaves, and its receiver's line what holds when it begins to
    arrive.

    Args:
        nodes: Numbers of the nodes, [n].
        step: Step, counted from 0.
        seed: Seed of the run.
        now_s: When each node begins the step, [n].
        amount: How many times the samples of the first batch the step has.
        path: The file; none: a made-up sample of four machines.
        seconds: Seconds of a step where the file does not say.
        more: Which machines nodes beyond those of the file are: ``drawn`` by the
            seed, or ``cycled``.
        repeat: Whether the file begins anew at its last time; else its last values
            hold on.
        offline: What is sent to a node that is away, in runs event by event: it
            comes ``late``, when the node is back, or is ``lost``.
    """
    machines = machines_of(path, repeat)
    count = len(machines)
    took_s = [
        machines[whose(int(node), count, seed, more)].step_s(at_s, seconds, amount)
        for node, at_s in zip(nodes, now_s.tolist(), strict=True)
    ]
    return np.array(took_s)
