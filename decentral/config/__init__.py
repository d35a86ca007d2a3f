"""A run's configuration: defaults, then the task's, then a file's, then flags; each key once."""

from decentral.config.reading import (
    as_mapping,
    foreign_parts,
    layered,
    make_config,
    parse_assignments,
    read_file,
    read_settings,
    refuse_unknown,
    resolve_aliases,
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
    "documented",
    "foreign_parts",
    "layered",
    "make_config",
    "parse_assignments",
    "read_file",
    "read_settings",
    "refuse_unknown",
    "resolve_aliases",
]
