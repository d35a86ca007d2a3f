"""What traits of all kinds have in common, and what they are made of beside numbers
and text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any, Literal

from decentral.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: The settings of a member, by name.
Settings = Mapping[str, Any]

#: Where an algorithm or a codec may not be sound; ``algorithms.base.CONDITIONS``
#: has the words.
Condition = Literal[
    "directed", "unbalanced", "time_varying", "local_steps", "cycles", "momentum", "compression",
    "mix_state", "node_lr", "robust", "losses",
]  # fmt: skip

#: What the laws can test of an algorithm: functions of
#: ``tests/laws/test_algorithm.py``.
Guarantee = Literal[
    "single_node_is_plain", "keeps_mean", "large_batch_on_complete", "large_batch", "stays_equal",
    "contracts", "averages_when_directed", "reaches_the_optimum", "is_local_sgd",
    "exact_after_the_diameter", "nobody_waits", "synchronous_at_equal_speed",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a member of any kind may declare.

    Attributes:
        example: One complete spelling of a member that needs settings, or is large
            by default.
    """

    example: str | Mapping[str, Any] | None = None

    def contradiction(self, settings: Settings) -> str:
        """Return what is wrong with the traits together, or with the names of
        ``settings``.
        """
        return ""


@dataclass(frozen=True, kw_only=True)
class Recommending(Traits):
    """Traits of what a run is built around.

    Attributes:
        defaults: Settings of a run that suit it, below the user's own.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Refusing(Traits):
    """Traits of what is not sound everywhere.

    Attributes:
        refuses: Where it is not sound: a remedy for each condition.
    """

    refuses: Mapping[Condition, str] = field(default_factory=dict[Condition, str])


# --- what they are made of --------------------------------------------------------

#: Numbers of nodes that are tried on either side of one that does not fit.
_NEARBY = 1024


@dataclass(frozen=True)
class StateSchema:
    """What an algorithm keeps for every node: as wide as its parameters, or one
    ``scalar``.

    ``full_width``: as wide as ``block.sent``. It begins as a number everywhere, or
    as the model. ``double``: in double precision, whatever the models are in;
    ``sums``: a gossip leaves in it, so, what it makes of the models.
    """

    sent: bool = False
    scalar: bool = False
    full_width: bool = False
    double: bool = False
    sums: bool = False
    begins: float | Literal["model"] = 0.0

    @property
    def start(self) -> float:
        """What a silenced row is set to."""
        return 0.0 if self.begins == "model" else self.begins

    def first(self, parameters: Tensor, sent: Tensor) -> Tensor:
        """Return the first values for parameters [n, k], and what is sent of a row,
        [n, m].
        """
        model = sent if self.full_width else parameters
        if self.begins == "model":
            # A copy: states change in place, and must not be the model itself.
            return model.clone()
        shape = model[:, :1].shape if self.scalar else model.shape
        first = model.new_full(shape, self.start)
        return first.double() if self.double else first


@dataclass(frozen=True)
class Wire:
    """Rows as bytes: ``unpack(pack(rows, coded)) == coded`` to the bit, in the same
    round.

    ``pack(rows, coded, context)`` gives uint8 [n, b], b the same for all rows;
    ``unpack(packed, like, context)`` gives rows of the width and type of ``like``;
    ``context`` is an ``exchange.codec.base.CodecContext``.
    """

    pack: Callable[[Tensor, Tensor, Any], Tensor]
    unpack: Callable[[Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Sizes:
    """For which numbers of nodes a topology has a graph: a function
    ``(n, settings)``, in words.
    """

    fits: Callable[[int, Settings], bool]
    words: str

    def check(self, name: str, nodes: int, settings: Settings) -> None:
        """Refuse a number of nodes, naming the nearest ones that fit.

        Args:
            name: Name of the topology.
            nodes: The number asked for.
            settings: Settings of the topology.
        """
        if self.fits(nodes, settings):
            return
        below = (n for n in range(nodes - 1, max(0, nodes - _NEARBY), -1))
        above = (n for n in range(nodes + 1, nodes + _NEARBY))
        # Generators: each way ends at the first number that fits, mostly a near
        # one.
        found = [
            next((n for n in way if self.fits(n, settings)), None)
            for way in (below, above)
        ]
        near = " or ".join(f"{n}" for n in found if n is not None)
        remedy = (
            f"use {near} nodes, or another topology" if near else "change its settings"
        )
        raise ConfigError(
            f"topology {name!r} needs a number of nodes that is {self.words}, not {nodes}; "
            f"{remedy}."
        )


#: Share of the seeds' distribution that an interval covers.
CONFIDENCE = 0.95


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of Student's t for the mean over seeds; all numbers, of
    fewer than two.

    >>> [round(end, 3) for end in t_interval([0.01, 0.02, 0.03])]
    [-0.005, 0.045]
    """
    if len(values) < 2:
        return -inf, inf
    from scipy.special import stdtrit

    quantile = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)
    half = float(quantile) * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


