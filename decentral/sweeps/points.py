"""Which points a sweep has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from decentral.config import (
    PARTS,
    Config,
    make_config,
    parse_assignments,
    read_settings,
    resolve_aliases,
    split_assignments,
)
from decentral.errors import ConfigError
from decentral.plugins import plain
from decentral.registry import build
from decentral.report.facts import plugin_text
from decentral.run.digests import WHEREABOUTS, named_files
from decentral.userfile import opened_files, place_of

#: Settings that change nothing about the result of a run.
_WITHOUT_EFFECT = {*WHEREABOUTS, "out", "keep_checkpoints", "checkpoint_every"}
_NUMBER = r"([-+]?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_RANGE = re.compile(rf"\s*{_NUMBER}\.\.{_NUMBER}\s*")
_DIGEST = 10


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its configuration, and its value on every axis, in words."""

    config: Config
    labels: Mapping[str, str]
    digest: str

    def folder(self, parent: Path) -> Path:
        """Return its run folder: the one that holds the same point, whatever it was
        called.
        """
        words = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(self.labels.values())).strip("-")
        new = parent / f"{words[:40].rstrip('-')}-{self.digest}"
        return next(parent.glob(f"*-{self.digest}"), new)

    def finished(self, parent: Path) -> bool:
        """Whether it was run to its end before."""
        return (self.folder(parent) / "summary.json").exists()


@dataclass(frozen=True)
class Sweep:
    """Points in the order of their axes, the last axis fastest; equal points stand
    once.
    """

    axes: tuple[str, ...]
    points: tuple[Point, ...]
    repeated: int  # points left out because they are the same as another


def read_sweep(
    path: str | None, assignments: Sequence[str], flags: Mapping[str, Any]
) -> Sweep:
    """Read a sweep from a file, whose ``sweep`` holds axes, and from ``key=a,b,c``.

    ``flags`` are settings that are the same everywhere.

    Args:
        path: A configuration with the key ``sweep``; none: of axes only.
        assignments: Texts such as ``seed=0,1``.
        flags: Settings that are the same everywhere.
    """
    settings = read_settings(path, "sweep") if path else {}
    axes = {
        key: _read_axis(key, values) for key, values in _axes(settings.pop("sweep", {}))
    }
    fixed: dict[str, Any] = dict(flags)
    for key, written in split_assignments(assignments).items():
        values = {piece: _one(key, piece) for piece in _pieces(written)}
        if len(values) > 1:
            axes[key] = values
        else:
            axes.pop(key, None)
            fixed |= parse_assignments([f"{key}={next(iter(values), '')}"])
    if not axes:
        raise ConfigError(
            "this sweep has one point; give a setting several values, as in seed=0,1,2, or use "
            "`decentral launch`."
        )
    return _make_points(settings, resolve_aliases(fixed), axes)


def _make_points(
    settings: Mapping[str, Any],
    fixed: Mapping[str, Any],
    axes: Mapping[str, Mapping[str, Any]],
) -> Sweep:
    found: dict[str, Point] = {}
    combinations = list(product(*(values.items() for values in axes.values())))
    for chosen in combinations:
        values = {key: value for key, (_, value) in zip(axes, chosen, strict=True)}
        config = make_config(settings, fixed, resolve_aliases(values))
        labels = {key: label for key, (label, _) in zip(axes, chosen, strict=True)}
        point = Point(config, labels, digest(config))
        # By what it computes: two spellings of the same setting are one point.
        found.setdefault(point.digest, point)
    return Sweep(tuple(axes), tuple(found.values()), len(combinations) - len(found))


def digest(config: Config) -> str:
    """Return a digest of all settings that matter, and of the files that they name
    or import.

    >>> late = digest(make_config({"communication": "late"}))
    >>> late == digest(
    ...     make_config({"communication": "late(start=0.9)", "engine": "local"})
    ... )
    True
    """
    settings = {
        key: _spell(key, value) for key, value in config if key not in _WITHOUT_EFFECT
    }
    # of the engine, the one setting that changes results
    settings["wire"] = config.engine.wire
    text = json.dumps(settings, sort_keys=True)
    found = {
        path: data
        for path, data in opened_files().items()
        if json.dumps(path)[1:-1] in text
    }
    found |= {path: place_of(path).read_bytes() for path in named_files(settings)}
    files = [found[path] for path in sorted(found)]
    return hashlib.sha256(b"\0".join([text.encode(), *files])).hexdigest()[:_DIGEST]


def _spell(key: str, value: Any) -> Any:
    """Write a setting with all defaults; ``auto`` is no plug-in."""
    if key in PARTS and value not in (None, "auto"):
        return build(PARTS[key], value).spec()
    return plain(value)


# --- reading axes -----------------------------------------------------------------


def _axes(axes: Any) -> list[tuple[str, Any]]:
    if not isinstance(axes, Mapping):
        raise ConfigError(
            "sweep: give settings and their values, such as 'seed: [0, 1, 2]'."
        )
    return [(str(key), values) for key, values in axes.items()]


def _read_axis(key: str, values: Any) -> dict[str, Any]:
    """Read an axis of a file: a list, a mapping of labels to values, or text as on
    the line.
    """
    if isinstance(values, Mapping):
        return {str(label): value for label, value in values.items()}
    if isinstance(values, str):
        return {piece: _one(key, piece) for piece in _pieces(values)}
    if isinstance(values, Sequence) and values:
        return {plugin_text(value): value for value in values}
    raise ConfigError(f"sweep: {key} needs a list of values, such as '{key}: [...]'.")


def _one(key: str, piece: str) -> Any:
    return next(iter(parse_assignments([f"{key}={piece}"]).values()))


def _pieces(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets and quotes; ``0..3`` is
    four values.

    >>> _pieces("late(start=80%, intensity=0.1),none"), _pieces("0..2")
    (['late(start=80%, intensity=0.1)', 'none'], ['0', '1', '2'])
    """
    if whole := _RANGE.fullmatch(text):
        low, high = float(whole[1]), float(whole[2])
        if not (low.is_integer() and high.is_integer() and low <= high):
            raise ConfigError(
                f"sweep: {text.strip()} is no range: it counts whole numbers upwards, as in 0..3; "
                "list other values, as in 1e-3,1e-2."
            )
        return [str(number) for number in range(int(low), int(high) + 1)]
    pieces, depth, quote = [""], 0, ""
    for char in text:
        quote = "" if char == quote else char if not quote and char in "'\"" else quote
        depth += 0 if quote else (char in "([{") - (char in ")]}")
        if char == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += char
    return [piece.strip() for piece in pieces]
