"""What an algorithm sends, promises and costs, in a few lines."""

from __future__ import annotations

from rich.table import Table

from decentral.algorithms.base import channels_of, paper_of, rows_of
from decentral.cli.words import facts
from decentral.registry import Plugin


def about(found: Plugin, paper: bool = True) -> Table:
    """Lay out an algorithm's paper, channels, cost, guarantees and what it is not sound with."""
    refused = ", ".join(word.replace("_", " ") for word in found.traits.get("refuses", {}))
    promises = ", ".join(word.replace("_", " ") for word in found.traits.get("guarantees", ()))
    rows = [
        ("paper", paper_of(found) if paper else ""),
        ("sends", ", ".join(channels_of(found)) or "nothing"),
        ("costs", cost(found)),
        ("promises", promises),
        ("refuses", refused),
    ]
    return facts([(label, text) for label, text in rows if text])


def cost(found: Plugin) -> str:
    """Say how many rows a node sends in a round: to d neighbours, or in an average of N nodes.

    A global average counts 2 (N - 1) rows for all nodes together.
    """
    rows, talks = rows_of(found), found.traits.get("communicates", "rounds")
    average = f"{2 * rows} (N - 1) / N rows"
    if talks == "never":
        return "nothing"
    if talks == "steps":
        return f"{average} a node in every step"
    gossip = "d rows" if rows == 1 else f"{rows} d rows"
    parts = ", all by 1 / fragments" if "fragments" in found.traits else ""
    return f"{gossip} a node and round with d neighbours; {average} in a global merge{parts}"
