"""The library's door: launch a run, resume it, look at it, compare it with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.api.changing import CHANGEABLE, run_config
    from decentral.api.launching import (
        begin,
        begin_run,
        launch,
        restart,
        resume,
        start,
        start_or_resume,
    )
    from decentral.api.results import analyze, compare, export, list_plugins, merge
    from decentral.api.run import Progress, Run, models_of

_HOMES = {
    "changing": ["CHANGEABLE", "run_config"],
    "launching": [
        "begin",
        "begin_run",
        "launch",
        "restart",
        "resume",
        "start",
        "start_or_resume",
    ],
    "results": ["analyze", "compare", "export", "list_plugins", "merge"],
    "run": ["Progress", "Run", "models_of"],
}

__all__ = [
    "CHANGEABLE",
    "Progress",
    "Run",
    "analyze",
    "begin",
    "begin_run",
    "compare",
    "export",
    "launch",
    "list_plugins",
    "merge",
    "models_of",
    "restart",
    "resume",
    "run_config",
    "start",
    "start_or_resume",
]

#: Lazily: the display of a run, which the command line shares, needs none of them.
__getattr__ = lazy_names(__name__, _HOMES)
