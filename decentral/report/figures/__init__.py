"""The drawings of a report. Nothing else in decentral imports matplotlib.

Every function that draws returns a figure, or ``None`` where the run lacks what it
would show.
"""

from decentral.report.figures import _backend as _backend  # before any other import of it
from decentral.report.figures.analysed import draw_analysis, layers, lines, plane
from decentral.report.figures.canvas import SMALL, TALL, WIDE, Figure, save_png, to_svg
from decentral.report.figures.compared import (
    claim_panel,
    common_score,
    draw_cost,
    draw_learning,
    draw_seconds,
    draw_sweep,
)
from decentral.report.figures.explored import boxes, explored
from decentral.report.figures.planned import (
    batches,
    network,
    phases,
    schedule,
    shards,
    strip,
)
from decentral.report.figures.run import (
    bytes_against_metric,
    communication,
    learning,
    overview,
    panel,
    panels_of,
    records_in,
    seconds_against_metric,
)

__all__ = [
    "SMALL",
    "TALL",
    "WIDE",
    "Figure",
    "batches",
    "boxes",
    "bytes_against_metric",
    "claim_panel",
    "common_score",
    "communication",
    "draw_analysis",
    "draw_cost",
    "draw_learning",
    "draw_seconds",
    "draw_sweep",
    "explored",
    "layers",
    "learning",
    "lines",
    "network",
    "overview",
    "panel",
    "panels_of",
    "phases",
    "plane",
    "records_in",
    "save_png",
    "schedule",
    "seconds_against_metric",
    "shards",
    "strip",
    "to_svg",
]
