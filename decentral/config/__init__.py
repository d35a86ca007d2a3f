"""A run's configuration: defaults, then the task's, then a file's, then flags; each key once."""

from decentral.config.making import make_config
from decentral.config.reading import (
    as_mapping,
    by_name,
    layered,
    parse_assignments,
    read_file,
    read_settings,
)
from decentral.config.settings import ALIASES, NUMBERS, PARTS, Config

__all__ = [
    "ALIASES",
    "NUMBERS",
    "PARTS",
    "Config",
    "as_mapping",
    "by_name",
    "layered",
    "make_config",
    "parse_assignments",
    "read_file",
    "read_settings",
]
