"""A user's own Python file, imported by path because it was named."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType

from decentral.errors import ConfigError


def load_file(path: str) -> ModuleType:
    """Import a user's Python file by path; what it raises is named as the user's own."""
    resolved = Path(path).expanduser().resolve()
    name = f"decentral_user_{resolved.stem}_{zlib.crc32(str(resolved).encode()):x}"
    if name in sys.modules:
        return sys.modules[name]
    if not resolved.is_file():
        raise ConfigError(f"plug-in file {path} does not exist; give the path of a .py file.")
    found = importlib.util.spec_from_file_location(name, resolved)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        what = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"plug-in file {path} cannot be imported: {what}{error}") from error
    return module
