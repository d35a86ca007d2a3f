"""Decentralized algorithms: what a node does in a step, and what it does with what it received.

An algorithm is a function ``(block, act)``, called once per step for a whole block of rows; ``act``
is what is sent after this step (None: silence). Its text is made of verbs, in the order of the
paper:

- ``block.gradient()``: g_i at x_i on the next batch (clipped and transformed);
- ``block.average_gradients()``: g_i <- (1/N) sum_j g_j (before clipping);
- ``block.adapt()``: x_i <- optimizer(x_i, g_i);
- ``block.combine(act)``: x_i <- sum_j W_ij x_j, or a global merge, or nothing;
- ``block.begin(act)``: lets the rows of that ``combine`` travel already, as they are now.

Traits: ``guarantees`` (at least one name the law suite tests) and ``communicates``: ``rounds``
(topology and schedule apply), ``steps`` (a global average in every step) or ``never``.
"""

from __future__ import annotations

from typing import Protocol

from decentral.network import Act


class Block(Protocol):
    """A block of rows as an algorithm sees it."""

    def gradient(self) -> None:
        """Compute every row's gradient on its next batch."""
        ...

    def average_gradients(self) -> None:
        """Replace every row's gradient by the mean over all nodes."""
        ...

    def adapt(self) -> None:
        """Clip and transform the gradients, then let the optimizer update the rows."""
        ...

    def begin(self, act: Act | None) -> None:
        """Let rows travel while gradients are computed; ``combine`` with the same act follows."""
        ...

    def combine(self, act: Act | None) -> None:
        """Exchange the channels as ``act`` says."""
        ...
