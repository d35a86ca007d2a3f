"""Which names, and which files of the user's, a setting refers to, however it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError
from decentral.importing import sources
from decentral.spec import Spec, parse_spec
from decentral.userfile import is_graph_file, lies, resolved


def names_in(value: Any) -> Iterator[str]:
    """Yield every name of a plug-in that a value may hold, as the reader of plug-ins sees it.

    >>> list(names_in({"communication": "every(k=2, schedule=own.py:pulses(width=3))"}))
    ['every', 'own.py:pulses']
    """
    if isinstance(value, Spec):
        yield value.name
        yield from names_in([*value.args, *value.settings.values()])
    elif isinstance(value, Mapping):
        own = [value[key] for key in ("name", "path") if isinstance(value.get(key), str)]
        yield from own
        yield from names_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            yield from names_in(one)
    elif isinstance(value, str):
        try:
            found = parse_spec(value, "setting")
        except ConfigError:
            yield value
        else:
            yield from names_in(found)


def named_files(value: Any) -> set[str]:
    """Return the paths of the plug-in and graph files that a value names, and that are there.

    With a plug-in file come the files beside and below it that it may import.
    """
    found: set[str] = set()
    for name in names_in(value):
        plug_in = ".py:" in name
        path = name.rpartition(":")[0] if plug_in else name
        if not (plug_in or is_graph_file(path)) or not lies(path):
            continue
        file = Path(resolved(path))
        found |= {str(one) for one in (sources(file) if plug_in else [file])}
    return found
