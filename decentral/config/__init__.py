"""A run's configuration: defaults, then the task's, then a file's, then flags; each key once."""

from decentral.config.checking import Fault, file_faults, named_by_line
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
    "Fault",
    "as_mapping",
    "documented",
    "file_faults",
    "foreign_parts",
    "layered",
    "make_config",
    "named_by_line",
    "parse_assignments",
    "read_file",
    "read_settings",
    "refuse_unknown",
    "resolve_aliases",
]
