"""The library's door: launch a run, resume it, look at it, compare it with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.api.changing import CHANGEABLE, run_config
    from decentral.api.launching import launch, resume
    from decentral.api.results import analyze, compare, export, list_plugins, merge
    from decentral.api.run import Progress, Run, models_of
    from decentral.api.starting import begin, begin_run, restart, start, start_or_resume

_HOMES = {
    "changing": ["CHANGEABLE", "run_config"],
    "launching": ["launch", "resume"],
    "results": ["analyze", "compare", "export", "list_plugins", "merge"],
    "run": ["Progress", "Run", "models_of"],
    "starting": ["begin", "begin_run", "restart", "start", "start_or_resume"],
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
