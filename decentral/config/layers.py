"""Settings as they are written, in a file, as KEY=VALUE, or in Python: layers, of
which the later ones win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NoReturn

from decentral.config.engine import ENGINE_SETTINGS, engine_above
from decentral.config.places import place_files
from decentral.config.settings import ALIASES, NUMBERS, PARTS, Config, PluginSpec
from decentral.errors import ConfigError, nearest
from decentral.registry import ConfiguredPlugin, find, names, read
from decentral.schedules.phases import METHODS
from decentral.spec import NOTHING, Spec, as_named, parse_spec, parse_value, scalar, spell
from decentral.yamltext import load_file


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration file; raises ConfigError naming the line of a YAML
    mistake.
    """
    loaded = load_file(path)
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"configuration {path} must be a mapping of settings, such as 'nodes: 16'."
        )
    named = resolve_aliases({str(key): value for key, value in loaded.items()})  # pyright: ignore
    return place_files(named, path)


def split_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Return what is written for each key; raises ConfigError for one that is given
    twice.

    >>> split_assignments(["nodes=8", "data.path=a=b"])
    {'nodes': '8', 'data.path': 'a=b'}
    """
    found: dict[str, str] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key:
            raise ConfigError(
                f"cannot read {text!r}; write settings as key=value, e.g. nodes=8."
            )
        if key in found:
            raise ConfigError(
                f"{key} is given twice, as {found[key]} and as {value.strip()}; keep one."
            )
        found[key] = value.strip()
    resolve_aliases(found)  # two names of one setting are refused, too
    return found


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` and ``part.setting=value`` from the command line.

    >>> parse_assignments(["nodes=8", "optimizer.momentum=0.5"])
    {'nodes': 8, 'optimizer.momentum': 0.5}
    """
    found: dict[str, Any] = {}
    for key, value in split_assignments(assignments).items():
        if key == "out" and value and value.lower() not in NOTHING:
            quoted = value.startswith(("'", '"'))
            # a path is data
            found[key] = parse_value(value, key) if quoted else value
            continue
        parsed = parse_value(value, key)
        # ``none`` is the name of a schedule, and the absence of anything else.
        found[key] = value if parsed is None and key in {*PARTS, *ALIASES} else parsed
    return found


