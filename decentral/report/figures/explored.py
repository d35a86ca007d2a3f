"""What a page knows of a drawing besides its lines: which marks are a series, their
values, units and scales, so that a reader can point at them, zoom, and hide some.

A series is what has a label or, to be the same one in several figures, a gid; a
label that begins with ``_`` has a name on pages without standing in the drawing's
legend.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch

from decentral.report.drawing import role_of

#: Units, and names of places, by axis; values on a grid, by axes.
_UNITS: WeakKeyDictionary[Axis, str] = WeakKeyDictionary()
_NAMES: WeakKeyDictionary[Axis, Sequence[str]] = WeakKeyDictionary()
_GRIDS: WeakKeyDictionary[Axes, dict[str, Any]] = WeakKeyDictionary()
#: Values that a page holds of a grid: with more, it shows none.
_MOST_CELLS = 20_000
#: Labels that matplotlib gives to what has none.
_DEFAULT = re.compile(r"_child\d+|_nolegend_")


def set_unit(axis: Axis, unit: str) -> None:
    """Say in which unit the values along an axis are: that of a record, or
    ``step``.
    """
    _UNITS[axis] = unit


def set_names(axis: Axis, names: Sequence[str]) -> None:
    """Say what stands at 0, 1, 2, ... of an axis."""
    _NAMES[axis] = names


def set_grid(axes: Axes, x: Any, y: Any, values: Any, unit: str) -> None:
    """Say which values lie behind the colours of axes.

    Args:
        axes: The axes.
        x: Places along x.
        y: Places along y.
        values: A row of values per place along y.
        unit: Their unit.
    """
    if np.size(values) <= _MOST_CELLS:
        _GRIDS[axes] = {
            "x": _numbers(x),
            "y": _numbers(y),
            "z": [_numbers(row) for row in values],
            "unit": unit,
        }


def explored(figure: Figure) -> str:
    """Mark the series of a figure before it is drawn, and return what a page is to
    know of them as JSON; empty where there is nothing to point at.
    """
    keys: dict[str, str] = {}
    found = [_axes(axes, place, keys) for place, axes in enumerate(figure.axes)]
    if not any(one and (one["series"] or "grid" in one) for one in found):
        return ""
    return json.dumps(found, separators=(",", ":"))


def boxes(figure: Figure) -> str:
    """Return where the axes of a figure lie that was drawn, in units of its SVG,
    and the values at their ends: left, top, right, bottom, x0, x1, y0, y1 of each.
    """
    width, height = figure.get_size_inches() * 72
    found: list[list[float]] = []
    for axes in figure.axes:
        place = axes.get_position()
        edges = (place.x0 * width, (1 - place.y1) * height)
        ends = (place.x1 * width, (1 - place.y0) * height)
        found.append(_numbers([*edges, *ends, *axes.get_xlim(), *axes.get_ylim()], 9))
    return json.dumps(found, separators=(",", ":"))


def _axes(axes: Axes, place: int, keys: dict[str, str]) -> dict[str, Any] | None:
    """Mark one pair of axes; return what they show, None where they have no scales.

    Args:
        axes: The axes.
        place: Their number in the figure.
        keys: Keys of series by name, to which new ones are added.
    """
    if not axes.axison:
        return None
    series: list[dict[str, Any]] = []
    marks = [*axes.lines, *axes.collections, *axes.patches, *axes.texts]
    for number, mark in enumerate(marks):
        label, gid = str(mark.get_label()), mark.get_gid()
        named = bool(label) and not _DEFAULT.fullmatch(label)
        if gid is None and not named:
            mark.set_gid(f"plot-fixed-{place}~{number}")
            continue
        name = label.removeprefix("_")
        key = gid or keys.get(name, f"k{len(keys)}")
        mark.set_gid(f"plot-series-{key}~{place}-{number}")
        if named:
            keys[name] = key
            known = {"key": key, "name": name, "role": _role(mark)}
            series += [known | values for values in _values(mark)]
    _mark_legend(axes, keys)
    for axis, letter in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        axis.set_gid(f"plot-axis-{place}{letter}")
    scales = {"x": _scale(axes.xaxis), "y": _scale(axes.yaxis)}
    grid = {"grid": _GRIDS[axes]} if axes in _GRIDS else {}
    return {**scales, "series": series, "still": bool(axes.images), **grid}


def _mark_legend(axes: Axes, keys: dict[str, str]) -> None:
    """Let the entries of a legend say whose they are."""
    legend = axes.get_legend()
    if legend is None:
        return
    handles = [*legend.legend_handles, *legend.get_texts()]
    names = [text.get_text() for text in legend.get_texts()]
    for number, (handle, name) in enumerate(zip(handles, 2 * names, strict=True)):
        if handle is not None and name in keys:
            handle.set_gid(f"plot-legend-{keys[name]}~{number}")


def _scale(axis: Axis) -> dict[str, Any]:
    """Return the unit of an axis, how its values are spread, and names of places."""
    kind = axis.get_scale()
    names = _NAMES.get(axis)
    found: dict[str, Any] = {"unit": _UNITS.get(axis, ""), "scale": kind}
    if kind == "symlog":
        found["linear"] = float(axis.get_transform().linthresh)  # pyright: ignore[reportAttributeAccessIssue]
    return found | ({"names": list(names)} if names is not None else {})


def _role(mark: Any) -> str:
    """Return the role of the colour of a mark."""
    if isinstance(mark, Line2D):
        return role_of(to_hex(mark.get_color()))
    colours = np.atleast_2d(mark.get_facecolor())
    return role_of(to_hex(colours[0])) if len(colours) else "link"


def _values(mark: Any) -> Iterator[dict[str, Any]]:
    """Yield the values of a mark and what it looks like, where it has some."""
    if isinstance(mark, Line2D):
        x, y = (np.asarray(part, dtype=float) for part in mark.get_data())
        known = np.isfinite(x) & np.isfinite(y)
        kind = "points" if mark.get_linestyle() == "None" else "line"
        if known.any():
            yield {"kind": kind, "x": _numbers(x[known]), "y": _numbers(y[known])}
    elif isinstance(mark, StepPatch):
        values, edges, _ = mark.get_data()
        yield {"kind": "stairs", "x": _numbers(edges), "y": _numbers(values)}
    elif isinstance(mark, PolyCollection):
        yield from _band(mark)
    elif isinstance(mark, Rectangle):
        x, y = mark.get_x() + mark.get_width() / 2, mark.get_height()
        yield {"kind": "points", "x": _numbers([x]), "y": _numbers([y])}


def _band(mark: PolyCollection) -> Iterator[dict[str, Any]]:
    """Yield the lower and the upper edge of a band between two curves."""
    low: dict[float, float] = {}
    high: dict[float, float] = {}
    for path in mark.get_paths():
        for x, y in np.asarray(path.vertices, dtype=float).tolist():
            low[x], high[x] = min(y, low.get(x, y)), max(y, high.get(x, y))
    if low:
        ordered = sorted(low)
        edges = ([edge[x] for x in ordered] for edge in (low, high))
        lower, upper = (_numbers(edge) for edge in edges)
        yield {"kind": "band", "x": _numbers(ordered), "y": lower, "high": upper}


def _numbers(values: Any, digits: int = 6) -> list[Any]:
    """Return numbers with so many digits, whole ones without a point; what is none
    is None.
    """
    rounded = (float(f"{float(value):.{digits}g}") for value in values)
    return [
        None if not math.isfinite(one) else int(one) if one.is_integer() else one
        for one in rounded
    ]
