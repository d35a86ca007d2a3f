"""Where the files lie that a configuration names: relative to its own folder.

Plug-in and graph files, the configuration of a plan, and settings that are declared
as a ``Location``. What stands on the command line is relative to the current
folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, get_args

from decentral.config.settings import ALIASES, LISTS, PARTS, Config
from decentral.errors import ConfigError
from decentral.registry import Location, Plugin, find, read
from decentral.spec import Spec, is_graph_file, parse_spec, spell
from decentral.traits import BatchTraits, traits_of

#: Kinds whose settings may be locations.
_WITH_DATA = ("task", "model", "batch", "compute")


def place_files(settings: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """Return the settings of a configuration, with the paths of the files they
    name.

    Raises ConfigError for a path that is right from the current folder alone.

    Args:
        settings: As they are written, by their names in a configuration.
        file: The configuration.
    """
    folder = Path(file).expanduser().parent
    # A run folder keeps whole paths; those of an older version were meant from
    # where it was launched.
    if folder.resolve() == Path.cwd() or (folder / "env.json").exists():
        return dict(settings)
    places = _Places(Path(file), settings)
    return {key: places.setting(key, value) for key, value in settings.items()}


class _Places:
    """Looks for files from the folder of a configuration."""

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, settings

    def setting(self, key: str, value: Any) -> Any:
        """Return a setting with the paths of its files; or those of a sweep."""
        if key == "sweep" and isinstance(value, Mapping):
            axes = cast("Mapping[object, Any]", value).items()
            return {axis: self.axis(str(axis), values) for axis, values in axes}
        head, _, inner = key.partition(".")
        part = ALIASES.get(head, head)
        kind = PARTS.get(part) or LISTS.get(part)
        if kind is None:
            return value
        if inner:
            chosen = self.settings.get(part, Config.model_fields[part].default)
            return self.inside(_member(kind, chosen), inner, value)
        return self.value(value, kind)

    def axis(self, key: str, values: Any) -> Any:
        """Return the values of an axis of a sweep; text is several, read later."""
        if isinstance(values, Mapping):
            labelled = cast("Mapping[object, Any]", values).items()
            return {label: self.setting(key, value) for label, value in labelled}
        if isinstance(values, list):
            return [self.setting(key, value) for value in cast("list[Any]", values)]
        return values

    def value(self, value: Any, kind: str = "") -> Any:
        """Return what may be a plug-in, of a kind where that is known."""
        if isinstance(value, Mapping):
            member = _member(kind, value)
            named = cast("Mapping[Any, Any]", value).items()
            return {key: self.inside(member, key, inner) for key, inner in named}
        if isinstance(value, list):
            return [self.value(one, kind) for one in cast("list[Any]", value)]
        if isinstance(value, str | Spec):
            with suppress(_Unreadable):
                return self.text(value, kind)
        return value

    def text(self, value: str | Spec, kind: str) -> Any:
        """Return a plug-in in one line; one without files as it is."""
        written = _read(value, kind)
        member = _member(kind, written)
        by_place = [*(member.settings if member else ()), *written.args]
        args = tuple(
            self.inside(member, name, one)
            for name, one in zip(by_place, written.args, strict=False)
        )
        settings = {k: self.inside(member, k, v) for k, v in written.settings.items()}
        found = Spec(self.name(written.name), args, settings)
        if found == written:
            return value
        return spell(found) if args or settings else found.name

    def inside(self, member: Plugin | None, key: Any, value: Any) -> Any:
        """Return a setting of a plug-in: a file, or a plug-in again."""
        if isinstance(value, str) and member and _is_location(member, key):
            return self.path(value)
        return self.value(value)

    def name(self, text: str) -> str:
        """Return the name of a plug-in: of a file, with its path from here."""
        if ".py:" in text:
            path, _, function = text.rpartition(":")
            return f"{self.path(path)}:{function}"
        return self.path(text) if is_graph_file(text) else text

    def path(self, text: str) -> str:
        """Return a path from the current folder, of one from the configuration's."""
        path = os.path.expanduser(text.strip())
        if os.path.isabs(path) or "://" in path:
            return text
        beside = os.path.normpath(self.file.expanduser().parent / path)
        if os.path.exists(path) and not os.path.exists(beside):
            there = os.path.relpath(path, self.file.expanduser().parent)
            raise ConfigError(
                f"configuration {self.file} names {text}, which lies in the current folder and "
                f"not beside the file: its paths begin at its own folder, so write {there}."
            )
        return beside


class _Unreadable(Exception):
    """A text that is no plug-in; what is wrong with it is said where it is used."""


def _read(value: str | Spec, kind: str) -> Spec:
    try:
        return read(kind, value) if kind else parse_spec(value, "setting")
    except ConfigError as error:
        raise _Unreadable from error


def _member(kind: str, value: Any) -> Plugin | None:
    """Return the member that is written, where settings of it may be files."""
    if kind not in _WITH_DATA or not isinstance(value, str | Mapping | Spec):
        return None
    with suppress(ConfigError):  # said where it is used
        name = read(kind, value).name
        return None if ".py:" in name else find(kind, name)
    return None


def _is_location(member: Plugin, key: Any) -> bool:
    setting = member.accepts.get(key)
    if setting is None:
        return False
    if traits_of(member, BatchTraits).from_file if member.kind == "batch" else False:
        return True
    return Location in (setting.annotation, *get_args(setting.annotation))
