"""How long a run is: by its steps, or by a budget of data that the batch schedule uses up."""

from __future__ import annotations

import torch

from decentral.config import Config
from decentral.errors import ConfigError
from decentral.loop.free_memory import free_bytes
from decentral.registry import ConfiguredPlugin
from decentral.schedules.progress import Progress, StepTimeline, step_timeline
from decentral.tasks.base import Task
from decentral.tasks.filling import is_whole
from decentral.units import format_bytes, parse_amount

#: Samples per node of one forward pass, unless the first batch is larger: memory does not grow with
#: the batch.
MICRO_BATCH = 256

#: Bytes that a step takes in the list of all: a place, and a whole number of Python.
STEP_BYTES = 40


def resolve_steps(
    config: Config, task: Task, batch: ConfiguredPlugin
) -> tuple[Config, StepTimeline]:
    """Return the timeline of a run, and its configuration with steps and micro-batch decided.

    ``micro_batch: auto`` is the whole batch, unless the schedule grows beyond ``MICRO_BATCH``.

    Args:
        config: The configuration.
        task: The task.
        batch: The batch schedule.
    """
    budget = None if config.data is None else samples_per_node(config, task)
    # With a budget the steps follow from the batches: a schedule is not told their
    # number.
    first = int(batch(Progress(0, 0 if budget else config.steps, 0, budget)))
    if budget is not None and budget < first:
        raise ConfigError(
            f"data = {config.data}: that is {budget} per node, below the first batch of {first}; "
            f"give at least {first} samples/node, or a smaller batch."
        )
    if budget is None:
        _check_room(config.steps)
    timeline = step_timeline(batch, config.steps, budget, config.past)
    if "steps" in config.model_fields_set and budget is not None and config.steps != timeline.steps:
        raise ConfigError(
            f"steps = {config.steps}: data = {config.data} lasts for {timeline.steps} steps with "
            "this batch schedule; give steps or data, not both."
        )
    micro = config.micro_batch
    if micro == "auto":
        # Not below the first batch: a run of constant batches stays in one piece.
        most = max(first, MICRO_BATCH)
        micro = None if timeline.largest <= most else most
    return config.model_copy(update={"steps": timeline.steps, "micro_batch": micro}), timeline


def _check_room(steps: int) -> None:
    """Refuse more steps than memory has room for: the timeline holds a number for each."""
    free = free_bytes(torch.device("cpu"))
    if free is not None and steps * STEP_BYTES > free:
        raise ConfigError(
            f"steps = {steps:,}: their batch sizes, known before the first one, take about "
            f"{format_bytes(steps * STEP_BYTES)}, and {format_bytes(free)} are free; give fewer."
        )


def samples_per_node(config: Config, task: Task) -> int:
    """Turn a data budget into samples per node, rounded down."""
    amount = parse_amount(config.data)
    count = amount.count
    if amount.unit == "tokens":
        inputs = task.splits[0].inputs
        if not is_whole(inputs) or inputs.dim() != 2:
            raise ConfigError(
                f"data = {config.data}: the samples of this task are no sequences of tokens; "
                "give samples instead."
            )
        # A budget is counted in sequences from here on; all are of one length.
        count //= inputs.shape[1]
    return count if amount.per_node else count // config.nodes
