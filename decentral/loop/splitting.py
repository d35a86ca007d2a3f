"""Which split a run takes: one that needs classes gives way where a task has none."""

from __future__ import annotations

from decentral.config import Config
from decentral.errors import ConfigError
from decentral.registry import Bound, build
from decentral.tasks.base import Task


def split_of(config: Config, task: Task) -> Bound:
    """Return the split as asked; by default iid, where a task lacks the classes it needs.

    Raises ConfigError where the user asked for a split that cannot be.
    """
    split = build("split", config.split)
    if not _lacks_classes(split, task):
        return split
    if "split" in config.model_fields_set:
        raise ConfigError(
            f"split {split.name!r} divides by classes, and this task's targets are none; use "
            "split=iid or split=quantity, or name a class of every sample by Task(labels=...)."
        )
    return build("split", "iid")


def split_notes(config: Config, task: Task) -> tuple[str, ...]:
    """Say where the default split gives way."""
    if task.owners is not None:
        return ()
    split = build("split", config.split)
    if not _lacks_classes(split, task):
        return ()
    return (f"the task has no classes: split iid, not {split.name}, which is the default.",)


def _lacks_classes(split: Bound, task: Task) -> bool:
    return task.labels is None and bool(split.plugin.traits.get("needs_classes"))
