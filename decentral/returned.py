"""What plug-ins return: how a wrong value is refused, the same for every kind.

Each kind checks in its own module, where a value enters; what stands here words the refusal.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

from decentral.errors import PACKAGE, ConfigError, Place
from decentral.registry import ConfiguredPlugin


def wrong(rule: ConfiguredPlugin, returned: str, expected: str) -> ConfigError:
    """Return the error for a value that a plug-in should not have returned.

    Args:
        rule: The plug-in.
        returned: What it returned, in words.
        expected: What to return instead, in words that follow "return".
    """
    place = place_of(rule)
    where = f" ({place})" if place else ""
    return ConfigError(
        f"{rule.plugin.kind} {rule.name!r} returned {returned}{where}; return {expected}."
    )


def label_of(rule: ConfiguredPlugin) -> str:
    """Return the kind and name of a plug-in, and where a user's is defined."""
    place = place_of(rule)
    return f"{rule.plugin.kind} {rule.name!r}" + (f" ({place})" if place else "")


def place_of(rule: ConfiguredPlugin) -> Place | None:
    """Return where a user's plug-in is defined; None for those of decentral."""
    target: Any = inspect.unwrap(rule.plugin.target)
    code = getattr(target, "__code__", None)
    place = Place(code.co_filename, code.co_firstlineno) if code else None
    if code is None:
        with suppress(OSError, TypeError):  # a class, whose source may be gone, or any callable
            file = inspect.getsourcefile(target)
            place = Place(file, inspect.getsourcelines(target)[1]) if file else None
    return None if place is None or place.file.startswith(PACKAGE) else place


def is_users(rule: ConfiguredPlugin) -> bool:
    """Whether a plug-in is none of decentral's, whose numbers the laws look at."""
    return not rule.plugin.target.__module__.startswith("decentral.")


def describe(value: Any) -> str:
    """Say what a value is, shortly; arrays and tensors by their shapes."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        kind = "a tensor" if type(value).__module__.startswith("torch") else "an array"
        return f"{kind} of shape {list(shape)}"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"
