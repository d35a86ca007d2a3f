"""Which points a sweep has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from decentral.config import (
    LISTS,
    PARTS,
    Config,
    make_config,
    parse_assignments,
    read_settings,
    resolve_aliases,
    split_assignments,
)
from decentral.errors import ConfigError
from decentral.limits import POINTS
from decentral.plugins import plain
from decentral.registry import PYTHON, ConfiguredPlugin, build
from decentral.report.facts import plugin_text
from decentral.run.digests import WHEREABOUTS, named_files
from decentral.spec import Spec
from decentral.sweeps.objects import fingerprint
from decentral.trust import Given, Trust
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
    #: The same as given, where that is a number or a text; else the label.
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

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
    path: str | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
    trust: Given | Trust = False,
) -> Sweep:
    """Read a sweep from a file, whose ``sweep`` holds axes, and from ``key=a,b,c``.

    ``flags`` are settings that are the same everywhere.

    Args:
        path: A configuration with the key ``sweep``; none: of axes only.
        assignments: Texts such as ``seed=0,1``.
        flags: Settings that are the same everywhere.
        trust: Digests of code that the file may name.
    """
    allowed = Trust.of(trust, assignments, flags)
    settings = read_settings(path, "sweep", trust=allowed) if path else {}
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


def make_sweep(
    settings: Mapping[str, Any], fixed: Mapping[str, Any], axes: Mapping[str, Any]
) -> Sweep:
    """Return the sweep over values and Python objects.

    Args:
        settings: Those of a file.
        fixed: Settings that are the same everywhere, above those.
        axes: Values by setting: a list, a mapping of labels to values, text as on
            the command line; of ``seed`` also how many.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, values in axes.items():
        several = values
        if key == "seed" and _is_count(values):
            _check_points(values, f"seed = {values}")
            several = range(values)
        tolist = getattr(several, "tolist", None)  # of numpy, torch, pandas
        found[key] = _read_axis(key, several if tolist is None else tolist())
    if not found:
        raise ConfigError(
            "this sweep has one point; give a setting several values, as in "
            'decentral.sweep({"seed": 3}), or use decentral.launch.'
        )
    given = resolve_aliases({k: v for k, v in fixed.items() if v is not None})
    for key in resolve_aliases(found):
        if key in given:
            raise ConfigError(f"{key} is an axis of the sweep and a keyword; keep one.")
    return _make_points(settings, given, found)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _make_points(
    settings: Mapping[str, Any],
    fixed: Mapping[str, Any],
    axes: Mapping[str, Mapping[str, Any]],
) -> Sweep:
    found: dict[str, Point] = {}
    _check_points(prod(map(len, axes.values())), " × ".join(axes))
    combinations = list(product(*(values.items() for values in axes.values())))
    for chosen in combinations:
        values = {key: value for key, (_, value) in zip(axes, chosen, strict=True)}
        config = make_config(settings, fixed, resolve_aliases(values))
        labels = {key: label for key, (label, _) in zip(axes, chosen, strict=True)}
        shown = {
            key: value if isinstance(value, int | float | str) else labels[key]
            for key, value in values.items()
        }
        point = Point(config, labels, digest(config), shown)
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
    """Write a setting with all defaults, objects by digests; ``auto`` is no
    plug-in.
    """
    if key in LISTS:
        return [_spell_plugin(one) for one in value]
    if key not in PARTS or value is None or (isinstance(value, str) and value == "auto"):
        return plain(value)
    # A function that builds a model may take nothing, which no plug-in does.
    function = callable(value) and key != "model"
    written = function or isinstance(value, str | int | float | Mapping | Spec)
    return _spell_plugin(build(PARTS[key], value) if written else value)


def _spell_plugin(value: Any) -> Any:
    """Write a part of a run; one that no file holds, by what it computes."""
    if isinstance(value, ConfiguredPlugin):
        written = value.spec()
        return written if value.reloadable else {**written, PYTHON: fingerprint(value)}
    return value if isinstance(value, str) else {PYTHON: fingerprint(value)}


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
        return _label(list(values))
    raise ConfigError(f"sweep: {key} needs a list of values, such as '{key}: [...]'.")


def _label(values: Sequence[Any]) -> dict[str, Any]:
    """Return values by their labels: objects by their names, numbered where these
    are alike.
    """
    found: dict[str, Any] = {}
    for value in values:
        plainly = value is None or isinstance(value, str | int | float | Mapping | list)
        name = plugin_text(value) if plainly else _name_of(value)
        label, number = name, 2
        while label in found and not plainly:
            label, number = f"{name} {number}", number + 1
        found[label] = value
    return found


def _name_of(value: Any) -> str:
    """Return what an object is called: a function, a graph with a name, its class.

    >>> _name_of(len), _name_of({1, 2})
    ('len', 'set')
    """
    function = getattr(value, "func", value)  # of a partial
    for name in (getattr(value, "name", ""), getattr(function, "__name__", "")):
        if isinstance(name, str) and name and name != "<lambda>":
            return name
    return "lambda" if callable(value) else type(value).__name__


def _check_points(count: int, what: str) -> None:
    """Raise ConfigError for more runs than anybody waits for."""
    if count > POINTS:
        raise ConfigError(
            f"sweep: {what} are {count:,} runs; the most is {POINTS:,} in one sweep."
        )


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
        _check_points(int(high) - int(low) + 1, text.strip())
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
