"""When to communicate, and how much: asked at every communication step, each
``local_steps``.

A communication schedule is a function ``(progress, feedback) -> intensity``: 0 is
silence, a number in (0, 1] gossips at that intensity, ``GLOBAL_MERGE`` averages all
models. ``feedback`` is None unless the schedule declares ``closed_loop=True``, or
``feedback``: a function of the block that gives a number of each hosted row. It is
called behind a step, every ``feedback_every`` communication steps (a setting, 10
unless given), and what it gives of row i must not depend on row j.
Every schedule may end in one global merge, after what its last communication step
sends (``final_merge``).
"""

from __future__ import annotations

from math import cos, pi
from typing import Annotated

from annotated_types import Gt, Le

from decentral.errors import ConfigError
from decentral.registry import (
    ConfiguredPlugin,
    Count,
    NestedPlugin,
    Positive,
    Share,
    plugin,
)
from decentral.schedules.action import (
    GLOBAL_MERGE,
    Action,
    Merge,
    decide,
)
from decentral.schedules.progress import Feedback, Progress
from decentral.units import Point


def common(*, final_merge: bool | None = None) -> None:
    """Settings of every communication schedule.

    Args:
        final_merge: Whether the run ends in one global merge; none: as the schedule
            says.
    """


@plugin("communication")
def none(progress: Progress, feedback: Feedback | None) -> float:
    """Never communicate; with ``final_merge`` the models still meet once, at the
    end.
    """
    return 0.0


@plugin("communication")
def constant(
    progress: Progress, feedback: Feedback | None, *, intensity: Share = 1.0
) -> float:
    """Gossip at one intensity from the first round to the last.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        intensity: Intensity of every round, in [0, 1].
    """
    return intensity


@plugin("communication", final_merge=True)
def late(
    progress: Progress,
    feedback: Feedback | None,
    *,
    start: Point = Point(0.9, "fraction"),
    intensity: Share = 0.1,
    then: Share = 1.0,
) -> float:
    """Gossip at ``intensity`` until ``start``, at ``then`` afterwards; one global
    merge at the end.

    The recommended schedule: sparse communication keeps models mergeable, late
    communication and one merge collect the gain ("On the surprising effectiveness
    of a single global merging in decentralized learning", ICLR 2026).

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        start: Where the dense part begins.
        intensity: Intensity until then.
        then: Intensity afterwards.
    """
    # A function of where the run stands, and of nothing that was sent before: a
    # preview and a resumed run get the same answers.
    return then if progress.reached(start) else intensity


@plugin("communication")
def early(
    progress: Progress,
    feedback: Feedback | None,
    *,
    stop: Point = Point(0.1, "fraction"),
    first: Share = 1.0,
    intensity: Share = 0.1,
) -> float:
    """Gossip at ``first`` until ``stop``, at ``intensity`` afterwards: the mirror
    image of late.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        stop: Where the dense part ends.
        first: Intensity until then.
        intensity: Intensity afterwards.
    """
    return intensity if progress.reached(stop) else first


@plugin("communication", example="window(start=40%)")
def window(
    progress: Progress,
    feedback: Feedback | None,
    *,
    start: Point,
    width: Point = Point(0.1, "fraction"),
    intensity: Share = 1.0,
    outside: Share = 0.0,
) -> float:
    """Gossip at ``intensity`` from ``start`` for ``width`` of the run, at
    ``outside`` elsewhere.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        start: Where the window begins.
        width: How long it is.
        intensity: Intensity inside it.
        outside: Intensity elsewhere.
    """
    # Both in steps, since a start of 40% may have a width of 50 steps. The margin
    # below keeps a bound that is a whole step but for rounding on its own side.
    begin = start.in_steps(progress.steps)
    end = begin + width.in_steps(progress.steps)
    here = progress.fraction * progress.steps
    return intensity if begin - 1e-9 <= here < end - 1e-9 else outside


@plugin("communication")
def linear(
    progress: Progress,
    feedback: Feedback | None,
    *,
    first: Share = 0.0,
    last: Share = 1.0,
) -> float:
    """Let the intensity move on a straight line from ``first`` to ``last``.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        first: Intensity at the start of the run.
        last: Intensity at its end.
    """
    return first + (last - first) * progress.fraction


@plugin("communication")
def cosine(
    progress: Progress,
    feedback: Feedback | None,
    *,
    first: Share = 0.0,
    last: Share = 1.0,
) -> float:
    """Let the intensity move from ``first`` to ``last`` on half a cosine wave.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        first: Intensity at the start of the run.
        last: Intensity at its end.
    """
    return first + (last - first) * (1 - cos(pi * progress.fraction)) / 2


_Intensity = Annotated[float, Gt(0), Le(1)]


@plugin("communication")
def exponential(
    progress: Progress,
    feedback: Feedback | None,
    *,
    first: _Intensity = 0.01,
    last: _Intensity = 1.0,
) -> float:
    """Let the intensity move geometrically: first^(1 - t) last^t at fraction t of
    the run.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        first: Intensity at the start of the run.
        last: Intensity at its end.
    """
    # Rounding must not take it past 1, which would be refused.
    return min(1.0, first ** (1 - progress.fraction) * last**progress.fraction)


