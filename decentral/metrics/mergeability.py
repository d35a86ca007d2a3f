"""Mergeability."""

from __future__ import annotations

from decentral.metrics import Snapshot
from decentral.records import Record
from decentral.registry import plugin

_GAP = Record(
    "mergeability/gap", "How much better the average is than the models it averages",
    "mergeability gap", better="higher", draw="none", tables=(), moment="before_merge",
)  # fmt: skip
_RATIO = Record(
    "mergeability/ratio", "Score of the average over the mean score of the local models",
    "mergeability ratio", draw="none", tables=(), moment="before_merge",
)  # fmt: skip


@plugin("metric", records=(_GAP, _RATIO))
def mergeability(snapshot: Snapshot) -> dict[str, float]:
    """How much better the average is than the models it averages.

    ``gap`` is the merged minus the local mean accuracy (for tasks without accuracy: local minus
    merged loss, so that positive is good in both); ``ratio`` is merged over local.
    """
    local, merged = snapshot.local, snapshot.merged
    if local.accuracy is not None and merged.accuracy is not None:
        before, after = local.accuracy.mean().item(), merged.accuracy.item()
        gap = after - before
    else:
        before, after = local.loss.mean().item(), merged.loss.item()
        gap = before - after
    found = {"mergeability/gap": gap}
    return found | {"mergeability/ratio": after / before} if before else found
