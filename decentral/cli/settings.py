"""From the words and flags of a command to a configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from decentral.config import (
    PARTS,
    Config,
    make_config,
    merge_layers,
    name_line,
    parse_assignments,
    read_file,
    read_settings,
    refuse_doubled,
    resolve_aliases,
)
from decentral.errors import ConfigError
from decentral.limits import check_threads
from decentral.registry import build
from decentral.run.digests import find_moved
from decentral.spec import names_file, spell
from decentral.trust import Given, Trust


def config_of(
    words: Sequence[str], flags: Mapping[str, str], trust: Given = False
) -> Config:
    """Build the configuration: a YAML file, and above it one layer of overrides and
    flags.

    Args:
        words: The file, and ``key=value``.
        flags: Options by the setting they stand for.
        trust: Digests of code that the file may name.
    """
    path, layers, allowed = _layers(words, flags, trust)
    with _by_line(path, layers[-1], allowed):
        return make_config(*layers)


def config_to_launch(
    words: Sequence[str], flags: Mapping[str, str], trust: Given = False
) -> Config:
    """Build the configuration of a run that begins on this machine, or is driven
    from it.

    Args:
        words: The file, and ``key=value``.
        flags: Options by the setting they stand for.
        trust: Digests of code that the file may name.
    """
    path, layers, allowed = _layers(words, flags, trust)
    asked = merge_layers(*layers)
    engine = asked.get("engine")
    # A cluster's hosts have other cores. Plug-ins, which load torch, come later
    # than this.
    if not (isinstance(engine, Mapping) and engine.get("address")):
        check_threads(asked.get("threads", "auto"))
    with _by_line(path, layers[-1], allowed):
        config = make_config(*layers)
        for key in layers[0] if path else ():
            if key in PARTS and layers[0][key] not in (None, "auto"):
                build(PARTS[key], getattr(config, key))
    return config


def _by_line(
    path: str | None, given: Mapping[str, Any], trust: Trust
) -> AbstractContextManager[None]:
    """Say of a mistake in a file in which line it stands.

    Args:
        path: The file, if there is one.
        given: What else was given, which wins over it.
        trust: What code the user allows it to name.
    """
    return name_line(path, given, trust) if path else nullcontext()


def _layers(
    words: Sequence[str], flags: Mapping[str, str], trust: Given
) -> tuple[str | None, list[dict[str, Any]], Trust]:
    """Return the path of the configuration, its settings below those that were given,
    and what code it may name.

    Args:
        words: The file, and ``key=value``.
        flags: Options by the setting they stand for.
        trust: Digests of code that the file may name.
    """
    path, assignments = sort_words(words)
    # Not by the path of the file, which may be somebody else's.
    allowed = Trust.of(trust, assignments, list(flags.values()))
    if path and os.path.basename(path) == "config.yaml":
        find_moved(Path(path).parent, read_file(path))  # of a run that has moved
    layers = [read_settings(path, trust=allowed)] if path else []
    return path, [*layers, read_words(assignments, flags)], allowed


def read_words(assignments: Sequence[str], flags: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of ``key=value`` words and flags, by their names in a
    configuration.
    """
    overrides = resolve_aliases(parse_assignments(assignments))
    flagged: dict[str, Any] = resolve_aliases(
        parse_assignments(
            [f"{key}={value}" for key, value in flags.items() if key != "out"]
        )
    )
    if "out" in flags:
        flagged["out"] = flags["out"]
    refuse_flags_given(flagged, overrides)
    refuse_doubled(found := {**overrides, **flagged})
    return found


def refuse_flags_given(flagged: Mapping[str, Any], keyed: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting that is given by a flag and as ``key=value``."""
    if twice := sorted(flagged.keys() & keyed.keys()):
        values = [given[twice[0]] for given in (flagged, keyed)]
        one, other = (v if isinstance(v, str) else spell(v) for v in values)
        raise ConfigError(
            f"{twice[0]} is given twice, by a flag as {one} and by key=value as {other}; "
            "keep one."
        )


def read_changes(words: Sequence[str]) -> dict[str, Any]:
    """Return what a run is to have otherwise: settings by name, True for files and
    other names.
    """
    named = [word for word in words if "=" not in word or names_file(word)]
    return dict.fromkeys(named, True) | parse_assignments(
        [w for w in words if w not in named]
    )


def sort_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the configuration file from the ``key=value`` words."""
    assignments = [word for word in words if "=" in word and not os.path.isfile(word)]
    files = [word for word in words if word not in assignments]
    if len(files) > 1:
        raise ConfigError(
            f"{files[0]} and {files[1]}: a run has one configuration file; "
            "write other settings as key=value."
        )
    return (files[0] if files else None), assignments
