"""Talk when the models drift apart."""

from __future__ import annotations

from decentral.registry import Count, Positive, Share, plugin
from decentral.schedules import Feedback, Progress


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
    """Keep the relative consensus distance near ``target`` by talking more when it is exceeded.

    With c the distance of the nodes from their mean over the norm of the mean (estimated from
    sketches of 64 numbers per node, refreshed every ``feedback_every`` slots), the intensity is
    ``floor`` while c <= target and rises linearly to 1 at c = 2 target. Silent once ``max_budget``
    of all-reduce's bytes is spent. (After Kong et al., "Consensus control for decentralized deep
    learning", ICML 2021.)
    """
    if feedback is None:
        return floor
    if feedback.spent >= max_budget:
        return 0.0
    excess = min(1.0, max(0.0, feedback.consensus / target - 1.0))
    return floor + (1.0 - floor) * excess
