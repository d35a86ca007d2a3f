"""From settings as they are written to one configuration.

They stand in a file, on the command line, in Python: layers, of which the later
ones win, above the defaults and what the task recommends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isfunction
from math import isfinite
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NoReturn

from decentral.config.engine import ENGINE_SETTINGS, engine_above
from decentral.config.places import place_files
from decentral.config.settings import (
    ALIASES,
    LISTS,
    NESTED,
    NUMBERS,
    PARTS,
    Config,
    PluginSpec,
    as_written,
    validate,
)
from decentral.errors import ConfigError, nearest
from decentral.limits import check_batch
from decentral.named_code import names_code
from decentral.registry import ConfiguredPlugin, find, read
from decentral.schedules.phases import METHODS
from decentral.spec import NOTHING, Spec, as_named, parse_spec, parse_value, scalar, spell
from decentral.traits import AlgorithmTraits, BatchTraits, Recommending, traits_of
from decentral.trust import approved_files
from decentral.yamltext import load_file

# --- as they are written ----------------------------------------------------------


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


def refuse_unknown(key: str, value: Any = ...) -> None:
    """Raise ConfigError for what is no setting of a run, or of its engine, as
    ``key=value``.
    """
    if key == "sweep":
        raise ConfigError(
            "this configuration describes a sweep; run it by `decentral sweep`."
        )
    if key in ENGINE_SETTINGS:
        written = "VALUE" if value is ... else spell(value)
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


# --- one configuration ------------------------------------------------------------


def make_config(*layers: Mapping[str, Any]) -> Config:
    """Validate layers of settings on top of the defaults, the task's and the
    algorithm's.
    """
    for layer in layers:
        for key, value in layer.items():
            if value is not None:
                refuse_unknown(key.partition(".")[0], value)
    approved = approved_files(layers)
    layers = tuple(map(as_written, layers))
    # What users say, without defaults: recommendations must not look like wishes.
    asked = merge_layers(*layers)
    _check_plain(asked)
    _refuse_unused(asked)
    suited = [
        recommendations(kind, asked.get(kind, Config.model_fields[kind].default))
        for kind in ("task", "algorithm")
    ]
    # The task's and the algorithm's recommendations lie below everything that was
    # said.
    settings = _with_plan(merge_layers(*_without_rate(suited, asked), *layers), asked)
    owners = getattr(settings.get("task"), "nodes", None)
    if isinstance(owners, int) and "nodes" not in asked:
        settings["nodes"] = owners  # a task made in Python says who owns what
    if "topology" in asked:
        _follow_graph(settings, asked)
    if settings.get("data") is not None and "steps" not in asked:
        settings.pop("steps", None)  # the task's default: the data end the run
    for kind, setting in NUMBERS.items():
        value = settings.get(kind)
        if isinstance(value, int | float) and not isinstance(value, bool):
            settings[kind] = {"name": "constant", setting: value}
    config = validate(settings).with_approved(approved)
    # What a task recommends is no wish of the user's: it may give way where it
    # cannot be.
    if "split" not in asked:
        config.model_fields_set.discard("split")
    return config


def _without_rate(
    suited: Sequence[Mapping[str, Any]], asked: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Return what is recommended, without a rate where an optimizer from Python has
    its own: it is a function, or a partial that says one.

    Args:
        suited: Recommendations of the task and the algorithm.
        asked: What the user said.
    """
    optimizer = asked.get("optimizer")
    said = "lr" in getattr(optimizer, "keywords", {}) or isfunction(optimizer)
    return [
        {key: {k: v for k, v in value.items() if k != "lr"}
         if said and key == "learning_rate" and isinstance(value, Mapping) else value
         for key, value in layer.items()}
        for layer in suited
    ]  # fmt: skip


def _follow_graph(settings: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """Take a graph that is held in Python, and as many nodes as a graph has, unless
    told.

    Args:
        settings: All settings; changed.
        asked: What the user said.
    """
    written = settings["topology"]
    if isinstance(written, str) and not {":", "."} & set(written):
        return  # a name, for which networkx need not be loaded
    from decentral.topology.held import as_plugin, count_held_nodes

    settings["topology"] = topology = as_plugin(written)
    if "nodes" not in asked and (nodes := count_held_nodes(topology)) is not None:
        settings["nodes"] = nodes


def _check_plain(asked: Mapping[str, Any]) -> None:
    """Refuse numbers and words that cannot be before anything heavy is loaded for
    plug-ins.
    """
    own = Config.model_fields.keys() - PARTS.keys() - NESTED.keys() - LISTS.keys()
    validate({key: asked[key] for key in own & asked.keys()})
    size = asked.get("batch")
    if isinstance(size, int | float) and not isinstance(size, bool) and isfinite(size):
        check_batch(int(size), "'constant', step 0")


def recommendations(kind: str, part: PluginSpec) -> Mapping[str, Any]:
    """Return the settings of a run that a task or an algorithm recommends."""
    found = part
    if isinstance(part, str | Mapping | Spec):
        found = find(kind, parse_spec(part, kind).name)
    elif not isinstance(part, ConfiguredPlugin):
        return {}
    return traits_of(found, Recommending).defaults


def _with_plan(settings: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``plan(FILE)`` by the plan in that configuration, and its budget
    unless one is given.

    So a run folder holds the plan itself, and other hosts need no file. It is data.
    """
    batch = settings.get("batch")
    if not isinstance(batch, str | Mapping | Spec):
        return settings
    spec = read("batch", batch)
    given: Any = spec.args[0] if spec.args else None
    if not isinstance(given, str):
        return settings
    if not traits_of(find("batch", spec.name), BatchTraits).from_file:
        return settings
    planned = read_file(given)
    if "batch" not in planned or names_code(planned["batch"]):
        raise ConfigError(
            f"batch: {given} holds no plan; `decentral plan batch --out` writes one."
        )
    data = asked.get("data", None if "steps" in asked else planned.get("data"))
    inside = {**as_mapping("batch", planned["batch"]), **spec.settings}
    return {**settings, "batch": inside, "data": data}


def _refuse_unused(asked: Mapping[str, Any]) -> None:
    algorithm = asked.get("algorithm", "dsgd")
    if not isinstance(algorithm, str | Mapping | Spec):
        return
    name = parse_spec(algorithm, "algorithm").name
    if traits_of(find("algorithm", name), AlgorithmTraits).communicates == "rounds":
        return
    for key in ("topology", "communication", "weights"):
        if asked.get(key) is not None:
            raise ConfigError(
                f"algorithm {name!r} takes no {key}: who communicates, and when, is fixed by "
                "the algorithm. "
                f"Leave {key} out, or use algorithm dsgd."
            )
