"""Which parts of a run its user has brought along, or takes from a library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decentral.config.settings import PARTS, Config
from decentral.discovery import find_members
from decentral.registry import KINDS, Bound, read
from decentral.spec import Spec


def foreign_parts(config: Config) -> dict[str, str]:
    """Return the parts of a run that no built-in plug-ins are, by kind: what they are called.

    >>> from decentral.config import make_config
    >>> foreign_parts(make_config({"topology": "ring", "optimizer": "torch.optim.RAdam"}))
    {'optimizer': 'torch.optim.RAdam'}
    """
    named = {kind: _name(kind, getattr(config, kind, None)) for kind in PARTS}
    return {kind: name for kind, name in named.items() if name}


def _name(kind: str, part: Any) -> str:
    """Return the name of a part that is not built in; else an empty text."""
    if isinstance(part, Bound):
        part = part.plugin.origin or part.name
    if isinstance(part, str | Mapping | Spec):
        name = read(kind, part).name
        foreign = "." in name and name not in find_members(KINDS[kind], kind)
        return name.rpartition(":")[2] if foreign else ""
    return str(getattr(part, "__name__", type(part).__name__)) if part is not None else ""
