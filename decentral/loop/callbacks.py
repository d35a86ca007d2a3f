"""Callbacks: told of a run as it goes on. They may log and stop it, and change nothing
else.

A callback is an object with any of the methods ``on_start``, ``on_step``,
``on_round``, ``on_evaluate`` and ``on_end``, each of one `Context`; `Callback` has
them all. A plug-in of this kind is a class, or a function of settings alone, that
makes one; or a function ``(context)``, called at evaluations unless the trait ``on``
says otherwise.

On several workers the first one calls them, with numbers of all nodes, and all
workers agree on a stop at that very step: a gather of two numbers per node before a
call, and of one behind it. Their attributes that change, and that JSON can hold, are
in checkpoints.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isnan
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from decentral.errors import ConfigError, nearest
from decentral.plugins import ConfiguredPlugin, describe, label_of, wrong
from decentral.records import Records
from decentral.registry import Count, NonNegative, build, plugin
from decentral.signature import function_behind
from decentral.topology.labels import NodeId
from decentral.traits import CallbackTraits, traits_of

if TYPE_CHECKING:
    from torch import Tensor

#: When callbacks are called.
Moment = Literal["start", "step", "round", "evaluate", "end"]
MOMENTS: tuple[Moment, ...] = ("start", "step", "round", "evaluate", "end")


@dataclass(frozen=True)
class Context:
    """Where a run stands; nothing that is done to it reaches the run but `stop`.

    Attributes:
        step: Steps that are done.
        steps: Steps of the whole run.
        epoch: Passes over the training data so far, all nodes taken together.
        samples: Samples of each node so far.
        round: Rounds in which something was sent so far.
        nodes: The ids of healthy nodes, over all workers.
        losses: The newest training loss of each of them, by id; empty before the
            first.
        metrics: The newest number of every key so far, as in the records of a run.
        measured: Those of this moment.
        records: What is known of a key: its direction, its unit.
        simulated_s: Simulated seconds; None where no network is simulated.
        phase: ``before_merge`` or ``final`` at the evaluations that end a run.
        gathered: Rows, where they were asked for: `rows` copies them.
        reasons: What `stop` was told.
    """

    step: int
    steps: int
    epoch: float
    samples: int
    round: int
    nodes: tuple[int, ...]
    losses: Mapping[NodeId, float]
    metrics: Mapping[str, float]
    measured: Mapping[str, float]
    records: Records
    simulated_s: float | None = None
    phase: str | None = None
    gathered: Tensor | None = field(default=None, repr=False)
    reasons: list[str] = field(default_factory=list[str], repr=False)

    @property
    def rows(self) -> Tensor:
        """A copy of the parameters of all nodes [N, k], for callbacks with
        ``rows = True``.
        """
        if self.gathered is None:
            raise ConfigError(
                "callback: rows are gathered for callbacks that ask for them; give its class, "
                "or its function, the attribute rows = True."
            )
        return self.gathered.clone()

    def stop(self, reason: str) -> None:
        """Let the run end with this step: its final merge, if any, and evaluation
        follow.
        """
        self.reasons.append(str(reason))


class Callback:
    """A callback that does nothing; a subclass says what it does, and when.

    With ``rows = True`` it sees a copy of all models, which workers gather for it.
    """

    rows = False

    def on_start(self, context: Context) -> None:
        """Begin, or go on with a run; what was kept in a checkpoint is set
        afterwards.
        """

    def on_step(self, context: Context) -> None:
        """Look at a step that is done."""

    def on_round(self, context: Context) -> None:
        """Look at a step in which something was sent."""

    def on_evaluate(self, context: Context) -> None:
        """Look at an evaluation."""

    def on_end(self, context: Context) -> None:
        """Look at a run that is over."""


@plugin("callback", "early_stopping")
class EarlyStopping(Callback):
    """Stop a run whose ``metric`` has not improved for ``patience`` evaluations.

    Args:
        metric: Key of what is watched; ``val/loss`` is that of the merged model.
        patience: Evaluations without an improvement after which the run ends.
        min_delta: By how much a number must be better to be one.
        mode: Whether the least or the greatest is best; auto: as the metric says.

    >>> EarlyStopping(patience=5).settings["patience"]
    5
    """

    def __init__(
        self,
        *,
        metric: str = "val/loss",
        patience: Count = 3,
        min_delta: NonNegative = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
    ) -> None:
        """Watch a metric."""
        self.settings = {
            "metric": metric, "patience": patience, "min_delta": min_delta, "mode": mode,
        }  # fmt: skip
        self.metric, self.patience = metric, patience
        self.min_delta, self.mode = min_delta, mode
        self.best: float | None = None
        self.best_step = self.waited = 0

    def on_start(self, context: Context) -> None:
        """Forget what another run had."""
        self.best, self.best_step, self.waited = None, 0, 0

    def on_evaluate(self, context: Context) -> None:
        """Compare with the best so far; those that end a run come too late."""
        if context.phase is not None:
            return
        key = self._key(context.measured)
        sign = self._sign(context.records, key)
        value = context.measured[key]
        # NaN, an overflow, is no improvement; the first number always is
        if not isnan(value) and (
            self.best is None or sign * (value - self.best) > self.min_delta
        ):
            self.best, self.best_step, self.waited = value, context.step, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            best = "never a number" if self.best is None else f"{self.best:.4g}"
            context.stop(
                f"{key} was best at step {self.best_step}, {best}: no better in "
                f"{self.waited} evaluations"
            )

    def _key(self, measured: Mapping[str, float]) -> str:
        for key in (self.metric, f"{self.metric}_merged", f"{self.metric}/merged"):
            if key in measured:
                return key
        remedy = nearest(self.metric, measured)
        if self.metric.startswith("val/"):
            remedy = " The task has no validation data: give it Task(val=...), or digits(val=0.1)."
        raise ConfigError(
            f"callback 'early_stopping': nothing measured is called {self.metric!r}.{remedy}"
        )

    def _sign(self, records: Records, key: str) -> int:
        better = records.of(key).better
        if self.mode == "auto" and better is None:
            raise ConfigError(
                f"callback 'early_stopping': {key} does not say which way is better; say "
                "mode=min or mode=max."
            )
        least = better == "lower" if self.mode == "auto" else self.mode == "min"
        return -1 if least else 1


# --- what a run makes of them -----------------------------------------------------


class _Held:
    """An object given from Python, as what makes it."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.__name__, self.__module__ = type(held).__name__, type(held).__module__

    def __call__(self) -> Any:
        return self.held


