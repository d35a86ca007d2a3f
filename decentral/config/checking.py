"""Everything that is wrong with a configuration file, each with its line; nothing
runs.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentral.config.engine import Engine
from decentral.config.layers import (
    as_mapping,
    merge_layers,
    read_file,
    refuse_both,
    refuse_unknown,
    resolve_aliases,
)
from decentral.config.reading import make_config, recommendations
from decentral.config.settings import NESTED, PARTS, Config, plain_faults
from decentral.errors import ConfigError
from decentral.plugins import find_members
from decentral.registry import KINDS, ConfiguredPlugin, bind, build, find, read
from decentral.signature import validate
from decentral.spec import Spec
from decentral.trust import NOTHING, Trust, approve
from decentral.yamltext import line_of, load_file

_LINE = re.compile(r"configuration .*?, line (\d+)(?:, column \d+)?: ")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: the setting and its line, 0 where it is of no single
    line.
    """

    setting: str
    line: int
    text: str


def read_settings(
    path: str | Path, *others: str, trust: Trust = NOTHING
) -> dict[str, Any]:
    """Read a file of settings that exist, and of ``others``.

    Args:
        path: The file.
        others: Keys beside those of a run.
        trust: What code the user allows it to name.

    Raises:
        ConfigError: A mistake, named by its line; or code of somebody else's.
    """
    settings = read_file(path)
    for key, value in settings.items():
        part = key.partition(".")[0]
        if part in others:
            continue
        try:
            refuse_unknown(part, value, settings)
        except ConfigError as error:
            where = f"configuration {path}, line {line_of(path, key)}"
            raise ConfigError(f"{where}: {error}") from error
    refuse_doubled(settings)
    return approve(settings, path, trust)


def refuse_doubled(layer: Mapping[str, Any]) -> None:
    """Raise ConfigError where one layer says a setting of a plug-in twice: with it,
    and by its key, however deep the setting stands.
    """
    for key, value in layer.items():
        part, *names = key.split(".")
        if part not in PARTS:
            continue
        for depth in range(len(names)):
            above, inner = ".".join([part, *names[:depth]]), names[depth:]
            if above not in layer:
                continue
            whole = layer[above] if depth else _stated(part, layer[part])
            found = _look_up(whole, inner)
            if found is not _UNSAID:
                refuse_both(f"{'.'.join(inner)} of {above}", found, key, value)


_UNSAID = object()


def _stated(part: str, whole: Any) -> Mapping[str, Any]:
    """Return what is written of a plug-in; what cannot be read is said where it
    is.
    """
    if isinstance(whole, Mapping) and not {"name", "path"} & whole.keys():
        return whole
    if not isinstance(whole, bool) and isinstance(
        whole, int | float | str | Mapping | Spec
    ):
        with suppress(ConfigError):
            return as_mapping(part, whole)
    return {}  # nothing, or an object of Python's


def _look_up(whole: Any, names: Sequence[str]) -> Any:
    """Return what a mapping or a plug-in says of a setting within it."""
    for name in names:
        within = whole.settings if isinstance(whole, Spec) else whole
        if not isinstance(within, Mapping) or name not in within:
            return _UNSAID
        whole = within[name]
    return whole


def file_faults(path: str | Path, *others: str, trust: Trust = NOTHING) -> list[Fault]:
    """Return everything that is wrong with a file of settings, in the order of its
    lines.

    What combinations of settings cannot be is said where nothing else is wrong.
    Code that may not run hides the rest, since settings are judged by it.

    Args:
        path: The file.
        others: Keys beside those of a run, which are not looked at.
        trust: What code the user allows it to name.
    """
    try:
        whole = approve(read_file(path), path, trust)
    except ConfigError as error:
        found = _LINE.match(str(error))
        text = str(error)[found.end() :] if found else str(error)
        return [Fault("", int(found[1]) if found else 0, text)]
    lines = {
        name: key
        for key in map(str, load_file(path))
        for name in resolve_aliases({key: None})
    }
    own = {
        key: value for key, value in whole.items() if key.partition(".")[0] not in others
    }
    faults = list(_faults(own)) or _find_conflict(own)
    placed = [Fault(key, _line(path, key, lines), text) for key, text in faults]
    return sorted(dict.fromkeys(placed), key=lambda one: one.line)


def _line(path: str | Path, setting: str, written: Mapping[str, str]) -> int:
    """Return the line of a setting, also where the file has it by a short name.

    Args:
        path: The file.
        setting: A key of a configuration, perhaps with what is inside of it.
        written: What the file calls each of its keys.
    """
    for name, key in written.items():
        if setting == name or setting.startswith(f"{name}."):
            return line_of(path, key + setting.removeprefix(name))
    for (
        name,
        key,
    ) in written.items():  # a key such as optimizer.lr, of a part that is wrong
        if name.startswith(f"{setting}."):
            return line_of(path, key)
    return 0


