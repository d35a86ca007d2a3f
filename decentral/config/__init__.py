"""A run's configuration: defaults, then the task's, then a file's, then flags; each key once."""

from decentral.config.reading import (
    as_mapping,
    by_name,
    foreign_parts,
    layered,
    make_config,
    parse_assignments,
    read_file,
    read_settings,
    refuse_unknown,
)
from decentral.config.settings import (
    ALIASES,
    ENGINE_SETTINGS,
    NESTED,
    NUMBERS,
    PARTS,
    Config,
    Engine,
    documented,
)

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
