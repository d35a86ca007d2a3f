"""Layers of settings made one configuration: defaults, the task's, a file's, then flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from decentral.config.reading import as_mapping, layered, read_file, refuse_unknown
from decentral.config.settings import NESTED, NUMBERS, PARTS, Config, Part
from decentral.errors import ConfigError, nearest, reason
from decentral.limits import check_batch
from decentral.registry import Bound, find, read
from decentral.spec import Spec, parse_spec
from decentral.traits import AlgorithmTraits, BatchTraits, Recommending, traits_of

#: Settings that are lists of plug-ins.
_LISTS = {"faults", "metrics", "track"}


def make_config(*layers: Mapping[str, Any]) -> Config:
    """Validate layers of settings on top of the defaults, the task's and the algorithm's."""
    for layer in layers:
        for key, value in layer.items():
            if value is not None:
                refuse_unknown(key.partition(".")[0], value)
    asked = layered(*layers)
    _check_plain(asked)
    _refuse_unused(asked)
    suited = [
        recommended(kind, asked.get(kind, Config.model_fields[kind].default))
        for kind in ("task", "algorithm")
    ]
    settings = _with_plan(layered(*suited, *layers), asked)
    owners = getattr(settings.get("task"), "nodes", None)
    if isinstance(owners, int) and "nodes" not in asked:
        settings["nodes"] = owners  # a task made in Python says who owns what
    if settings.get("data") is not None and "steps" not in asked:
        settings.pop("steps", None)  # the task's default: the data end the run
    for kind, setting in NUMBERS.items():
        value = settings.get(kind)
        if isinstance(value, int | float) and not isinstance(value, bool):
            settings[kind] = {"name": "constant", setting: value}
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise _refusal(error) from error
    # What a task recommends is no wish of the user's: it may give way where it cannot be.
    if "split" not in asked:
        config.model_fields_set.discard("split")
    return config


def _check_plain(asked: Mapping[str, Any]) -> None:
    """Refuse numbers and words that cannot be before anything heavy is loaded for plug-ins."""
    own = Config.model_fields.keys() - PARTS.keys() - NESTED.keys() - _LISTS
    try:
        Config.model_validate({key: asked[key] for key in own & asked.keys()})
    except ValidationError as error:
        raise _refusal(error) from error
    size = asked.get("batch")
    if isinstance(size, int | float) and not isinstance(size, bool):
        check_batch(int(size), "'constant', step 0")


def _refusal(error: ValidationError) -> ConfigError:
    """Say what is wrong with the first setting that pydantic refuses."""
    first = error.errors()[0]
    part, *inner = (str(place) for place in first["loc"][:2])
    if part == "node_lr":
        return ConfigError(
            f"node_lr = {first['input']!r}: {reason(error)} "
            "Write node_lr.3=0.5 or, in YAML, node_lr: {3: 0.5}."
        )
    if part not in NESTED:
        return ConfigError(f"{part} = {first['input']!r}: {reason(error)}")
    known = list(NESTED[part].model_fields)
    if first["type"] == "missing":
        return ConfigError(f"{part} needs the setting {inner[0]!r}; write {part}.{inner[0]}=value.")
    if first["type"] == "extra_forbidden":
        offer = f"{nearest(inner[0], known)} Settings: {', '.join(sorted(known))}."
        return ConfigError(f"{part} has no setting {inner[0]!r}.{offer}")
    if not inner and part == "engine":
        return ConfigError(f"engine: {reason(error)}")
    where = ".".join([part, *(name for name in inner if (part, name) != ("engine", "name"))])
    return ConfigError(f"{where} = {first['input']!r}: {reason(error)}")


def recommended(kind: str, part: Part) -> Mapping[str, Any]:
    """Return the settings of a run that a task or an algorithm recommends."""
    if isinstance(part, str | Mapping | Spec):
        found = find(kind, parse_spec(part, kind).name)
        return traits_of(found, Recommending).defaults
    return traits_of(part, Recommending).defaults if isinstance(part, Bound) else {}


def _with_plan(settings: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``plan(FILE)`` by the plan in that configuration, and its budget unless one is given.

    So a run folder holds the plan itself, and other hosts need no file.
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
    if "batch" not in planned:
        raise ConfigError(f"batch: {given} holds no plan; `decentral plan batch --out` writes one.")
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
                f"algorithm {name!r} takes no {key}: who talks and when is fixed by the algorithm. "
                f"Leave {key} out, or use algorithm dsgd."
            )
