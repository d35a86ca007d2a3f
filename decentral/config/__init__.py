"""A run's configuration: defaults, then the task's, then a file's, then flags; each
key once.
"""

from decentral.config.checking import (
    Fault,
    documentation,
    file_faults,
    foreign_parts,
    name_line,
    read_settings,
    refuse_doubled,
)
from decentral.config.engine import ENGINE_SETTINGS, Engine
from decentral.config.layers import (
    as_mapping,
    merge_layers,
    parse_assignments,
    read_file,
    refuse_unknown,
    resolve_aliases,
    split_assignments,
)
from decentral.config.reading import make_config
from decentral.config.settings import ALIASES, LISTS, NESTED, NUMBERS, PARTS, Config

__all__ = [
    "ALIASES",
    "ENGINE_SETTINGS",
    "LISTS",
    "NESTED",
    "NUMBERS",
    "PARTS",
    "Config",
    "Engine",
    "Fault",
    "as_mapping",
    "documentation",
    "file_faults",
    "foreign_parts",
    "make_config",
    "merge_layers",
    "name_line",
    "parse_assignments",
    "read_file",
    "read_settings",
    "refuse_doubled",
    "refuse_unknown",
    "resolve_aliases",
    "split_assignments",
]
