"""What drawings need wherever they are made: colours by role, and places for nodes.

Colours are for light and for dark pages; figures are drawn light and turned
afterwards, so every light colour is unique and can stand for its role in a drawing.
Nodes stand on a circle, or so that distance shows hops.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decentral.report.reader import Topology

# --- colours ----------------------------------------------------------------------


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
_ROLE_OF = {light: role for role, (light, _) in COLOURS.items()}


def light(role: str) -> str:
    """Return the light colour of a role as ``#rrggbb``."""
    return COLOURS[role][0]


def role_of(colour: str) -> str:
    """Return the role whose light colour this is, for others that of links."""
    return _ROLE_OF.get(colour, "link")


def css_variables(theme: int) -> str:
    """Return the roles as CSS custom properties, ``theme`` 0 for light and 1 for
    dark.
    """
    return " ".join(f"--{role}: {pair[theme]};" for role, pair in COLOURS.items())


# --- drawings made for a page -----------------------------------------------------

_HEX = re.compile(r'(?<=[ "])#[0-9a-f]{6}\b')
_ID = re.compile(r'\sid="([^"]*)"')
_PLOT = re.compile(r'\sid="plot-([a-z]+)-([\w-]+)(?:~[\d-]+)?"')
_TICK = re.compile(r'\sid="[xy]tick_\d+"')
_REFERENCE = re.compile(r'url\(#([^)]+)\)|href="#([^"]+)"')
_SVG = re.compile(r"<svg([^>]*)>(.*)</svg>", re.DOTALL)
_BOX = re.compile(r'viewBox="([^"]*)"')
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")


@dataclass(frozen=True)
class Drawing:
    """A drawing as a page holds it: SVG to be taken as it is, and what stands in
    its tag.

    ``plot`` and ``boxes`` are JSON: what can be explored, and where its axes lie.
    """

    body: str
    box: str
    label: str
    kind: str
    plot: str = ""
    boxes: str = ""


def drawing(document: str, name: str, label: str, kind: str = "") -> Drawing:
    """Return a matplotlib SVG as an element for an HTML page.

    Elements whose ids say what they are (``plot-series-KEY~...``) keep it as
    ``data-series="KEY"``.

    Args:
        document: The SVG document as written by matplotlib.
        name: Prefix of every id inside; unique on the page.
        label: What the drawing shows, for readers who cannot see it.
        kind: Class of the element.
    """
    found = _SVG.search(document)
    assert found is not None
    head, body = found.groups()
    body = re.sub(
        r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL
    )
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
    body = _TICK.sub(' data-tick=""', _PLOT.sub(r' data-\1="\2"', body))
    body = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    return re.sub(r'href="#', f'href="#{name}-', body)


# --- places of nodes --------------------------------------------------------------


Positions = NDArray[np.float64]  # [n, 2]

MOST_LINKS = 4000  # Drawn; of more, a sample.

_DENSE = 4  # Links per node beyond which hops say little and a circle reads better.
_LARGEST = 1100  # Nodes up to which all pairs of hops are affordable (about 2 s).


def positions(topology: Topology) -> Positions:
    """Return a point in the plane for every node, the same for the same topology."""
    n = topology.nodes
    if (
        n < 3
        or n > _LARGEST
        or len(topology.links) > _DENSE * n
        or _is_circulant(topology)
    ):
        return _circle(n)
    return _by_hops(_hops(topology))


def _circle(n: int) -> Positions:
    # Node 0 above, the others clockwise, as on a clock.
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / max(n, 1)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _is_circulant(topology: Topology) -> bool:
    """Tell whether every node has the same offsets to its neighbours, as in a ring."""
    n = topology.nodes
    ends = {(a, b) for a, b in topology.links} | {(b, a) for a, b in topology.links}
    offsets = Counter((b - a) % n for a, b in ends)
    # All offsets that occur do so at every node.
    return all(count == n for count in offsets.values())


def _hops(topology: Topology) -> Positions:
    """Return hops between all pairs, [n, n]; pairs without a path lie a little
    further apart.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    n, ends = topology.nodes, np.array(topology.links, dtype=np.int64).reshape(-1, 2).T
    linked = csr_array((np.ones(ends.shape[1]), tuple(ends)), shape=(n, n))
    hops = shortest_path(linked, "D", directed=False, unweighted=True)
    reached = np.isfinite(hops)
    # Parts without a path are drawn apart, but not at infinity.
    return np.where(reached, hops, hops[reached].max() + 2)


def _by_hops(hops: Positions, rounds: int = 60) -> Positions:
    """Minimise stress, sum (|x_i - x_j| - hops_ij)^2, by majorisation (de Leeuw,
    1977).
    """
    points = _classical_scaling(hops)
    n = len(hops)
    for _ in range(rounds if n > 256 else 4 * rounds):
        apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
        # Nodes at one point do not pull at each other: the direction is not known.
        ratio = np.divide(hops, apart, out=np.zeros_like(hops), where=apart > 1e-9)
        points = (ratio.sum(1, keepdims=True) * points - ratio @ points) / n
    return points


def _classical_scaling(hops: Positions) -> Positions:
    centred = hops**2 - (hops**2).mean(0)
    values, vectors = np.linalg.eigh(-(centred - centred.mean(1, keepdims=True)) / 2)
    points = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    # Equal points never part under majorisation: the least, repeatable disorder
    # separates them.
    return points + 1e-3 * np.random.default_rng(0).standard_normal(points.shape)
