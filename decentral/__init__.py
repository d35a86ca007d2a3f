"""Train one model on many machines that communicate little, and find out when
they should.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from decentral.limits import spin_briefly

if TYPE_CHECKING:
    from decentral.api import (
        Gossip,
        Run,
        analyze,
        compare,
        export,
        launch,
        lightning_callback,
        list_plugins,
        merge,
        resume,
        transformers_callback,
    )
    from decentral.errors import ConfigError, RunError
    from decentral.loop.callbacks import Callback, EarlyStopping
    from decentral.registry import plugin
    from decentral.schedules.action import GLOBAL_MERGE
    from decentral.sweeps import sweep
    from decentral.tasks.base import Task
    from decentral.units import Point

__version__ = "0.1.0"

_HOMES = {
    "Callback": "decentral.loop.callbacks",
    "ConfigError": "decentral.errors",
    "EarlyStopping": "decentral.loop.callbacks",
    "GLOBAL_MERGE": "decentral.schedules.action",
    "Gossip": "decentral.api",
    "Point": "decentral.units",
    "Run": "decentral.api",
    "RunError": "decentral.errors",
    "Task": "decentral.tasks",
    "analyze": "decentral.api",
    "compare": "decentral.api",
    "export": "decentral.api",
    "launch": "decentral.api",
    "lightning_callback": "decentral.api",
    "list_plugins": "decentral.api",
    "merge": "decentral.api",
    "plugin": "decentral.registry",
    "resume": "decentral.api",
    "sweep": "decentral.sweeps",
    "transformers_callback": "decentral.api",
}

__all__ = [
    "GLOBAL_MERGE",
    "Callback",
    "ConfigError",
    "EarlyStopping",
    "Gossip",
    "Point",
    "Run",
    "RunError",
    "Task",
    "__version__",
    "analyze",
    "compare",
    "export",
    "launch",
    "lightning_callback",
    "list_plugins",
    "merge",
    "plugin",
    "resume",
    "sweep",
    "transformers_callback",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import decentral``
    stays light.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'decentral' has no attribute {name!r}")
    spin_briefly()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
