"""The Ray engine: a driver that coordinates, and actors that each host a block of nodes.

Importing a module of this package sets nothing up; ``require`` comes before the first one that
imports Ray.
"""

from __future__ import annotations

from importlib.util import find_spec

from decentral.errors import ConfigError


def require() -> None:
    """Refuse to go on without Ray, in one line."""
    if find_spec("ray") is None:
        raise ConfigError(
            "engine ray needs Ray, which is not installed; "
            "pip install -c constraints.txt -e '.[ray]', or use engine local."
        )