def _faults(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with single settings: the setting, and what is said."""
    # What is recommended lies below what is written, which may change parts of it.
    suited = _suited(settings)
    known: dict[str, Any] = {}
    for key, value in settings.items():
        try:
            refuse_unknown(key.partition(".")[0], value, settings)
            # One key at a time, on those that are right: a mistake is charged to
            # it.
            merge_layers(*suited, known, {key: value})
        except ConfigError as error:
            yield key, str(error)
        else:
            known[key] = value
    written = {key.partition(".")[0] for key in known}
    asked = {k: v for k, v in merge_layers(*suited, known).items() if k in written}
    parts = {key: asked.pop(key) for key in PARTS if key in asked}
    for key, value in parts.items():
        yield from _part_faults(key, value)
    yield from plain_faults(asked)
    struck = asked.get("faults") or ()
    for one in [struck] if isinstance(struck, str) else struck:
        yield from (("faults", text) for _, text in _plugin_faults("fault", one))


def _suited(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what the task and the algorithm recommend, where these can be read."""
    found: list[Mapping[str, Any]] = []
    for kind in ("task", "algorithm"):
        with suppress(ConfigError):  # which is said where the part is looked at
            part = settings.get(kind, Config.model_fields[kind].default)
            found.append(recommendations(kind, part))
    return found


def _part_faults(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if value in (None, "auto", Config.model_fields[key].default):
        return
    for setting, text in _plugin_faults(PARTS[key], value):
        yield f"{key}.{setting}" if setting else key, text


def _plugin_faults(kind: str, value: Any) -> list[tuple[str, str]]:
    """Return everything that is wrong with a plug-in as written: the setting, and
    what is said.

    The setting is empty where it is not a single one that is wrong.
    """
    try:
        written = as_mapping(kind, value)
        found = find(kind, written["name"])
    except ConfigError as error:  # it cannot be read, or nobody has that name
        return [("", str(error))]
    try:
        build(kind, written)
        return []
    except ConfigError as error:
        whole = [("", str(error))]
    single: list[tuple[str, str]] = []
    for key, one in written.items():
        try:
            if key not in found.accepts and key != "name":
                bind(found, {key: one})
            elif key != "name":
                validate(f"{kind} {found.name!r}", key, found.accepts[key], one)
        except ConfigError as error:
            single.append((key, str(error)))
    # No single setting is wrong: one is missing, or some do not go together.
    return single or whole


def _find_conflict(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    try:
        refuse_doubled(settings)
        make_config(settings)
    except ConfigError as error:
        return [("", str(error))]
    return []


@contextmanager
def name_line(
    path: str | Path, own: Mapping[str, Any], trust: Trust = NOTHING
) -> Generator[None]:
    """Say of a mistake in settings of a file in which line it stands.

    Args:
        path: The file.
        own: What else was given, which wins over it.
        trust: What code the user allows the file to name.
    """
    try:
        yield
    except ConfigError as error:
        above = {key.partition(".")[0] for key in own}
        for fault in file_faults(path, trust=trust):
            if fault.line and fault.setting.partition(".")[0] not in above:
                where = f"configuration {path}, line {fault.line}"
                raise ConfigError(f"{where}: {fault.text}") from error
        raise


def foreign_parts(config: Config) -> dict[str, str]:
    """Return the parts of a run that no built-in plug-ins are, by kind: what they
    are called.

    >>> from decentral.config import make_config
    >>> foreign_parts(make_config({"topology": "ring", "optimizer": "torch.optim.RAdam"}))
    {'optimizer': 'torch.optim.RAdam'}
    """
    named = {kind: _name(kind, getattr(config, kind, None)) for kind in PARTS}
    return {kind: name for kind, name in named.items() if name}


def _name(kind: str, part: Any) -> str:
    """Return the name of a part that is not built in; else an empty text."""
    if isinstance(part, ConfiguredPlugin):
        part = part.plugin.origin or part.name
    if isinstance(part, Mapping) and callable(part.get("name")):
        part = part["name"]
    if isinstance(part, str | Mapping | Spec):
        name = read(kind, part).name
        foreign = "." in name and name not in find_members(KINDS[kind], kind)
        return name.rpartition(":")[2] if foreign else ""
    return str(getattr(part, "__name__", type(part).__name__)) if part is not None else ""


def documentation() -> Iterator[tuple[str, Any, str]]:
    """Yield every setting as ``key`` or ``key.setting``, its default, and what it
    means.

    The default of a setting that must be given, where its method is on, is ``...``.
    """
    for key, field in Config.model_fields.items():
        default = (
            field.default.name if isinstance(field.default, Engine) else field.default
        )
        yield key, default, field.description or ""
        for inner, setting in NESTED[key].model_fields.items() if key in NESTED else ():
            if (key, inner) != ("engine", "name"):
                default = ... if setting.is_required() else setting.default
                yield f"{key}.{inner}", default, setting.description or ""