def from_object(value: Any) -> Callable[[], Any] | None:
    """Return what makes an object that is a callback; None for any other."""
    moments = any(_method(value, moment) for moment in MOMENTS)
    if isinstance(value, type) or not moments:
        return None
    if type(value) is EarlyStopping:  # which a file can hold
        return partial(EarlyStopping, **value.settings)
    return _Held(value)


def _method(made: Any, moment: Moment) -> Callable[[Context], Any] | None:
    """Return the method of a callback for a moment, if it is not the one that does
    nothing.
    """
    found = getattr(made, f"on_{moment}", None)
    idle = getattr(Callback, f"on_{moment}")
    return (
        found
        if callable(found) and getattr(found, "__func__", found) is not idle
        else None
    )


@dataclass
class _Listener:
    """A callback with what is called of it, each as a plug-in that blames its
    author.
    """

    made: Any
    methods: dict[Moment, ConfiguredPlugin]
    begun: dict[str, Any] = field(default_factory=dict[str, Any])

    @staticmethod
    def make(rule: ConfiguredPlugin) -> _Listener:
        """Make a callback from its plug-in; raises ConfigError where it is none."""
        target = rule.plugin.target
        is_class = isinstance(function_behind(target), type)
        asked = () if is_class or isinstance(target, _Held) else rule.plugin.positional()
        if len(asked) > 1:
            raise ConfigError(
                f"{label_of(rule)} takes {', '.join(asked)}; a callback takes a context alone, and "
                "its settings are keyword-only."
            )
        if asked:
            return _Listener(target, {traits_of(rule, CallbackTraits).on: rule})
        made = rule()
        methods: dict[Moment, ConfiguredPlugin] = {}
        for moment in MOMENTS:
            if (method := _method(made, moment)) is not None:
                own = replace(rule.plugin, target=method, settings={}, common={})
                methods[moment] = ConfiguredPlugin(own, {})
        if not methods:
            raise wrong(
                rule, describe(made), "an object with on_step, on_evaluate or the like"
            )
        return _Listener(made, methods)

    def state(self) -> dict[str, Any]:
        """Return the attributes that have changed since the start, as far as JSON
        holds them.
        """
        return {k: v for k, v in _plain_state(self.made).items()
                if k not in self.begun or self.begun[k] != v}  # fmt: skip


