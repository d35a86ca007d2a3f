"""Settings as they are written: in a file, on the command line, in Python; layer on layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decentral.config.engine import ENGINE_SETTINGS, engine_above
from decentral.config.settings import ALIASES, NUMBERS, PARTS, Config, Part
from decentral.errors import ConfigError, nearest
from decentral.registry import find, read
from decentral.schedules.methods import METHODS
from decentral.spec import parse_value, scalar, spelled
from decentral.yamltext import line_of, load_file


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration file; raises ConfigError naming the line of a YAML mistake."""
    loaded = load_file(path)
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"configuration {path} must be a mapping of settings, such as 'nodes: 16'."
        )
    return by_name({str(key): value for key, value in loaded.items()})  # pyright: ignore


def read_settings(path: str | Path, *others: str) -> dict[str, Any]:
    """Read a file of settings that exist, and of ``others``; raises ConfigError naming the line."""
    settings = read_file(path)
    for key, value in settings.items():
        part = key.partition(".")[0]
        if part in others:
            continue
        try:
            refuse_unknown(part, value)
        except ConfigError as error:
            where = f"configuration {path}, line {line_of(path, key)}"
            raise ConfigError(f"{where}: {error}") from error
        if value == "none" and key not in PARTS and Config.model_fields[part].default is None:
            settings[key] = None  # as on the command line
    return settings


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` and ``part.setting=value`` from the command line.

    >>> parse_assignments(["nodes=8", "optimizer.momentum=0.5"])
    {'nodes': 8, 'optimizer.momentum': 0.5}
    """
    found: dict[str, Any] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"cannot read {text!r}; write settings as key=value, e.g. nodes=8.")
        key = key.strip()
        if key == "out" and value.strip() and scalar(value) is not None:
            quoted = value.lstrip().startswith(("'", '"'))
            found[key] = parse_value(value, key) if quoted else value.strip()  # a path is data
            continue
        parsed = parse_value(value, key)
        # ``none`` is the name of a schedule, and the absence of anything else.
        found[key] = value.strip() if parsed is None and key in {*PARTS, *ALIASES} else parsed
    return found


def by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace short names by those of the configuration.

    >>> by_name({"schedule.start": "80%", "lr": 0.1})
    {'communication.start': '80%', 'learning_rate.lr': 0.1}
    """
    names: dict[str, str] = {}
    for key in settings:
        head, dot, rest = key.partition(".")
        name = ALIASES.get(head, head) + dot + rest
        if name in names:
            raise ConfigError(f"{names[name]} and {key} are the same setting; keep one.")
        names[name] = key
    return {name: settings[key] for name, key in names.items()}


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of settings, later ones first in rank; ``part.setting`` reaches into a plug-in.

    A plug-in written with a name replaces the one below; a mapping without ``name`` changes
    settings of the one below. Of an engine the settings below stay, unless it is ``local``.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in sorted(layer.items(), key=lambda item: "." in item[0]):
            _put(merged, key, value)
    return merged


def _node(text: str) -> object:
    """Read the node in ``node_lr.3``: a number, a label, or a label in quotes that is a number."""
    if text.removeprefix("-").isdecimal():
        return int(text)
    quote = text[:1]
    quoted = quote in ("'", '"') and len(text) > 1 and text.endswith(quote)
    return text[1:-1].replace(quote * 2, quote) if quoted else text


def _put(merged: dict[str, Any], key: str, value: Any) -> None:
    part, _, setting = key.partition(".")
    if key in NUMBERS and isinstance(value, str):
        number = scalar(value)  # in Python, a number may be text, as on the command line
        value = number if type(number) in (int, float) else value
    changes = isinstance(value, Mapping) and not {"name", "path"} & set(value)
    if setting:
        refuse_unknown(part)
        if part == "node_lr":
            merged[part] = {**(merged.get(part) or {}), _node(setting): value}
            return
        if part not in PARTS and part not in METHODS and part != "engine":
            raise ConfigError(f"{key}: {part!r} has no settings of its own; write {part}=value.")
        value, changes = {setting: value}, True
    if part == "engine":
        value = engine_above(merged.get(part), value)
    elif changes and part in PARTS:
        below = merged.get(part, Config.model_fields[part].default)
        value = {**as_mapping(part, below), **value}
    elif isinstance(value, Mapping) and part in METHODS and merged.get(part) is not None:
        below = merged[part]
        value = {**(below if isinstance(below, Mapping) else {METHODS[part].main: below}), **value}
    merged[part] = value


def refuse_unknown(key: str, value: Any = ...) -> None:
    """Raise ConfigError for what is no setting of a run, or of its engine, as ``key=value``."""
    if key == "sweep":
        raise ConfigError("this configuration describes a sweep; run it by `decentral sweep`.")
    if key in ENGINE_SETTINGS:
        written = "VALUE" if value is ... else spelled(value)
        raise ConfigError(
            f"{key} stands under engine: write engine.{key}={written}, "
            f"or engine: {{{key}: {written}}} in YAML."
        )
    if key not in Config.model_fields:
        known = list(Config.model_fields)
        raise ConfigError(
            f"unknown setting {key!r}.{nearest(key, known)} "
            "`decentral list settings` shows them all."
        )


def as_mapping(kind: str, value: Part) -> dict[str, Any]:
    """Return a plug-in as a mapping with ``name``, so that settings can be changed."""
    if isinstance(value, int | float) and kind in NUMBERS and not isinstance(value, bool):
        return {"name": "constant", NUMBERS[kind]: value}
    spec = read(kind, value)
    names = list(find(kind, spec.name).settings) if spec.args else []
    return {"name": spec.name, **dict(zip(names, spec.args, strict=False)), **spec.settings}
