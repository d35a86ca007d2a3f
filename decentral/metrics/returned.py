"""What metrics declare, and what they return: checked here before anything uses it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch

from decentral.plugins import describe, find_members, wrong
from decentral.records import VALIDATION, Record, is_own
from decentral.registry import KINDS, ConfiguredPlugin, build
from decentral.traits import MetricTraits, traits_of

_VALIDATION = {record.key for record in VALIDATION}


def declared_records(metrics: Iterable[str | ConfiguredPlugin]) -> tuple[Record, ...]:
    """Return the records that metrics declare, in the order of the metrics."""
    found = [traits_of(build("metric", metric), MetricTraits) for metric in metrics]
    return tuple(one for traits in found for one in traits.records)


def built_in_records() -> tuple[Record, ...]:
    """Return the records of all metrics that come with decentral, for runs that
    hold none.
    """
    return declared_records(find_members(KINDS["metric"], "metric"))


def check_values(
    metric: ConfiguredPlugin, returned: object, known: Mapping[str, Any]
) -> dict[str, float]:
    """Return what a metric returned as keys and numbers.

    A number that overflowed is kept as NaN: it is no measurement, and no mistake
    either.

    Args:
        metric: The metric.
        returned: Whatever it returned.
        known: What other metrics have returned at this step.

    Raises:
        ConfigError: It is no mapping of text to single numbers, or a key is taken.
    """
    if not isinstance(returned, Mapping):
        example = f'{{"{metric.name}/mean": 0.5}}'
        raise wrong(metric, describe(returned), f"keys and numbers, such as {example}")
    found: dict[str, float] = {}
    for key, value in cast("Mapping[object, object]", returned).items():
        if not isinstance(key, str) or not key.strip("/ "):
            raise wrong(metric, f"the key {key!r}", "keys that are text")
        own = is_own(key) or key in _VALIDATION
        if own or key in known:
            by = "the run itself" if own else "another metric"
            raise wrong(metric, f"{key!r}, a key of {by}", "it by another name")
        found[key] = _number(metric, key, value)
    return found


def _number(metric: ConfiguredPlugin, key: str, value: object) -> float:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and value.shape == ():
        value = value.item()
    if not isinstance(value, int | float):
        raise wrong(metric, f"{describe(value)} for {key!r}", "one number for a key")
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan
