"""Settings that are no plug-ins, against what they may be: all that is wrong, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from decentral.config.settings import NESTED, PARTS, Config
from decentral.errors import ConfigError, complaint, nearest
from decentral.signature import truth_as_number
from decentral.spec import NOTHING, scalar, spelled


def as_written(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, texts that stand for numbers or for nothing as what they are."""
    return {key: _as_written(key, value) for key, value in layer.items()}


def _as_written(key: str, value: Any) -> Any:
    """Return a text that stands for a number, or for nothing, as what it is."""
    field = Config.model_fields.get(key)
    if not isinstance(value, str) or field is None or key in PARTS or value == field.default:
        return value
    nothing = value.lower() in NOTHING and field.default is None
    annotation: Any = field.annotation
    if nothing or annotation in (str, str | None):
        return None if nothing else value
    found = scalar(value, key)
    return found if type(found) in (int, float) else value


def validate(settings: Mapping[str, Any]) -> Config:
    """Return a configuration, every other setting by default; raises ConfigError."""
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_refusals(error)[0][1]) from error
    for _, text in _truths(settings, config):
        raise ConfigError(text)
    return config


def plain_faults(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with single settings that are no plug-ins: the setting, what is said."""
    given = as_written(settings)
    found: list[tuple[str, str]] = []
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        found = _refusals(error)
        wrong = {key.partition(".")[0] for key, _ in found}
        given = {key: value for key, value in given.items() if key not in wrong}
        config = Config.model_validate(given)
    return found + _truths(given, config)


def _truths(settings: Mapping[str, Any], config: Config) -> list[tuple[str, str]]:
    """Return settings that are true or false where a number is meant."""
    found = {key: truth_as_number(value, getattr(config, key)) for key, value in settings.items()}
    return [
        (key, f"{key} = {spelled(truth)}: it must be a number.")
        for key, truth in found.items()
        if truth is not None
    ]


def _refusals(error: ValidationError) -> list[tuple[str, str]]:
    """Return each setting that pydantic refuses, once, and what is said of it."""
    found: dict[str, str] = {}
    for one in error.errors():
        setting, text = _told(dict(one))
        found.setdefault(setting, text)
    return list(found.items())


def _told(first: Mapping[str, Any]) -> tuple[str, str]:
    part, *inner = (str(place) for place in first["loc"][:2])
    given, reason = first["input"], complaint(first)
    if part == "node_lr":
        remedy = "Write node_lr.3=0.5 or, in YAML, node_lr: {3: 0.5}."
        return part, f"node_lr = {given!r}: {reason} {remedy}"
    if part not in NESTED:
        return part, f"{part} = {given!r}: {reason}"
    known = list(NESTED[part].model_fields)
    if first["type"] == "missing":
        return part, f"{part} needs the setting {inner[0]!r}; write {part}.{inner[0]}=value."
    if first["type"] == "extra_forbidden":
        offer = f"{nearest(inner[0], known)} Settings: {', '.join(sorted(known))}."
        return f"{part}.{inner[0]}", f"{part} has no setting {inner[0]!r}.{offer}"
    if not inner and part == "engine":
        return part, f"engine: {reason}"
    where = ".".join([part, *(name for name in inner if (part, name) != ("engine", "name"))])
    return where, f"{where} = {given!r}: {reason}"