def _plain_state(made: Any) -> dict[str, Any]:
    """Return the attributes of an object that JSON can hold, as copies."""
    found: dict[str, Any] = {}
    for key, value in getattr(made, "__dict__", {}).items():
        try:
            # There and back again: a tuple would come back as a list, and what is
            # set after a resume must be what was kept.
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):  # no part of what a checkpoint keeps
            same = False
        if same:
            found[key] = copy.deepcopy(value)
    return found


class Callbacks:
    """The callbacks of a run: whom to call when, and whether one has stopped it."""

    def __init__(self, rules: Sequence[object]) -> None:
        """Make them; on every worker, so that all know when they are called."""
        self.listeners = [_Listener.make(build("callback", rule)) for rule in rules]
        self.newest: dict[str, float] = {}
        self.stopped: dict[str, Any] | None = None
        self._kept: list[dict[str, Any]] = []

    def listens(self, moment: Moment) -> bool:
        """Whether any of them is called at a moment."""
        return any(moment in one.methods for one in self.listeners)

    def wants_rows(self, moment: Moment) -> bool:
        """Whether one that is called at a moment sees all models."""
        listeners = (one for one in self.listeners if moment in one.methods)
        return any(bool(getattr(one.made, "rows", False)) for one in listeners)

    def call(self, moment: Moment, context: Context) -> str:
        """Call those that listen, in order; return who stops the run, and why, if one
        does.
        """
        for one in self.listeners:
            if (method := one.methods.get(moment)) is None:
                continue
            # each sees models, if it asks for them, and its own wish to stop
            wants = bool(getattr(one.made, "rows", False))
            own = replace(
                context, gathered=context.gathered if wants else None, reasons=[]
            )
            # Most likely a reason that was to stop the run: to ignore it would let
            # the run go on.
            if (returned := method(own)) is not None:
                raise wrong(
                    method, describe(returned), "nothing: context.stop(reason) ends a run"
                )
            if own.reasons:
                return f"{method.name}: {own.reasons[0]}"
        return ""

    def start(self) -> None:
        """Stand where a checkpoint was taken, once all were told that the run begins."""
        for one in self.listeners:
            # Behind ``on_start``: what it opens stays open, and what it sets to a
            # beginning is replaced by what the checkpoint has kept.
            one.begun = _plain_state(one.made)
        for one, kept in zip(self.listeners, self._kept, strict=False):
            one.made.__dict__.update(copy.deepcopy(kept))
        self._kept = []

    def measured(self, numbers: Mapping[str, Any]) -> Mapping[str, float]:
        """Take the newest numbers; return those of now, which nobody can change."""
        found = {
            key: float(value)
            for key, value in numbers.items()
            if isinstance(value, int | float) and key != "step"
        }
        self.newest |= found
        return MappingProxyType(found)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of them."""
        if not self.listeners and self.stopped is None:
            return {}
        states = [one.state() for one in self.listeners]
        # JSON has no NaN, and nobody waits for one to improve.
        newest = {k: v for k, v in self.newest.items() if not isnan(v)}
        return {"states": states, "newest": newest, "stopped": self.stopped}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go back to what a checkpoint has kept; attributes follow at the start."""
        state = state or {}
        self.newest = dict(state.get("newest", {}))
        self.stopped = state.get("stopped")
        self._kept = list(state.get("states", []))
