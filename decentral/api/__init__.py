"""The library's door: launch a run, resume it, look at it."""

from decentral.api.changing import CHANGEABLE
from decentral.api.launching import (
    begin_run,
    launch,
    restart,
    resume,
    start,
    start_or_resume,
)
from decentral.api.run import Progress, Run, models_of, run_config
from decentral.run.digests import WHEREABOUTS

__all__ = [
    "CHANGEABLE",
    "WHEREABOUTS",
    "Progress",
    "Run",
    "begin_run",
    "launch",
    "models_of",
    "restart",
    "resume",
    "run_config",
    "start",
    "start_or_resume",
]