@plugin("communication", example="every(k=2)")
def every(
    progress: Progress,
    feedback: Feedback | None,
    *,
    k: Count,
    schedule: Annotated[ConfiguredPlugin, NestedPlugin("communication")] = "constant",  # pyright: ignore
) -> Action:
    """Follow ``schedule`` at every k-th communication step, and be silent at the
    others.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        k: Communication steps from one that may be used to the next.
        schedule: What is followed there.
    """
    # The k-th of each k and not the first: where k divides their number, the run
    # ends with one that is used.
    now = (progress.communication_step + 1) % k == 0
    return decide(schedule, progress, feedback) if now else 0.0


@plugin("communication", example="switch(before=constant(0.2), after=linear, at=50%)")
def switch(
    progress: Progress,
    feedback: Feedback | None,
    *,
    before: Annotated[ConfiguredPlugin, NestedPlugin("communication")],
    after: Annotated[ConfiguredPlugin, NestedPlugin("communication")],
    at: Point,
) -> Action:
    """Follow ``before`` until the point ``at``, then ``after``.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        before: The schedule until the point.
        after: The schedule from there on.
        at: The point.
    """
    return decide(after if progress.reached(at) else before, progress, feedback)


@plugin("communication")
def merges(progress: Progress, feedback: Feedback | None) -> Action:
    """Average all models after every ``local_steps`` steps, by an all-reduce: 2 (N
    - 1) rows.

    A last round that is cut short is not averaged; ``final_merge`` ends it in one
    merge.
    """
    # By steps: the last communication step of a run comes early where
    # ``local_steps`` does not divide it, and would average models of fewer steps.
    return GLOBAL_MERGE if progress.step % progress.local_steps == 0 else 0.0


@plugin(
    "communication",
    final_merge=False,
    example="then_merge(schedule=constant(0.2), at=75%)",
)
def then_merge(
    progress: Progress,
    feedback: Feedback | None,
    *,
    schedule: Annotated[ConfiguredPlugin, NestedPlugin("communication")],
    at: Point = Point(1.0, "fraction"),
) -> Action:
    """Follow ``schedule`` until ``at``; merge all models there, once; then be
    silent.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        schedule: The schedule until the merge.
        at: Where all models are merged.
    """
    if not progress.reached(at):
        return decide(schedule, progress, feedback)
    # Where the point was passed, and not where it is: it may lie between two
    # communication steps, and the first one has none before it.
    now = progress.communication_step == 0 or not progress.previous.reached(at)
    return GLOBAL_MERGE if now else 0.0


@plugin(
    "communication", budgeted=True, example="scale_to_budget(schedule=late, budget=2%)"
)
def scale_to_budget(
    progress: Progress,
    feedback: Feedback | None,
    *,
    schedule: Annotated[ConfiguredPlugin, NestedPlugin("communication")],
    budget: str | float,
    factor: Positive | None = None,
) -> Action:
    """Multiply the intensities of ``schedule`` by ``factor``, clipped to 1.

    ``budget`` is the expected logical bytes, final merge included: ``2%`` of those
    of all-reduce at every step, or ``2MB/node``. ``factor`` is solved for before
    the run and written to its resolved configuration. Schedules are compared fairly
    at equal budget.

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        schedule: The schedule that is multiplied.
        budget: Expected bytes: ``2%`` of all-reduce's, or ``2MB/node``.
        factor: The factor; none: solved for.
    """
    if factor is None:
        raise ConfigError(
            "communication 'scale_to_budget' must be outermost: "
            "its factor is solved for the whole run."
        )
    action = decide(schedule, progress, feedback)
    # A merge has no intensity; its bytes are spent whatever the factor is.
    # Intensities are clipped, since no link is used twice: the solver knows where
    # the budget cannot be reached.
    return action if isinstance(action, Merge) else min(1.0, factor * action)


@plugin("communication", closed_loop=True, example="adaptive(target=0.1)")
def adaptive(
    progress: Progress,
    feedback: Feedback | None,
    *,
    target: Positive,
    floor: Share = 0.05,
    feedback_every: Count = 10,
    max_budget: Positive = 1.0,
) -> float:
    """Keep the relative consensus distance near ``target`` by communicating more
    when it is exceeded.

    With c the distance of the nodes from their mean over the norm of the mean
    (estimated from sketches of 64 numbers per node, refreshed every
    ``feedback_every`` communication steps), the intensity is ``floor`` while c <=
    target and rises linearly to 1 at c = 2 target. Silent once ``max_budget`` of
    all-reduce's bytes is spent. (After Kong et al., "Consensus control for
    decentralized deep learning", ICML 2021.)

    Args:
        progress: How far the run is.
        feedback: What the run measured last, where the schedule asks for it.
        target: Relative consensus distance to keep.
        floor: Intensity while the distance is at most the target.
        feedback_every: Communication steps between two measurements of the
            distance.
        max_budget: Share of all-reduce's bytes after which it is silent.
    """
    # Nothing is measured yet. Models that begin alike agree, and others meet soon.
    if feedback is None:
        return floor
    if feedback.spent >= max_budget:
        return 0.0
    # A ramp rather than a switch at the target, which would swing between the floor
    # and 1 from one measurement to the next.
    excess = min(1.0, max(0.0, feedback.consensus / target - 1.0))
    return floor + (1.0 - floor) * excess
