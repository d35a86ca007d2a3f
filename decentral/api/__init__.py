"""The library's door: launch a run, resume it, look at it, compare it with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.api.changing import CHANGEABLE, run_config
    from decentral.api.gossip import Gossip
    from decentral.api.launching import launch, resume
    from decentral.api.other_loops import lightning_callback, transformers_callback
    from decentral.api.results import analyze, compare, export, list_plugins, merge
    from decentral.api.run import Progress, Run, models_of
    from decentral.api.starting import begin, begin_run, restart, start, start_or_resume

_HOMES = {
    "changing": ["CHANGEABLE", "run_config"],
    "gossip": ["Gossip"],
    "launching": ["launch", "resume"],
    "other_loops": ["lightning_callback", "transformers_callback"],
    "results": ["analyze", "compare", "export", "list_plugins", "merge"],
    "run": ["Progress", "Run", "models_of"],
    "starting": ["begin", "begin_run", "restart", "start", "start_or_resume"],
}

__all__ = [
    "CHANGEABLE",
    "Gossip",
    "Progress",
    "Run",
    "analyze",
    "begin",
    "begin_run",
    "compare",
    "export",
    "launch",
    "lightning_callback",
    "list_plugins",
    "merge",
    "models_of",
    "restart",
    "resume",
    "run_config",
    "start",
    "start_or_resume",
    "transformers_callback",
]

#: Lazily: the display of a run, which the command line shares, needs none of them.
__getattr__ = lazy_names(__name__, _HOMES)
