"""The library's door: launch a run, resume it, look at it."""

from decentral.api.launching import begun, launch, restart, resume, start
from decentral.api.run import WHEREABOUTS, Progress, Run, models_of, run_config

__all__ = [
    "WHEREABOUTS",
    "Progress",
    "Run",
    "begun",
    "launch",
    "models_of",
    "restart",
    "resume",
    "run_config",
    "start",
]
