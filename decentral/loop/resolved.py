"""A run before it begins, every default written out: its configuration, and what is on when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decentral.config import PARTS
from decentral.loop.methods import noise_kind
from decentral.loop.setup import Setup
from decentral.registry import PYTHON, ConfiguredPlugin
from decentral.schedules.phases import METHODS, Timed, Track, phase_tracks, sample_steps
from decentral.tasks.base import Task


def _resolve(bound: ConfiguredPlugin) -> Any:
    return bound.spec() if bound.reloadable else PYTHON


def _name_of(bound: ConfiguredPlugin) -> str:
    """Return how a function that was given from Python is called in a list."""
    return bound.name if bound.reloadable else PYTHON


def resolve_config(setup: Setup, **decided: Any) -> dict[str, Any]:
    """Return the configuration with every default written out and every ``auto`` decided."""
    settings = setup.config.model_dump()
    for kind in PARTS:
        bound = setup.parts.get(kind)
        settings[kind] = _resolve(bound) if bound else None
    if isinstance(setup.config.task, Task):
        settings["task"] = PYTHON
    if "model" not in setup.parts and setup.task.model is None:
        settings["model"] = PYTHON
    if setup.planner is not None and "weights" not in setup.parts:
        settings["weights"] = "auto"
    if setup.config.label_noise is not None:
        settings["label_noise"]["kind"] = noise_kind(setup.config.label_noise, setup.task)
    for key in ("metrics", "faults", "track"):
        named = getattr(setup.config, key)
        settings[key] = [
            _name_of(one) if isinstance(one, ConfiguredPlugin) else one for one in named
        ]
    settings["device"] = str(setup.device)
    return {**settings, **decided}


# --- what is on when ------------------------------------------------------------------------------


def tracks(setup: Setup) -> list[Track]:
    """Return the learning rate, the batch size, and what is on in phases, over a run."""
    config = setup.config
    methods: dict[str, Timed | None] = {key: getattr(config, key) for key in METHODS}
    if config.label_noise is not None:
        decided = {"kind": noise_kind(config.label_noise, setup.task)}
        methods["label_noise"] = config.label_noise.model_copy(update=decided)
    steps = sample_steps(config.steps)
    sizes = [setup.timeline.size(step) for step in steps]
    whole = sizes[:-1] if config.data else sizes  # the last batch is what a budget leaves
    points = [setup.timeline.progress(step) for step in steps]
    rates = [setup.rate(here) for here in points]
    return [
        Track("learning rate", _scale(rates), f"{_range(rates)}, {setup.learning_rate.rule.name}"),
        Track("batch size", _scale(sizes), f"{_range(whole or sizes)}, {setup.batch.name}"),
        *phase_tracks(methods, points),
    ]


def _scale(values: Sequence[float]) -> tuple[float, ...]:
    most = max(values)
    return tuple(value / most for value in values)


def _range(values: Sequence[float]) -> str:
    """Write the first, the largest and the last of a schedule's values, where they differ."""
    most = max(values)
    shown = (0.0 if value < most / 1000 else value for value in (values[0], most, values[-1]))
    first, top, last = (f"{value:.3g}" for value in shown)
    if first == top == last:
        return first
    return " to ".join([first, last] if top in (first, last) else [first, top, last])
