"""The flags of the planner."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_LAW, _BOUNDS, _RUNS = "A task by its law", "What may be used", "A task by its runs"


def _flag(panel: str, metavar: str, help: str, *names: str) -> Any:
    """Declare one flag."""
    option: Any = typer.Option(
        *names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False
    )
    return option


Budget = Annotated[str, _flag(_BOUNDS, "AMOUNT", "Samples of all nodes: 1M, 2^20, 60k/node.")]
Least = Annotated[int | None, _flag(_BOUNDS, "N", "Smallest batch per node, else 1.", "--min")]
Most = Annotated[int | None, _flag(_BOUNDS, "N", "Largest batch per node, else any.", "--max")]
Nodes = Annotated[int | None, _flag(_BOUNDS, "N", "Nodes that share the data, else 1.")]
Source = Annotated[float | None, _flag(_LAW, "S", "Source s > 0; small for a hard task.")]
Capacity = Annotated[float | None, _flag(_LAW, "BETA", "Capacity beta > 1.")]
Noise = Annotated[float, _flag(_LAW, "X", "Variance of the noise of labels, else 1.")]
Rate = Annotated[float, _flag(_LAW, "X", "Learning rate, else 0.25; stable below 2.", "--lr")]
From = Annotated[
    list[str] | None, _flag(_RUNS, "RUN...", "Fit runs with constant batches first.", "--from")
]
Out = Annotated[str | None, _flag("What is shown", "FILE", "Write a configuration to train by.")]
