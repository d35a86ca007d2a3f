"""Attacks: what bad nodes send instead of their rows, or learn from instead of their data.

An attack is one of two functions:

- ``(rows, load, draw) -> rows``: from the rows [b, k] of the bad nodes to what they say, in gossip
  and in global merges alike; ``load`` and ``draw`` are those of codecs. A bad node itself goes on
  with its own row and with what it hears, as if it were a good one;
- ``(targets, classes) -> targets``, with the trait ``data``: from the targets [b, B, ...] of the
  bad nodes to those from which they learn.

Metrics and the merged model look at the good nodes only.
"""

from __future__ import annotations

from decentral.registry import Share
from decentral.schedules.phases import START, STOP
from decentral.units import Point


def common(
    *,
    nodes: list[int] | None = None,
    share: Share = 0.0,
    start: Point = START,
    stop: Point = STOP,
) -> None:
    """Settings of every attack: which nodes are bad, named or a share of all, and from when on."""
