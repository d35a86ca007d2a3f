"""Parts of a run that were objects of Python: which of them must be given again, and
which may.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from decentral.config import LISTS, PARTS, make_config
from decentral.errors import ConfigError
from decentral.loop.setup import write_in_list
from decentral.registry import PYTHON, build
from decentral.spec import spell
from decentral.tasks.base import Task
from decentral.yamltext import dump, load


def refuse_kept(
    path: str | Path,
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    changeable: Collection[str] = (),
) -> None:
    """Refuse parts that were given for a run whose folder keeps others.

    Args:
        path: The run folder.
        stored: Its settings.
        given: Parts by setting.
        changeable: What may change, by name, where the run is trained on.
    """
    for key in sorted(given):
        there = stored.get(key)
        if from_python(there) or _is_kept(key, given[key], there):
            continue
        remedy = f"leave {key}=... out."
        if key in changeable:
            remedy = (
                f"to go on with another, name it as a change: change={{{key!r}: ...}} "
                f"(--change {key}=...)."
            )
        raise ConfigError(f"run {path} keeps its {key} ({spell(there)}); {remedy}")


def _is_kept(key: str, given: Any, there: Any) -> bool:
    """Tell whether a part that is given is the one that a folder keeps."""
    if key in LISTS:
        named = getattr(make_config({key: given}), key)
        return [write_in_list(one) for one in named] == there
    if isinstance(given, Task):
        return False
    made = build(PARTS[key], given)
    return made.reloadable and load(dump(made.spec())) == there


#: What neither models nor data are made of: whoever only reads a run needs none of
#: them again that was given from Python.
_UNREAD = ("communication", "learning_rate", *LISTS)


def leave_unread(
    settings: Mapping[str, Any], objects: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what stands for parts from Python that a reader has not given again and
    does not need: of lists what else is in them, else the default.
    """
    return {
        key: [one for one in settings[key] if one != PYTHON] if key in LISTS else None
        for key in _UNREAD
        if objects.get(key) is None and from_python(settings.get(key))
    }


def from_python(value: Any) -> bool:
    """Whether a setting, or one of a list, was an object that no file holds."""
    return value == PYTHON or (isinstance(value, list) and PYTHON in value)
