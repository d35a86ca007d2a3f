"""A run's configuration: defaults, then the task's, then a file's, then flags; each key once."""

from decentral.config.engine import ENGINE_SETTINGS, Engine
from decentral.config.foreign import foreign_parts
from decentral.config.making import make_config
from decentral.config.reading import (
    as_mapping,
    by_name,
    layered,
    parse_assignments,
    read_file,
    read_settings,
    refuse_unknown,
)
from decentral.config.settings import ALIASES, NESTED, NUMBERS, PARTS, Config, documented

__all__ = [
    "ALIASES",
    "ENGINE_SETTINGS",
    "NESTED",
    "NUMBERS",
    "PARTS",
    "Config",
    "Engine",
    "as_mapping",
    "by_name",
    "documented",
    "foreign_parts",
    "layered",
    "make_config",
    "parse_assignments",
    "read_file",
    "read_settings",
    "refuse_unknown",
]
