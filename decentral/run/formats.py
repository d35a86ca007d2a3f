"""Run folders of this version, and of the one before: what is read, and as what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The format that is written. Later versions of it add keys; a reader ignores those it does not
#: know.
FORMAT = 3
#: Formats that are read; only a run of the present one can go on.
READ = (2, FORMAT)

#: What stood beside ``engine`` in format 2, and stands under it now.
_OF_ENGINE = (
    "workers", "address", "placement", "wire", "on_failure", "max_failures", "liveness_s",
    "progress_s", "dashboard_port",
)  # fmt: skip


def config_head(changed: bool = False) -> str:
    """Return the first line of a run folder's configuration; one may be ``changed`` on its way."""
    says = "`decentral launch` on this file repeats the run"
    if changed:
        says = "changed on its way, see events.jsonl; these are its settings at the end"
    return f"# decentral run, format {FORMAT}: {says}\n"


def format_of(config: Path) -> int | None:
    """Return the format that a run folder's configuration names in its first line."""
    with config.open("rb") as file:
        found = re.search(rb"\bformat (\d+):", file.readline())
    return int(found[1]) if found else None


def present(settings: Mapping[str, Any], format: int | None) -> dict[str, Any]:
    """Return the settings of a run folder as the present format has them."""
    if format != 2:
        return dict(settings)
    kept = {key: value for key, value in settings.items() if key not in _OF_ENGINE}
    engine = {"name": settings.get("engine", "auto")}
    if engine["name"] == "ray":
        engine |= {key: settings[key] for key in _OF_ENGINE if key in settings}
    return {key: engine if key == "engine" else value for key, value in kept.items()}
