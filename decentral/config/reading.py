"""From layers of settings to one configuration: above the defaults, and what the
task and the algorithm recommend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isfunction
from math import isfinite
from typing import Any

from decentral.config.layers import as_mapping, merge_layers, read_file, refuse_unknown
from decentral.config.settings import (
    LISTS,
    NESTED,
    NUMBERS,
    PARTS,
    Config,
    PluginSpec,
    as_written,
    validate,
)
from decentral.errors import ConfigError
from decentral.limits import check_batch
from decentral.named_code import names_code
from decentral.registry import ConfiguredPlugin, find, read
from decentral.spec import Spec, parse_spec
from decentral.traits import AlgorithmTraits, BatchTraits, Recommending, traits_of
from decentral.trust import approved_files


def make_config(*layers: Mapping[str, Any]) -> Config:
    """Validate layers of settings on top of the defaults, the task's and the
    algorithm's.
    """
    parts = {kind: layer[kind] for layer in layers for kind in layer.keys() & PARTS}
    for layer in layers:
        for key, value in layer.items():
            if value is not None:
                refuse_unknown(key.partition(".")[0], value, parts)
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
