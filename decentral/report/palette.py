"""Colours by role, for light and for dark pages; figures are drawn light and turned afterwards.

Every light colour is unique, so that it can stand for its role in a drawing.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#f6f7f9", "#0e1218"),
    "card": ("#fffffe", "#161b23"),
    "ink": ("#17202c", "#e7ecf3"),
    "muted": ("#5b6676", "#97a3b4"),
    "line": ("#e3e7ed", "#28303c"),
    "link": ("#8d99aa", "#667386"),
    "merged": ("#1553b7", "#7db2ff"),
    "local": ("#c4611a", "#f2a663"),
    "comm": ("#0d7d78", "#4fc4bb"),
    "run-0": ("#1c5fc4", "#74adff"),
    "run-1": ("#cc6a14", "#f5a455"),
    "run-2": ("#0a8a6a", "#41cfa6"),
    "run-3": ("#b03a86", "#ef86c6"),
    "run-4": ("#6d5bd0", "#b0a3ff"),
    "run-5": ("#9a7400", "#e0c04c"),
    "run-6": ("#1690b3", "#63d3f2"),
    "run-7": ("#b5303c", "#ff8a8f"),
    "run-8": ("#55606f", "#b4bfcd"),
    "run-9": ("#7c4a1e", "#cf9d72"),
    "run-10": ("#4c7d12", "#a3d660"),
    "run-11": ("#7d1f5f", "#d58ac0"),
}
RUN_COLOURS = 12


def light(role: str) -> str:
    """Return the light colour of a role as ``#rrggbb``."""
    return COLOURS[role][0]


def css_variables(theme: int) -> str:
    """Return the roles as CSS custom properties, ``theme`` 0 for light and 1 for dark."""
    return " ".join(f"--{role}: {pair[theme]};" for role, pair in COLOURS.items())
