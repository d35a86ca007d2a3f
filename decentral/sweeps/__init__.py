"""Sweeps: the same run over values of some settings and over seeds, each point
once.

A point is a configuration. Its folder is named by a digest of everything in it that
can change its result, every default written out, so that a point is never run
twice: not within a sweep, where two spellings mean the same, nor when the sweep is
called again.
"""

from decentral.sweeps.points import Point, Sweep, read_sweep
from decentral.sweeps.running import (
    Outcome,
    csv_text,
    group_points,
    read_measured,
    run_point,
    run_points,
    write_results,
)
from decentral.sweeps.swept import SweepResults, sweep

__all__ = [
    "Outcome",
    "Point",
    "Sweep",
    "SweepResults",
    "csv_text",
    "group_points",
    "read_measured",
    "read_sweep",
    "run_point",
    "run_points",
    "sweep",
    "write_results",
]