def resolve_aliases(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace short names by those of the configuration.

    >>> resolve_aliases({"schedule.start": "80%", "lr": 0.1})
    {'communication.start': '80%', 'learning_rate.lr': 0.1}
    """
    names: dict[str, str] = {}
    for key in settings:
        head, dot, rest = key.partition(".")
        name = ALIASES.get(head, head) + dot + rest
        if name in names:
            refuse_both(names[name], settings[names[name]], key, settings[key])
        names[name] = key
    return {name: settings[key] for name, key in names.items()}


def refuse_both(one: str, first: Any, other: str, second: Any) -> NoReturn:
    """Raise ConfigError for two names of one setting in the same place."""
    before, after = (v if isinstance(v, str) else spell(v) for v in (first, second))
    raise ConfigError(
        f"{one} = {before} and {other} = {after} are the same setting; keep one."
    )


def merge_layers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of settings, later ones first in rank; ``part.setting`` reaches
    into a plug-in.

    A plug-in written with a name replaces the one below; a mapping without ``name``
    changes settings of the one below. Of an engine the settings below stay, unless
    it is ``local``.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        # Whole plug-ins first, whatever the order: a dotted key changes what its
        # layer chose.
        for key, value in sorted(layer.items(), key=lambda item: "." in item[0]):
            _put(merged, key, value)
    return merged


def _node(text: str) -> object:
    """Read the node in ``node_lr.3``: a number, a label, or a label in quotes that
    is a number.
    """
    if text.removeprefix("-").isdecimal():
        return int(text)
    quote = text[:1]
    quoted = quote in ("'", '"') and len(text) > 1 and text.endswith(quote)
    return text[1:-1].replace(quote * 2, quote) if quoted else text


def _put(merged: dict[str, Any], key: str, value: Any) -> None:
    part, _, setting = key.partition(".")
    value = fspath(value) if isinstance(value, PathLike) else as_named(key, value)
    if key in NUMBERS and isinstance(value, str):
        # in Python, a number may be text, as on the command line
        number = scalar(value, key)
        value = number if type(number) in (int, float) else value
    # Without a name it says how the plug-in below is set, and not which one it is.
    changes = isinstance(value, Mapping) and not {"name", "path"} & set(value)
    if setting:
        refuse_unknown(part)
        if part == "node_lr":
            merged[part] = {**(merged.get(part) or {}), _node(setting): value}
            return
        if part not in PARTS and part not in METHODS and part != "engine":
            raise ConfigError(
                f"{key}: {part!r} has no settings of its own; write {part}=value."
            )
        path, changes = setting.split("."), True
        if part in PARTS and len(path) > 1:
            below = as_mapping(part, merged.get(part, Config.model_fields[part].default))
            value = {
                path[0]: _put_into(
                    below.get(path[0]), path[1:], value, f"{part}.{path[0]}"
                )
            }
        else:
            value = {setting: value}
    if part == "engine":
        value = engine_above(merged.get(part), value)
    elif changes and part in PARTS:
        below = merged.get(part, Config.model_fields[part].default)
        value = {**as_mapping(part, below), **value}
    elif isinstance(value, Mapping) and part in METHODS and merged.get(part) is not None:
        below = merged[part]
        value = {
            **(below if isinstance(below, Mapping) else {METHODS[part].main: below}),
            **value,
        }
    merged[part] = value


def _put_into(below: Any, path: Sequence[str], value: Any, where: str) -> Any:
    """Return what a setting holds, a mapping or a plug-in, with one of its own
    changed.

    Args:
        below: What it holds so far.
        path: The names from there to what is changed.
        value: The value given.
        where: The setting, for messages.
    """
    if not path:
        return value
    if below is None or isinstance(below, Mapping):
        inside = dict(below or {})
    elif isinstance(below, str | Spec):
        spec = parse_spec(below, where)
        if spec.args:
            raise ConfigError(
                f"{where}: name the settings of {spec.name!r}, such as {spec.name}(key=value), "
                "before one of them is changed."
            )
        inside = {"name": spec.name, **spec.settings}
    else:
        raise ConfigError(
            f"{where} = {spell(below)} has no settings; write {where}=value."
        )
    first, rest = path[0], path[1:]
    return {
        **inside,
        first: _put_into(inside.get(first), rest, value, f"{where}.{first}"),
    }


def refuse_unknown(
    key: str, value: Any = ..., parts: Mapping[str, Any] | None = None
) -> None:
    """Raise ConfigError for what is no setting of a run, or of its engine, as
    ``key=value``.

    Args:
        key: The name of a setting, without what stands behind a dot.
        value: What is given for it, for the message.
        parts: What else is given: the setting may be one of a plug-in among it.
    """
    if key in Config.model_fields:
        return
    if key == "sweep":
        raise ConfigError(
            "this configuration describes a sweep; run it by `decentral sweep`."
        )
    written = "VALUE" if value is ... else spell(value)
    if key in ENGINE_SETTINGS:
        raise ConfigError(
            f"{key} stands under engine: write engine.{key}={written}, "
            f"or engine: {{{key}: {written}}} in YAML."
        )
    if "epoch" in key:
        amount = "N" if value is ... else value
        remedy = f" A run ends after epochs by `data`: write data='{amount} epochs'."
    elif home := _home(key, parts or {}):
        remedy = f" It is a setting of {home}: write {home}.{key}={written}."
    else:
        remedy = nearest(key, Config.model_fields)
    raise ConfigError(
        f"unknown setting {key!r}.{remedy} `decentral list settings` shows them all."
    )


def _home(key: str, parts: Mapping[str, Any]) -> str | None:
    """Return the kind of the plug-in that has such a setting, of those that a run
    would take.
    """
    for kind in PARTS:
        part = parts.get(kind, Config.model_fields[kind].default)
        # What is wrong with a plug-in is told when it is its turn; and whether code
        # in files and modules that are named may run is not decided here.
        with suppress(ConfigError):
            name = read(kind, part).name if isinstance(part, str | Mapping) else None
            if name in names(kind) and key in find(kind, name).accepts:
                return kind
    return None


def as_mapping(kind: str, value: PluginSpec) -> dict[str, Any]:
    """Return a plug-in as a mapping with ``name``, so that settings can be changed."""
    if isinstance(value, int | float) and kind in NUMBERS and not isinstance(value, bool):
        return {"name": "constant", NUMBERS[kind]: value}
    if callable(value) and not isinstance(value, ConfiguredPlugin):
        return {"name": value}
    spec = read(kind, value)
    names = list(find(kind, spec.name).settings) if spec.args else []
    by_place = dict(zip(names, spec.args, strict=False))
    return {"name": spec.name, **by_place, **spec.settings}
