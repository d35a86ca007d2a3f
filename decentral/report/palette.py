"""Colours by role, for light and for dark pages; figures are drawn light and turned afterwards.

Every light colour is unique, so that it can stand for its role in a drawing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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


# --- drawings made for a page ---------------------------------------------------------------------

_ROLE_OF = {light: role for role, (light, _) in COLOURS.items()}
_HEX = re.compile(r'(?<=[ "])#[0-9a-f]{6}\b')
_ID = re.compile(r'\sid="([^"]*)"')
_REFERENCE = re.compile(r'url\(#([^)]+)\)|href="#([^"]+)"')
_SVG = re.compile(r"<svg([^>]*)>(.*)</svg>", re.DOTALL)
_BOX = re.compile(r'viewBox="([^"]*)"')
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")


@dataclass(frozen=True)
class Drawing:
    """A drawing as a page holds it: SVG to be taken as it is, and what stands in its tag."""

    body: str
    box: str
    label: str
    kind: str


def drawing(document: str, name: str, label: str, kind: str = "") -> Drawing:
    """Return a matplotlib SVG as an element for an HTML page.

    Args:
        document: The SVG document as written by matplotlib.
        name: Prefix of every id inside; unique on the page.
        label: What the drawing shows, for readers who cannot see it.
        kind: Class of the element.
    """
    found = _SVG.search(document)
    assert found is not None
    head, body = found.groups()
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"\n\s+", "\n", _FAMILY.sub("", body))
    # Colours become variables of the page, so that one drawing serves light and
    # dark.
    body = _HEX.sub(lambda match: _variable(match[0]), _unique_ids(body, name))
    return Drawing(body.strip(), _BOX.findall(head)[0], label, kind)


def _variable(colour: str) -> str:
    return f"var(--{_ROLE_OF[colour]})" if colour in _ROLE_OF else colour


def _unique_ids(body: str, name: str) -> str:
    # matplotlib numbers every element; ids that nothing refers to are left out.
    used = {match[1] or match[2] for match in _REFERENCE.finditer(body)}
    body = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    return re.sub(r'href="#', f'href="#{name}-', body)
