"""Tasks: data, model, loss and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.tasks.base import HeldOut, Samples, Task, holdout, standardise

__all__ = ["HeldOut", "Samples", "Task", "holdout", "standardise"]

__getattr__ = lazy_names(__name__, {"base": __all__})
