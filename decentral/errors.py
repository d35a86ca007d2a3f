"""What decentral says when something is wrong: one clear line with a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 40


class ConfigError(ValueError):
    """A mistake in what the user asked for; the command line exits with status 2."""


class RunError(RuntimeError):
    """A run that had begun and failed; the command line exits with status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string.

    >>> nearest("rng", ["ring", "star"])
    " Did you mean 'ring'?"
    """
    spelled = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), list(spelled), n=1, cutoff=0.5)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that nobody registered, with the nearest one that exists."""
    names = sorted(known)
    offer = ", ".join(names) if len(names) <= _LISTED else f"{len(names)} names"
    return ConfigError(f"unknown {kind} {name!r}.{nearest(name, names)} Available: {offer}.")
