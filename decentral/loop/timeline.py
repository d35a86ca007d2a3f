"""All that a run does when, communication apart, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from decentral.loop.methods import noise_kind
from decentral.loop.setup import Setup
from decentral.schedules.methods import METHODS, Timed
from decentral.schedules.timeline import Track, phase_tracks, sampled


def tracks(setup: Setup) -> list[Track]:
    """Return the learning rate, the batch size, and what is on in phases, over a run."""
    config = setup.config
    methods: dict[str, Timed | None] = {key: getattr(config, key) for key in METHODS}
    if config.label_noise is not None:
        decided = {"kind": noise_kind(config.label_noise, setup.task)}
        methods["label_noise"] = config.label_noise.model_copy(update=decided)
    steps = sampled(config.steps)
    sizes = [setup.pace.size(step) for step in steps]
    whole = sizes[:-1] if config.data else sizes  # the last batch is what a budget leaves
    points = [setup.pace.progress(step) for step in steps]
    rates = [setup.rate(here) for here in points]
    return [
        Track("learning rate", _scaled(rates), f"{_range(rates)}, {setup.learning_rate.rule.name}"),
        Track("batch size", _scaled(sizes), f"{_range(whole or sizes)}, {setup.batch.name}"),
        *phase_tracks(methods, points),
    ]


def _scaled(values: Sequence[float]) -> tuple[float, ...]:
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
