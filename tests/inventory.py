"""What a run folder holds, as one tree of names and numbers without moments and durations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from photos import digits12
from safetensors import safe_open

from decentral.report import figures
from decentral.report.reader import RunData, read_run

FOLDER = Path(__file__).parent / "golden"
#: Depends on the clock, on what else is installed or on where the run is: only its type is kept.
VOLATILE = re.compile(
    r"time|time/(?!simulated)\w+|elapsed_s|offsets|stamps|sizes|digests|settings|files|described"
    r"|sha256|run|config|versions|hosts?|address"
)

Tree = Any


def settled(value: Tree, key: str = "") -> Tree:
    """Return a tree with 12 digits of every number, and keys or types where one is volatile."""
    if VOLATILE.fullmatch(key):
        return sorted(value) if isinstance(value, dict) else type(value).__name__
    if isinstance(value, dict):
        return {k: settled(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [settled(v) for v in value]
    return digits12(value) if isinstance(value, float) else value


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _rows(file: Path) -> dict[str, Tree]:
    """Return the keys of every kind of row, and the rows of evaluations in full."""
    rows = _lines(file)
    kinds = dict.fromkeys(tuple(row) for row in rows)
    evaluated = [settled(row) for row in rows if "loss/merged" in row]
    return {"steps": [row["step"] for row in rows], "keys": list(map(list, kinds)),
            "evaluated": evaluated}  # fmt: skip


def _tensors(file: Path) -> Tree:
    """Return what is in a file of tensors; numbers are those of the trajectories."""
    with safe_open(file, "pt") as opened:
        names = opened.keys()
        found = {name: opened.get_slice(name) for name in sorted(names)}
        return {
            "metadata": sorted(opened.metadata() or {}),
            **{name: [one.get_dtype(), one.get_shape()] for name, one in found.items()},
        }


def _page(file: Path) -> Tree:
    """Return the skeleton of a report: its headings, and how many drawings and tables it has."""
    text = file.read_text(encoding="utf-8")
    words = {
        tag: [
            # However a page spells a quotation mark, here it is spelt in one way.
            escape(unescape(re.sub("<[^>]*>", "", part).replace("\n", "").strip()))
            for part in re.findall(rf"<{tag}\b.*?</{tag}>", text, re.S)
        ]
        for tag in ("h1", "h2", "h3", "figcaption")
    }
    return {**words, "drawings": text.count("<svg"), "tables": text.count("<table")}


def _axes(axes: Any) -> Tree:
    """Return what is written and drawn in one pair of axes."""

    def total(numbers: Any) -> float:
        found = np.asarray(numbers, dtype=float).ravel()
        return digits12(float(found[np.isfinite(found)].sum()))

    drawn = [
        {"label": line.get_label(), "points": len(line.get_xdata()),
         "sums": [total(line.get_xdata()), total(line.get_ydata())]}
        for line in axes.get_lines()
    ]  # fmt: skip
    return {
        "title": axes.get_title(loc="left") or axes.get_title(), "x": axes.get_xlabel(),
        "y": axes.get_ylabel(), "scales": [axes.get_xscale(), axes.get_yscale()], "lines": drawn,
        "patches": len(axes.patches), "collections": len(axes.collections),
        "images": [list(image.get_array().shape) for image in axes.images],
        "texts": [text.get_text() for text in axes.texts],
    }  # fmt: skip


def _figures(run: RunData) -> Iterator[tuple[str, Any]]:
    for draw in (
        figures.learning, figures.communication, figures.bytes_against_metric,
        figures.seconds_against_metric, figures.overview, figures.phases,
    ):  # fmt: skip
        yield draw.__name__, draw(run)
    for chosen in figures.panels_of(run):
        yield f"panel {chosen.title}", figures.panel(run, chosen)
    yield "network", figures.network(run.topology) if run.topology else None
    yield "shards", figures.shards(run.shards) if run.shards else None
    yield "compared_learning", figures.draw_learning([run, run])
    yield "compared_cost", figures.draw_cost([run, run])


READERS = {
    ".yaml": lambda file: settled(yaml.safe_load(file.read_text(encoding="utf-8"))),
    ".json": lambda file: settled(json.loads(file.read_text(encoding="utf-8"))),
    ".safetensors": _tensors,
    ".html": _page,
}


def inventory(folder: Path) -> dict[str, Tree]:
    """Return what every file of a run folder holds, and what is drawn of it."""
    found: dict[str, Tree] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if name == "metrics.jsonl":
            found[name] = _rows(file)
        elif name == "events.jsonl":
            found[name] = [settled(event) for event in _lines(file)]
        elif name == "env.json":  # of this machine
            found[name] = list(json.loads(file.read_text(encoding="utf-8")))
        else:
            found[name] = READERS.get(file.suffix, lambda file: None)(file)
    run = read_run(folder)
    drawn = dict(_figures(run))
    shown = {
        name: one and [_axes(axes) for axes in one.axes] for name, one in drawn.items()
    }
    return {"files": found, "figures": shown}


def agree(now: Tree, then: Tree, place: str = "") -> None:
    """Compare two trees: names and their order exactly, numbers to 1e-9."""
    if isinstance(then, dict) and isinstance(now, dict):
        assert list(now) == list(then), place
        for key, value in then.items():
            agree(now[key], value, f"{place}/{key}")
    elif isinstance(then, list) and isinstance(now, list):
        assert len(now) == len(then), place
        for index, (one, other) in enumerate(zip(now, then, strict=True)):
            agree(one, other, f"{place}/{index}")
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-9, abs=1e-9), place
    else:
        assert now == then, place


def as_it_was(folder: Path, engine: str, regenerate: bool) -> None:
    """Compare a run folder with its golden inventory, or write that."""
    file, found = FOLDER / f"folder-{engine}.json", inventory(folder)
    if regenerate:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    agree(json.loads(json.dumps(found)), json.loads(file.read_text(encoding="utf-8")))