@dataclass(frozen=True)
class Expectation:
    """What a figure must be: within [``low``, ``high``] for every seed, or their
    mean or median; over ``interval``, the 95 % t interval of the mean must lie
    within them.

    An interval that does not is evidence against the claim only where it excludes
    ``effect``, what the paper reports, or without one where it lies beyond the
    limits; else the seeds leave it open.

    A figure that judges is evidence. A ``condition`` has to be met for the others
    to be any: that there is a gap to close, that the best rate is not at the edge
    of its grid. What is so ``by design`` (an identity, equal budgets) is shown and
    judges nothing. What is ``optional`` needs data or a package that may be missing:
    where it was not measured, it judges nothing, either.

    >>> Expectation("gap", "the merged model is close", high=0.05).is_met([0.01, 0.04])
    True
    >>> gain = Expectation("gain", "it helps", low=0.0, over="interval", effect=0.02)
    >>> gain.judge([0.03, 0.031]), gain.judge([0.0, 0.0]), gain.judge([0.01, 0.03])
    (True, False, None)
    """

    figure: str
    means: str
    low: float = -inf
    high: float = inf
    over: Literal["every seed", "mean", "median", "interval"] = "every seed"
    effect: float | None = None
    role: Literal["evidence", "condition", "by design"] = "evidence"
    optional: bool = False

    def is_met(self, values: Sequence[float]) -> bool:
        """Whether the measured values, one per seed, are as expected; never without
        values.
        """
        return self.judge(values) is True

    def judge(self, values: Sequence[float]) -> bool | None:
        """Say whether values, one per seed, are as expected; None: too few, or too
        far apart, to tell.
        """
        if not values:
            return None if self.optional else False
        if self.over == "interval":
            return self._judge_interval(values)
        middle = {"mean": mean, "median": median}.get(self.over)
        judged = [middle(values)] if middle else values
        # never true of NaN
        return all(self.low <= value <= self.high for value in judged)

    def _judge_interval(self, values: Sequence[float]) -> bool | None:
        if not all(map(isfinite, values)):
            return False
        least, most = t_interval(values)
        # Strictly: with the method off a difference is exactly 0 for every seed,
        # and no gain.
        if self.low < least and most < self.high:
            return True
        # Beyond a limit, or short of what the paper found, nothing is left of the
        # claim.
        found = self.effect
        low = self.low if found is None or self.low == -inf else found
        high = self.high if found is None or self.high == inf else found
        return False if most <= low or high <= least else None

    @property
    def bound(self) -> str:
        """The limits in words.

        >>> Expectation("gap", "", high=0.05).bound
        'at most 0.05'
        >>> Expectation("gain", "", low=0.0, over="interval").bound
        'above 0'
        """
        inside = self.over == "interval"
        if self.low == -inf:
            return f"{'below' if inside else 'at most'} {self.high:g}"
        if self.high == inf:
            return f"{'above' if inside else 'at least'} {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class ComputeTraits(Traits):
    """Traits of a rule for the seconds of steps.

    Attributes:
        by_time: It depends on when a step begins: a function (nodes, step, seed,
            now_s, amount), which returns seconds of ``amount`` times a first step.
        away_s: A function (node, now_s, seed, settings): seconds until a node is
            online; 0: it is.
        loses: A function (settings): whether what is sent to a node that is not
            online is lost; else it comes when the node is back.
        line: A function (node, now_s, seed, settings): bytes per second up and down
            of a node's line, and seconds that it adds to every way; None: as the
            network says.
        has_lines: A function (settings): whether it says anything of lines.
    """

    by_time: bool = False
    away_s: Callable[[int, float, int, Settings], float] | None = None
    loses: Callable[[Settings], bool] | None = None
    line: Callable[[int, float, int, Settings], Any] | None = None
    has_lines: Callable[[Settings], bool] | None = None


@dataclass(frozen=True, kw_only=True)
class ClaimTraits(Traits):
    """Traits of a claim, written before anything is measured.

    Attributes:
        paper: Authors, title and year.
        says: The claim in one sentence.
        expect: What its figures must be. The first that is evidence is the heart of
            the claim: without it the claim does not reproduce; with it and at least
            half of the others, but not with all, it holds in part.
        tiny: Settings at which its machinery runs in seconds, for tests.
        quick: Settings at which its heart can be seen in the least time.
        off: Settings that take the method away: with them, too, the heart is lost.
        full: The settings of the size ``gpu``.
    """

    paper: str
    says: str
    expect: tuple[Expectation, ...]
    tiny: Settings = field(default_factory=dict[str, Any])
    quick: Settings = field(default_factory=dict[str, Any])
    off: Settings = field(default_factory=dict[str, Any])
    full: Settings = field(default_factory=dict[str, Any])
