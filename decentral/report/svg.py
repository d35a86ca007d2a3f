"""A drawing made for a page: colours become CSS variables, ids unique, nothing points outside."""

from __future__ import annotations

import re
from html import escape

from decentral.report.palette import COLOURS

_ROLE_OF = {light: role for role, (light, _) in COLOURS.items()}
_HEX = re.compile(r'(?<=[ "])#[0-9a-f]{6}\b')
_ID = re.compile(r'\sid="([^"]*)"')
_REFERENCE = re.compile(r'url\(#([^)]+)\)|href="#([^"]+)"')
_BOX = re.compile(r'(viewBox="[^"]*")')
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")


def inline_svg(drawing: str, name: str, label: str, kind: str = "") -> str:
    """Return a matplotlib SVG as an element for an HTML page.

    Args:
        drawing: The SVG document as written by matplotlib.
        name: Prefix of every id inside; unique on the page.
        label: What the drawing shows, for readers who cannot see it.
        kind: Class of the element.
    """
    body = drawing[drawing.index("<svg") :]
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"\n\s+", "\n", _FAMILY.sub("", body))
    body = _HEX.sub(lambda match: _variable(match[0]), _unique_ids(body, name))
    box = _BOX.search(body)
    shown = f'class="{kind}" role="img" aria-label="{escape(label)}"'
    opening = f"<svg {shown} {box[1] if box else ''}>"
    return opening + body[body.index(">") + 1 :].strip()


def _variable(colour: str) -> str:
    return f"var(--{_ROLE_OF[colour]})" if colour in _ROLE_OF else colour


def _unique_ids(body: str, name: str) -> str:
    used = {match[1] or match[2] for match in _REFERENCE.finditer(body)}
    body = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    return re.sub(r'href="#', f'href="#{name}-', body)
