"""What metrics declare, and what they return: checked here before anything uses it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch

from decentral.discovery import find_members
from decentral.errors import ConfigError
from decentral.quantities import VALIDATION, is_own
from decentral.records import Record
from decentral.registry import KINDS, build
from decentral.traits import MetricTraits, traits_of

_VALIDATION = {record.key for record in VALIDATION}


def declared(metrics: Iterable[str]) -> tuple[Record, ...]:
    """Return the records that metrics declare, in the order of the metrics."""
    found = [traits_of(build("metric", metric), MetricTraits) for metric in metrics]
    return tuple(one for traits in found for one in traits.records)


def built_in() -> tuple[Record, ...]:
    """Return the records of all metrics that come with decentral, for runs that hold none."""
    return declared(find_members(KINDS["metric"], "metric"))


def checked(metric: str, returned: object, known: Mapping[str, Any]) -> dict[str, float]:
    """Return what a metric returned as keys and numbers.

    A number that overflowed is kept as NaN: it is no measurement, and no mistake either.

    Args:
        metric: Its name.
        returned: Whatever it returned.
        known: What other metrics have returned at this step.

    Raises:
        ConfigError: It is no mapping of text to single numbers, or a key is taken.
    """
    if not isinstance(returned, Mapping):
        raise ConfigError(
            f"metric {metric!r} returned {_shape(returned)}; "
            f'return keys and numbers, such as {{"{metric}/mean": 0.5}}.'
        )
    found: dict[str, float] = {}
    for key, value in cast("Mapping[object, object]", returned).items():
        if not isinstance(key, str) or not key.strip("/ "):
            raise ConfigError(f"metric {metric!r} returned the key {key!r}; a key is text.")
        own = is_own(key) or key in _VALIDATION
        if own or key in known:
            by = "the run itself" if own else "another metric"
            raise ConfigError(f"metric {metric!r} returned {key!r}, a key of {by}; rename it.")
        found[key] = _number(metric, key, value)
    return found


def _number(metric: str, key: str, value: object) -> float:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and value.shape == ():
        value = value.item()
    if not isinstance(value, int | float):
        raise ConfigError(
            f"metric {metric!r} returned {_shape(value)} for {key!r}; return one number for a key."
        )
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _shape(value: Any) -> str:
    """Say what a value is, shortly."""
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{kind} of shape {list(value.shape)}"
    if value is None:
        return "None"
    if isinstance(value, str | complex):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"
